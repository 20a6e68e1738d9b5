"""Compares the fast path with the unmodified model, and measures its speed.

Two comparisons: the hidden states after the first layers, which lie as near to fp32 as the model's
own do, so that a small mistake shows; and the margins of the whole model, which lie as near to the
model's own as its own roundings make them, whatever its scale.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rerankfleet.shared.content.options import PLAIN_OPTIONS
from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.batching.packing import Limit, Pack, Prices, pack_cost
from rerankfleet.workers.engine.decoder import Decoder
from rerankfleet.workers.engine.memory import free_bytes, total_bytes
from rerankfleet.workers.engine.reference import FIRST_LAYERS, Reference, unit_rows
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import TOKEN_PX, Visual
from rerankfleet.workers.prompting.vl import VLPrompter

Score = Callable[[Pack], Sequence[float]]
"""Scores a pack: its margins, in its order."""

Hidden = Callable[[Pack, int], Tensor]
"""[documents, hidden] of a pack's last tokens after the first layers."""

#: Margins may differ by this many times the reference's own noise, and by twice its rounding.
NOISES = 4.0
#: However small that is: the tolerance of fp32, and a step of small margins in half types.
TOLERANCE_MIN = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.005}
#: After the first layers the distance from fp32 may be so many times the reference's own, or this.
HIDDEN_NOISES = 2.0
HIDDEN_MIN = 1e-4

_QUERIES = ("Which planet is known as the Red Planet?", "how do queues keep work from being lost")
_DOCUMENTS = (
    "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
    "Venus is often called Earth's twin because of its similar size and proximity.",
    "A queue hands a message to one consumer and keeps it until that consumer has acknowledged "
    "it. A consumer that dies before gives its messages back, and another one takes them over.",
    "",
)
#: Sizes of the packs that are timed, in documents of about 80 tokens.
_TIMED_DOCUMENTS = {"cpu": (2, 6, 18), "cuda": (16, 64, 256)}
#: No further size is timed after this time.
_TIMING_S = 0.6
#: The first pack limit: the tokens that the device computes in this time, but within these bounds
#: and this share of the free memory. Larger packs are no faster on a CPU, and cost latency and
#: memory.
_PACK_S = {"cpu": 1.0, "cuda": 0.25}
_LIMIT_TOKENS = {"cpu": (256, 1 << 12), "cuda": (1024, 1 << 17)}
_MEMORY_SHARE = {"cpu": 0.1, "cuda": 0.5}
#: No pack needs to be larger.
TOKENS_MAX = 1 << 17


@dataclass(frozen=True, slots=True)
class SelfTest:
    """The results: the largest deviation, and a first estimate of the speed."""

    pairs: int
    largest_difference: float
    tolerance: float
    tokens_per_s: float
    overhead_s: float
    """Fixed seconds of a pack, by a linear fit through the timed sizes."""
    limit: Limit
    """The first pack limit."""
    tokens_max: int
    """A larger pack might not fit into memory."""
    memory_bytes: int
    """Memory that the model, the caches and a pack may use on a device; 0: unknown."""


def self_test_prompts(prompter: Prompter) -> list[Prompt]:
    """A few pairs: two queries, documents of several lengths, an empty one."""
    requests = [PromptRequest.of(query, _DOCUMENTS) for query in _QUERIES]
    if isinstance(prompter, VLPrompter):
        requests.append(PromptRequest(Side(_QUERIES[0], _ramps(2, 3)), [Side(images=_ramps(3, 2))]))
    encoded = prompter.encode_all(requests, max_length=PLAIN_OPTIONS.max_length)
    return [p for of_request in encoded for p in of_request if isinstance(p, Prompt)]


def _ramps(rows: int, columns: int) -> tuple[Visual, ...]:
    """An image of this many tokens: two ramps of grey."""
    y, x = np.indices((rows * TOKEN_PX, columns * TOKEN_PX))
    pixels = np.stack([x, y, x + y], -1).astype(np.uint8)
    return (Visual(f"drawn {rows} {columns}", (pixels,)),)


def run_self_test(
    score: Score,
    hidden: Hidden,
    decoder: Decoder,
    prices: Prices,
    reference: Reference,
    *,
    reserved_bytes: int,
) -> SelfTest:
    """Compare `score` and `hidden` with the unmodified model's, and time `score`.

    `reserved_bytes` of the device's memory are for caches, which are empty now.

    Raises ModelRefused when they differ by more than that model's own roundings explain.
    """
    prompts = reference.prompts
    pack, order = Pack.of(prompts)
    _compare_hidden(hidden(pack, FIRST_LAYERS), reference, order)
    margins = np.empty(len(prompts))
    margins[order] = score(pack)
    tolerance = _tolerance(reference, decoder.dtype)
    difference = _compare(margins, np.array(reference.margins), tolerance)
    tokens_per_s, overhead_s = _time_packs(score, prices, decoder.device.type, prompts)
    kind = decoder.device.type
    least, most = _LIMIT_TOKENS[kind]
    tokens_max = max(least, _tokens_that_fit(decoder, reserved_bytes))
    first = int(min(most, tokens_max, max(least, tokens_per_s * _PACK_S[kind])))
    return SelfTest(
        pairs=len(prompts),
        largest_difference=difference,
        tolerance=tolerance,
        tokens_per_s=tokens_per_s,
        overhead_s=overhead_s,
        limit=Limit(first),
        tokens_max=tokens_max,
        memory_bytes=total_bytes(decoder.devices),
    )


def _tolerance(reference: Reference, dtype: torch.dtype) -> float:
    """Largest permitted difference of a margin."""
    step = 0.0 if dtype == torch.float32 else reference.logit_max * torch.finfo(dtype).eps
    return max(TOLERANCE_MIN[dtype], NOISES * reference.noise + 2 * step)


def hidden_distance(hidden: Tensor, exact: Tensor) -> float:
    """How far hidden states [pairs, hidden] are from the exact ones, each dimension in its own
    scale: a few large dimensions would hide all others."""
    scale = exact.square().mean(0).sqrt() + 1e-6
    return float(((hidden - exact) / scale).square().mean().sqrt())


def _compare_hidden(hidden: Tensor, reference: Reference, order: Sequence[int]) -> None:
    exact = reference.exact[list(order)]
    distance = hidden_distance(unit_rows(hidden), exact)
    own = hidden_distance(reference.own, reference.exact)
    allowed = max(HIDDEN_MIN, HIDDEN_NOISES * own)
    if not distance <= allowed:
        raise ModelRefused(
            f"the self-test failed: after {FIRST_LAYERS} layers hidden states differ from fp32 by "
            f"{distance:.2g} (allowed {allowed:.2g}, the unmodified model's own {own:.2g})",
            hint="try another dtype or attention kernel, and please report it",
        )


def _tokens_that_fit(decoder: Decoder, reserved_bytes: int) -> int:
    """How large a pack may be with the free memory."""
    known = [free for device in decoder.devices if (free := free_bytes(device)) is not None]
    if not known:
        return TOKENS_MAX
    kind = decoder.device.type
    free = min(known) - (reserved_bytes if kind == "cuda" else 0)
    return min(
        TOKENS_MAX, int(max(0, free) * _MEMORY_SHARE[kind] / decoder.scratch_bytes_per_token)
    )


def _compare(margins: np.ndarray, reference: np.ndarray, tolerance: float) -> float:
    difference = float(np.abs(margins - reference).max())
    if not difference <= tolerance:
        raise ModelRefused(
            f"the self-test failed: margins differ from the unmodified model's by {difference:.2g}"
            f" (allowed {tolerance:.2g})",
            hint="try another dtype or attention kernel, and please report it",
        )
    return difference


def _time_packs(
    score: Score, prices: Prices, kind: str, prompts: list[Prompt]
) -> tuple[float, float]:
    """Token-equivalents per second and the fixed seconds of a pack, by least squares."""
    long = max(prompts, key=lambda p: len(p.document))
    costs, seconds, spent_s = [], [], 0.0
    for documents in _TIMED_DOCUMENTS[kind]:
        pack, _ = Pack.of([long] * documents)
        runs = [_timed(score, pack) for _ in range(2)]
        costs.append(pack_cost([long] * documents, prices))
        seconds.append(min(runs))
        spent_s += sum(runs)
        if spent_s > _TIMING_S:
            break
    slope, fixed = np.polyfit(costs, seconds, 1) if len(costs) > 1 else (0.0, 0.0)
    if slope <= 0:  # one size only, or too fast to see a difference
        slope, fixed = seconds[-1] / costs[-1], 0.0
    return float(1 / slope), float(max(0.0, fixed))


def _timed(score: Score, pack: Pack) -> float:
    start = time.perf_counter()
    score(pack)
    return time.perf_counter() - start
