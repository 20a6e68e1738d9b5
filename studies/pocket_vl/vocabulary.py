"""A byte-level BPE vocabulary with Qwen's pre-tokenisation and control tokens, for captions.

Its merges come from captions, the template, and the language reference that ships with Python, so
that other English is a few pieces a word and not single letters.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from studies.pocket_vl.captions import TOPICS, claim_about, describe, note, phrase, random_plan
from studies.pocket_vl.drawing import lay_out
from studies.pocket_vl.prompt import (
    DEFAULT_INSTRUCTION,
    IMAGE_PAD,
    PREFIX,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)

TOKENS = 2048
# Contractions, words with one leading non-letter, single digits, punctuation runs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD),
)
# As in Qwen3's vocabulary: one token each, but not special. No prompt of this model holds them.
THINK_TOKENS = ("<think>", "</think>")
# The template occurs in every prompt: its words shall be whole tokens, "yes" and "no" above all.
TEMPLATE_TEXTS = (
    f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}<Query>:a\n<Document>:NULL yes no\nyes\nno\n",
    "assistant\n",
    "<0.0 seconds>",
)
TEMPLATE_WEIGHT, CAPTIONS = 3000, 12000


def train_tokenizer(seed: int) -> Tokenizer:
    """The tokenizer: `TOKENS` pieces, then control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(seed), trainer)
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK_TOKENS])
    return tokenizer


def _texts(seed: int) -> Iterator[str]:
    generator = random.Random(seed)
    for _ in range(CAPTIONS):
        topic = generator.choice(TOPICS)
        plan = random_plan(topic, generator)
        yield f"<Query>:{phrase(claim_about(plan, topic, generator), generator)}\n<Document>:"
        yield describe(lay_out(plan, generator, 4 / 3), plan, generator)
        yield note(generator)
    yield from TEMPLATE_TEXTS * TEMPLATE_WEIGHT
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    yield from (topics[name] for name in sorted(topics))


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the two files that `AutoTokenizer` reads."""
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 32768,
        "add_prefix_space": False,
        "add_bos_token": False,
        "bos_token": None,
        "unk_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "split_special_tokens": False,
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(text)): {
                "content": text,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": text in SPECIAL_TOKENS,
            }
            for text in (*SPECIAL_TOKENS, *THINK_TOKENS)
        },
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")
