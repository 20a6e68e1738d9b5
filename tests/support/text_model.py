"""Tiny Qwen3 rerankers with seeded random weights, and the ids of the model card's procedure."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.workers.prompting.prompts import SYSTEM_TURN
from rerankfleet.workers.prompting.text import SUFFIX

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(kind: str) -> Tokenizer:
    """A byte-level BPE with Qwen's control tokens; "qwen" or "gpt2" pre-tokenisation."""
    tokenizer = Tokenizer(models.BPE())
    if kind == "qwen":
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = [topics[name] for name in sorted(topics)[:12]]
    tokenizer.train_from_iterator([*text, *["yes no"] * 500], trainer)
    tokenizer.add_special_tokens(CONTROL)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def build_model(tokenizer: Path, folder: Path, *, tied: bool = True, seed: int = 0, **shape: int):
    """A seeded random Qwen3 reranker, with weights large enough that margins differ."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(1)  # these models are too small to gain from more
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer / "tokenizer.json"),
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
    )
    fast.chat_template = chat_template()
    options = {"layers": 2, "hidden": 64, "intermediate": 96, "heads": 4, "kv": 2, "dim": 16}
    options |= shape
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(fast),
            hidden_size=options["hidden"],
            intermediate_size=options["intermediate"],
            num_hidden_layers=options["layers"],
            num_attention_heads=options["heads"],
            num_key_value_heads=options["kv"],
            head_dim=options["dim"],
            max_position_embeddings=40960,
            rope_theta=1e6,
            tie_word_embeddings=tied,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "embed" in name or "lm_head" in name:
                parameter.mul_(8)
            else:
                parameter.mul_(3)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def chat_template() -> str:
    """The template with which sentence-transformers builds the same prompt."""
    pick = "{%- if m['role'] == 'ROLE' -%}{%- set ns.ROLE = m['content'] -%}{%- endif -%}"
    text = "{{ ns.ROLE if ns.ROLE is string else ns.ROLE[0]['text'] }}"
    return (
        "{%- set ns = namespace(query='', document='') -%}{%- for m in messages -%}"
        + pick.replace("ROLE", "query")
        + pick.replace("ROLE", "document")
        + "{%- endfor -%}"
        + f"{SYSTEM_TURN}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: "
        + text.replace("ROLE", "query")
        + "\n<Document>: "
        + text.replace("ROLE", "document")
        + SUFFIX
        + "{{ '' }}"
    )


def plain_tokenizer(folder: Path) -> Tokenizer:
    """The tokeniser of a folder without its added tokens."""
    full = json.loads((folder / "tokenizer.json").read_text())
    return Tokenizer.from_str(json.dumps(full | {"added_tokens": []}))


def reference_ids(
    folder: Path, query: str, document: str, *, instruction=DEFAULT_INSTRUCTION, max_length=8192
) -> list[int]:
    """A pair's ids by the model card: one body, tokenised as a whole, truncated on the right."""
    full = Tokenizer.from_file(str(folder / "tokenizer.json"))
    head, tail = (full.encode(x, add_special_tokens=False).ids for x in (SYSTEM_TURN, SUFFIX))
    body = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    ids = plain_tokenizer(folder).encode(body, add_special_tokens=False).ids
    return head + ids[: max_length - len(head) - len(tail)] + tail
