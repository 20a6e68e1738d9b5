"""A byte-level BPE vocabulary with Qwen's pre-tokenisation and control tokens.

English gets its merges from the passages. Python ships hardly any text in other scripts, so these
get merges from their Unicode blocks: each letter of the larger alphabets becomes one token, and the
two leading bytes of Han and Hangul characters become one. A Cyrillic letter is then one token and
a Han character two, where plain bytes would need two and three.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, models, pre_tokenizers

from rerankfleet.studies.pocket.prompt import DEFAULT_INSTRUCTION, PREFIX
from rerankfleet.studies.tokeniser import add_control_tokens, pipeline, trainer

# First and last letter of each alphabet: Latin with accents, Greek, Cyrillic, Hebrew, Arabic,
# Devanagari, Thai, CJK stops, Hiragana, Katakana.
ALPHABETS = ("ÀſΑωАё", "את", "ءي", "अ्", "ก๎", "、。", "ぁん", "ァー")
# Characters whose leading bytes become one token: Han and Hangul.
SYLLABARIES = ("一鿿", "가힣")
# The template occurs in every prompt: its words must be whole tokens, "yes" and "no" above all.
TEMPLATE_TEXTS = (
    f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: x\n<Document>: yes no\nyes\nno\n",
    "assistant\n",
    "\n\n",
)
TEMPLATE_WEIGHT = 500


def train_tokenizer(texts: Iterable[str], english_tokens: int) -> Tokenizer:
    """The tokenizer; its size is `english_tokens` plus what the other scripts and controls add."""
    tokenizer = pipeline(models.BPE())
    tokenizer.train_from_iterator(
        [*texts, *TEMPLATE_TEXTS * TEMPLATE_WEIGHT], trainer(english_tokens)
    )
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    merges: list[tuple[str, str]] = [(left, right) for left, right in trained["merges"]]
    for left, right in _script_merges():
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
    tokenizer = pipeline(models.BPE(vocab=vocabulary, merges=merges))
    add_control_tokens(tokenizer)
    return tokenizer


def _script_merges() -> Iterator[tuple[str, str]]:
    """Merges that build a character from its bytes, left to right."""
    for ends in (*ALPHABETS, *SYLLABARIES):
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            for code in range(ord(first), ord(last) + 1):
                data = _visible(chr(code))
                for size in range(1, 2 if ends in SYLLABARIES else len(data)):
                    yield data[:size], data[size]


def _visible(character: str) -> str:
    """The character's bytes, each as the printable letter that byte-level BPE writes for it."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return level.pre_tokenize_str(character)[0][0]
