"""A byte-level BPE vocabulary with Qwen's pre-tokenisation and control tokens.

English gets its merges from the passages. Python ships hardly any text in other scripts, so these
get theirs from their Unicode blocks: each letter of the larger alphabets becomes one token, and the
two leading bytes of Han and Hangul characters become one. A Cyrillic letter is then one token and
a Han character two, where plain bytes would need two and three.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from prompt import DEFAULT_INSTRUCTION, PREFIX
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

# Contractions, words with one leading non-letter, single digits, punctuation runs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
THINK_TOKENS = ("<think>", "</think>")
# First and last letter of each alphabet: Latin with accents, Greek, Cyrillic, Hebrew, Arabic,
# Devanagari, Thai, CJK stops, Hiragana, Katakana.
ALPHABETS = ("ÀſΑωАё", "את", "ءي", "अ्", "ก๎", "、。", "ぁん", "ァー")
# Characters whose leading bytes become one token: Han and Hangul.
SYLLABARIES = ("一鿿", "가힣")
# The template occurs in every prompt: its words shall be whole tokens, "yes" and "no" above all.
TEMPLATE_TEXTS = (
    f"{PREFIX}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: x\n<Document>: yes no\nyes\nno\n",
    "assistant\n",
    "\n\n",
)
TEMPLATE_WEIGHT = 500


def train_tokenizer(texts: Iterable[str], english_tokens: int) -> Tokenizer:
    """The tokenizer; its size is `english_tokens` plus what the other scripts and controls add."""
    tokenizer = _pipeline(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=english_tokens,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *TEMPLATE_TEXTS * TEMPLATE_WEIGHT], trainer)
    trained = json.loads(tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = trained["vocab"]
    merges: list[tuple[str, str]] = [(left, right) for left, right in trained["merges"]]
    for left, right in _script_merges():
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append((left, right))
    tokenizer = _pipeline(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in CONTROL_TOKENS])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK_TOKENS])
    return tokenizer


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
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
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
                "special": text in CONTROL_TOKENS,
            }
            for text in (*CONTROL_TOKENS, *THINK_TOKENS)
        },
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", "utf-8")


def _pipeline(model: models.BPE) -> Tokenizer:
    """Normaliser, split and byte level around a BPE model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
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
