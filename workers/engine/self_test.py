"""Compares the fast path with the unmodified model, and measures its speed.

The reference is computed while the model loads, before its weights are fused.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rerankfleet.shared.content.options import PLAIN_OPTIONS
from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.batching.packing import Limit, Pack, Prices, pack_cost
from rerankfleet.workers.engine.decoder import Decoder
from rerankfleet.workers.engine.memory import free_bytes, total_bytes
from rerankfleet.workers.engine.vision import cut_patches
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import PATCH_PX, TOKEN_PX, Visual
from rerankfleet.workers.prompting.vl import VLPrompter

Score = Callable[[Pack], Sequence[float]]
"""Scores a pack: its margins, in its order."""

#: Largest permitted difference of a margin, by number type; in half types the kernels' roundings
#: differ from the reference's, and margins come in coarse steps.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.75, torch.float16: 0.1}

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


def pixel_inputs(prompt: Prompt, tokens: Tensor) -> dict[str, Tensor]:
    """The inputs of the unmodified Qwen3-VL for a prompt's images, besides its tokens [1, length]:
    normalised patches [patches, channel · time · y · x], grids in patches, and which tokens are
    visual. Empty without images."""
    visuals = [
        v for part in (prompt.prefix, prompt.query, prompt.document) for _, v in part.visuals
    ]
    if not visuals:
        return {}
    kinds = torch.zeros_like(tokens, dtype=torch.int32)
    whole = prompt.prefix + prompt.query + prompt.document
    inputs: dict[str, Tensor] = {"mm_token_type_ids": kinds}
    for kind, count, names in (
        (1, 1, ("pixel_values", "image_grid_thw")),
        (2, 2, ("pixel_values_videos", "video_grid_thw")),
    ):
        chosen = [v for v in visuals if len(v.frames) == count]
        if not chosen:
            continue
        inputs[names[0]] = torch.cat([_pixel_values(v) for v in chosen]).to(tokens.device)
        grids = [(1, 2 * v.grid[0], 2 * v.grid[1]) for v in chosen]
        inputs[names[1]] = torch.tensor(grids, device=tokens.device)
        for at, visual in whole.visuals:
            if len(visual.frames) == count:
                kinds[0, at : at + visual.tokens] = kind
    return inputs


def _pixel_values(visual: Visual) -> Tensor:
    frames = visual.frames * (2 // len(visual.frames))
    patches = np.stack([cut_patches(frame) for frame in frames], 1)  # [n, time, y · x · channel]
    ordered = patches.reshape(len(patches), 2, PATCH_PX, PATCH_PX, 3).transpose(0, 4, 1, 2, 3)
    return torch.from_numpy(ordered.reshape(len(patches), -1).copy()).float() / 127.5 - 1


@torch.inference_mode()
def reference_margins(model: Any, prompts: list[Prompt], yes_id: int, no_id: int) -> list[float]:
    """Margins by the unmodified model, one pair at a time, from its own logits."""
    margins = []
    for p in prompts:
        ids = np.concatenate([p.prefix.array(), p.query.array(), p.document.array()])
        tokens = torch.from_numpy(ids.astype(np.int64))[None].to(model.device)
        visual_inputs = pixel_inputs(p, tokens) if model.config.model_type == "qwen3_vl" else {}
        logits = (
            model(tokens, logits_to_keep=1, use_cache=False, **visual_inputs).logits[0, -1].float()
        )
        margins.append(float(logits[yes_id] - logits[no_id]))
    return margins


def run_self_test(
    score: Score, prompter: Prompter, decoder: Decoder, prices: Prices, reference: Sequence[float]
) -> SelfTest:
    """Compare `score` with the unmodified model's margins, and time it.

    Raises ModelRefused when the margins differ, or their order, beyond the tolerance.
    """
    prompts = self_test_prompts(prompter)
    pack, order = Pack.of(prompts)
    margins = np.empty(len(prompts))
    margins[order] = score(pack)
    tolerance = TOLERANCE[decoder.dtype]
    difference = _compare(margins, np.array(reference), tolerance)
    tokens_per_s, overhead_s = _time_packs(score, prices, decoder.device.type, prompts)
    kind = decoder.device.type
    least, most = _LIMIT_TOKENS[kind]
    tokens_max = max(least, _tokens_that_fit(decoder))
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


def _tokens_that_fit(decoder: Decoder) -> int:
    """How large a pack may be with the free memory."""
    known = [free for device in decoder.devices if (free := free_bytes(device)) is not None]
    if not known:
        return TOKENS_MAX
    share = _MEMORY_SHARE[decoder.device.type]
    return min(TOKENS_MAX, int(min(known) * share / decoder.scratch_bytes_per_token))


def _compare(margins: np.ndarray, reference: np.ndarray, tolerance: float) -> float:
    difference = float(np.abs(margins - reference).max())
    if not difference <= tolerance:
        raise ModelRefused(
            f"the self-test failed: margins differ from the unmodified model's by {difference:.2g}"
            f" (allowed {tolerance:.2g})",
            hint="try another dtype or attention kernel, and please report it",
        )
    ranked = margins[np.argsort(reference)]
    if (np.maximum.accumulate(ranked) - ranked > 2 * tolerance).any():
        raise ModelRefused("the self-test failed: pairs are ranked in another order")
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
