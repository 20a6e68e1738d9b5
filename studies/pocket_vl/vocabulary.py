"""A byte-level BPE vocabulary with Qwen's pre-tokenisation and control tokens, for captions.

Its merges come from captions, the template, and the language reference that ships with Python, so
that other English words are a few pieces each, not single letters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import import_module

from tokenizers import Tokenizer, models

from rerankfleet.studies.pocket_vl.captions import (
    TOPICS,
    claim_about,
    describe,
    note,
    phrase,
    random_plan,
)
from rerankfleet.studies.pocket_vl.drawing import lay_out
from rerankfleet.studies.pocket_vl.prompt import (
    DEFAULT_INSTRUCTION,
    IMAGE_PAD,
    PREFIX,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
)
from rerankfleet.studies.tokeniser import CONTROL_TOKENS, add_control_tokens, pipeline, trainer

TOKENS = 2048
SPECIAL_TOKENS = (
    *CONTROL_TOKENS,
    *(VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD),
)
# The template occurs in every prompt: its words must be whole tokens, "yes" and "no" above all.
TEMPLATE_TEXTS = (
    f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}<Query>:a\n<Document>:NULL yes no\nyes\nno\n",
    "assistant\n",
    "<0.0 seconds>",
)
TEMPLATE_WEIGHT, CAPTIONS = 3000, 12000


def train_tokenizer(seed: int) -> Tokenizer:
    """The tokenizer: `TOKENS` pieces, then control tokens."""
    tokenizer = pipeline(models.BPE())
    tokenizer.train_from_iterator(_texts(seed), trainer(TOKENS))
    add_control_tokens(tokenizer, SPECIAL_TOKENS)
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
