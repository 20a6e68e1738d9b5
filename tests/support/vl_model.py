"""A tiny Qwen3-VL reranker of the real architecture, with seeded random weights."""

from __future__ import annotations

from pathlib import Path

from tests.support.text_model import train_tokenizer

VISION_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def build_vl_model(folder: Path) -> Path:
    """Save a model with two vision taps, an untied head and interleaved axes."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig
    from transformers import Qwen3VLForConditionalGeneration as Model

    tokenizer = train_tokenizer("qwen")
    tokenizer.add_special_tokens(VISION_TOKENS)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>")
    start, end, image, video = fast.convert_tokens_to_ids(VISION_TOKENS)
    torch.manual_seed(3)
    torch.set_num_threads(1)  # this model is too small to gain from more
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(fast), "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "rope_parameters": {
                "rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": 64, "deepstack_visual_indexes": [0, 2],
            "num_position_embeddings": 36,
        },
        image_token_id=image, video_token_id=video,
        vision_start_token_id=start, vision_end_token_id=end,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = Model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                parameter.uniform_(-0.2, 0.2)
            else:
                parameter.mul_(8 if "embed" in name or "lm_head" in name else 3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
