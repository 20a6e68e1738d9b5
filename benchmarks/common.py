"""What benchmarks share: a seeded random model, real prose, a description of the machine.

Imports torch only where a model is built, so that a benchmark's own process stays small.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VERSIONS_OF = ("rerankfleet", "torch", "transformers", "tokenizers", "sentence-transformers")


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a random model."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int


MEASURED = Shape(8, 512, 1536, 8, 4, 64, 16_384)
TINY = Shape(2, 64, 96, 4, 2, 16, 2_048)


def passages() -> list[str]:
    """Paragraphs of 60 to 700 characters from the documentation that ships with Python."""
    from pydoc_data.topics import topics

    paragraphs = (
        re.sub(r"\s+", " ", paragraph).strip()
        for text in topics.values()
        for paragraph in re.split(r"\n\s*\n", text)
    )
    return [p for p in paragraphs if 60 < len(p) < 700]


def build_model(folder: Path, shape: Shape, *, seed: int = 0) -> None:
    """Save a Qwen3 reranker with random weights, scaled so that margins differ."""
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(shape.vocabulary),
        pad_token=CONTROL[0],
        eos_token=CONTROL[2],
        padding_side="left",
    )
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=40_960,
            rope_theta=1e6,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(8)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(vocabulary: int) -> Any:
    """A byte-level BPE with Qwen's control tokens, of at most this many tokens in all."""
    from pydoc_data.topics import topics

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    thinking = ("<think>", "</think>")
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(CONTROL) - len(thinking),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*topics.values(), *["yes no"] * 500], trainer)
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.add_tokens(list(thinking))
    return tokenizer


# ---- what was measured where --------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """Machine, versions and commit, which figures must be read with."""
    return {
        "cpu": _cpu_name(),
        "cpu_count": cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
    }


def cpu_count() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_rss_bytes() -> int:
    """Peak resident memory of this process."""
    return maxrss_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def maxrss_bytes(ru_maxrss: int) -> int:
    """ru_maxrss in bytes: Linux counts in KiB, macOS in bytes."""
    return ru_maxrss if sys.platform == "darwin" else ru_maxrss * 1024


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for name in VERSIONS_OF:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _commit() -> str | None:
    """The commit, marked as dirty when the code differs from it; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()
