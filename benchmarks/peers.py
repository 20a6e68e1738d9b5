"""The peers that `rerank` is measured against; each runs in a process of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from common import peak_rss_bytes

from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.workers.prompting.prompts import SYSTEM_TURN
from rerankfleet.workers.prompting.text import SUFFIX

CARD_BATCH, ST_BATCH = 8, 32
MAX_LENGTH = 8192
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings shared by all sides."""

    model: str
    device: str
    dtype: str
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a `rerank` command, without the user's settings."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("RERANK_")}
        return own | {
            "RERANK_DEVICE": self.device,
            "RERANK_DTYPE": self.dtype,
            "RERANK_THREADS": str(self.threads),
        }


@dataclass(slots=True)
class Run:
    """The result of one side with one shape of work."""

    seconds: float
    peak_rss_bytes: int
    margins: list[float] = field(repr=False)
    more: dict[str, float] = field(default_factory=dict)


def pairs_of(requests: Sequence[dict[str, Any]]) -> list[Pair]:
    return [(r["query"], document) for r in requests for document in r["documents"]]


def run_card(requests: list[dict[str, Any]], setting: Setting) -> Run:
    """The procedure of the Qwen3-Reranker model card."""
    start = time.perf_counter()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch, device, dtype = _prepare(setting)
    tokenizer = AutoTokenizer.from_pretrained(setting.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype).to(device).eval()
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    head, tail = (
        tokenizer.encode(text, add_special_tokens=False) for text in (SYSTEM_TURN, SUFFIX)
    )
    room = MAX_LENGTH - len(head) - len(tail)

    def ids(pair: Pair) -> list[int]:
        body = f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {pair[0]}\n<Document>: {pair[1]}"
        return [*head, *tokenizer.encode(body, add_special_tokens=False)[:room], *tail]

    @torch.no_grad()
    def margins(pairs: Sequence[Pair]) -> list[float]:
        results: list[float] = []
        for at in range(0, len(pairs), CARD_BATCH):
            batch = {"input_ids": [ids(pair) for pair in pairs[at : at + CARD_BATCH]]}
            padded = tokenizer.pad(batch, padding=True, return_tensors="pt").to(device)
            last = model(**padded).logits[:, -1].float()
            results += (last[:, yes] - last[:, no]).tolist()
        return results

    return _timed(margins, pairs_of(requests), start)


def run_st(requests: list[dict[str, Any]], setting: Setting) -> Run:
    """sentence-transformers' CrossEncoder over the same causal model."""
    start = time.perf_counter()
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch, device, dtype = _prepare(setting)
    body = Transformer(
        setting.model,
        transformer_task="text-generation",
        model_kwargs={"dtype": dtype},
        processor_kwargs={"chat_template": chat_template()},
    )
    yes, no = (body.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    encoder = CrossEncoder(modules=[body, LogitScore(yes, no)], device=device)

    def margins(pairs: Sequence[Pair]) -> list[float]:
        results = encoder.predict(
            list(pairs),
            batch_size=ST_BATCH,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return [float(margin) for margin in results]

    return _timed(margins, pairs_of(requests), start)


def chat_template() -> str:
    """The model card's prompt as a template over messages of the roles query and document."""
    parts = (
        json.dumps(f"{SYSTEM_TURN}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: "),
        "text_of('query')",
        json.dumps("\n<Document>: "),
        "text_of('document')",
        json.dumps(SUFFIX),
    )
    return (
        "{%- macro text_of(role) -%}{%- for message in messages if message.role == role -%}"
        "{{ message.content if message.content is string else message.content[0].text }}"
        "{%- endfor -%}{%- endmacro -%}{{ " + " + ".join(parts) + " }}"
    )


def _prepare(setting: Setting) -> tuple[Any, str, Any]:
    """Set threads, disable progress bars; returns torch, the device and the number type."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(setting.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting.dtype]
    if setting.device != "auto":
        return torch, setting.device, dtype
    return torch, "cuda" if torch.cuda.is_available() else "cpu", dtype


def _timed(
    margins: Callable[[Sequence[Pair]], list[float]], pairs: list[Pair], start: float
) -> Run:
    """Warm up with one pair, then measure. `start` is when the process began to load."""
    margins(pairs[:1])
    start_up_s = time.perf_counter() - start
    start = time.perf_counter()
    results = margins(pairs)
    seconds = time.perf_counter() - start
    return Run(seconds, peak_rss_bytes(), results, {"start_up_s": start_up_s})
