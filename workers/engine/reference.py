"""What the unmodified model says about the pairs of the self-test: taken while a model loads,
before its weights are fused.

Beside the margins, what bounds their differences: how far the model is from itself when only the
order of its roundings changes, and its first layers in fp32, where roundings hide nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rerankfleet.workers.engine.elementwise import Fp32
from rerankfleet.workers.engine.vision import cut_patches
from rerankfleet.workers.engine.weights import head_of, text_model
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import PATCH_PX, Visual

#: Layers that are compared in fp32: enough for each operation to have met its neighbours.
FIRST_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Reference:
    """The unmodified model's view of some pairs."""

    prompts: list[Prompt]
    margins: list[float]
    logit_max: float
    """the largest absolute logit that a margin is a difference of"""
    noise: float
    """Largest difference of a margin from the same model's in a padded batch, whose roundings come
    in another order."""
    exact: Tensor
    """[pairs, hidden] after the first layers, computed in fp32; each row of length √hidden"""
    own: Tensor
    """the same in the model's number type"""


def take_reference(model: Any, prompts: list[Prompt], yes_id: int, no_id: int | None) -> Reference:
    """All of it, in a few forward passes."""
    answers = reference_answers(model, prompts, yes_id, no_id)
    margins = [yes - no for yes, no in answers]
    padded = _padded_margins(model, prompts, yes_id, no_id)
    noise = max(abs(padded[at] - margins[at]) for at in padded)
    exact = hidden_of_first_layers(model, prompts, torch.float32)
    half = next(model.parameters()).dtype != torch.float32
    own = hidden_of_first_layers(model, prompts, None) if half else exact
    logit_max = max(map(abs, chain(*answers)))
    return Reference(prompts, margins, logit_max, noise, exact, own)


def reference_margins(
    model: Any, prompts: Sequence[Prompt], yes_id: int, no_id: int | None
) -> list[float]:
    """Margins by the unmodified model, one pair at a time, from its own logits."""
    return [yes - no for yes, no in reference_answers(model, prompts, yes_id, no_id)]


@torch.inference_mode()
def reference_answers(
    model: Any, prompts: Sequence[Prompt], yes_id: int, no_id: int | None
) -> list[tuple[float, float]]:
    """The logits of both answers, whose difference is the margin; a classifier of one label has
    one."""
    answers = []
    for p in prompts:
        tokens = _tokens(p, model)
        logits = _logits(model, tokens, _visual_inputs(model, p, tokens))
        answers.append((float(logits[yes_id]), 0.0 if no_id is None else float(logits[no_id])))
    return answers


def _logits(model: Any, tokens: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """fp32 logits of the last token: of all tokens, or of a classifier's labels."""
    if hasattr(model, "score"):
        logits: Tensor = model(tokens, use_cache=False, **inputs).logits[0]
    else:
        logits = model(tokens, logits_to_keep=1, use_cache=False, **inputs).logits[0, -1]
    return logits.float()


@torch.inference_mode()
def _padded_margins(
    model: Any, prompts: Sequence[Prompt], yes_id: int, no_id: int | None
) -> dict[int, float]:
    """Margins of the prompts without images, by their index: padded left in one batch."""
    plain = [at for at, p in enumerate(prompts) if not _visuals(p)]
    ids = [_tokens(prompts[at], model)[0] for at in plain]
    longest = max(map(len, ids))
    rows = [nn.functional.pad(row, (longest - len(row), 0)) for row in ids]
    mask = [nn.functional.pad(torch.ones_like(row), (longest - len(row), 0)) for row in ids]
    body = model.model(torch.stack(rows), attention_mask=torch.stack(mask), use_cache=False)
    head = head_of(model)
    direction = head[yes_id].float() - (0 if no_id is None else head[no_id].float())
    last = body.last_hidden_state[:, -1].float().to(direction.device)
    return dict(zip(plain, (last @ direction).tolist(), strict=True))


@torch.inference_mode()
def hidden_of_first_layers(
    model: Any, prompts: Sequence[Prompt], dtype: torch.dtype | None
) -> Tensor:
    """[prompts, hidden] of the last tokens after the first layers, in a number type or the model's
    own; on the CPU, each row of length √hidden."""
    hidden = []
    with _first_layers(model, dtype):
        for p in prompts:
            tokens = _tokens(p, model)
            inputs = _visual_inputs(model, p, tokens)
            hidden.append(model.model(tokens, use_cache=False, **inputs).last_hidden_state[0, -1])
    return unit_rows(torch.stack(hidden))


def unit_rows(hidden: Tensor) -> Tensor:
    """fp32 rows on the CPU, each of length √width: the final norm without its gain."""
    rows = hidden.float().cpu()
    return Fp32().norm(rows, None, 1e-12, torch.empty_like(rows))


@contextmanager
def _first_layers(model: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """The model with its first layers only, without its final norm; afterwards it is as before."""
    text, vision = text_model(model), getattr(model.model, "visual", None)
    layers, norm = text.layers, text.norm
    first = layers[:FIRST_LAYERS]
    hook = None
    if dtype is not None and dtype != text.embed_tokens.weight.dtype:
        first = copy.deepcopy(first).to(dtype)
        hook = text.embed_tokens.register_forward_hook(lambda _, args, out: out.to(dtype))
        if vision is not None:
            model.model.visual = copy.deepcopy(vision).to(dtype)
    text.layers, text.norm = first, nn.Identity()
    try:
        yield
    finally:
        text.layers, text.norm = layers, norm
        if vision is not None:
            model.model.visual = vision
        if hook is not None:
            hook.remove()


def _tokens(prompt: Prompt, model: Any) -> Tensor:
    """[1, length] on the model's first device."""
    ids = np.concatenate([part.array() for part in _parts(prompt)])
    return torch.from_numpy(ids.astype(np.int64))[None].to(model.device)


def _parts(prompt: Prompt) -> tuple[Any, ...]:
    return (prompt.prefix, prompt.query, prompt.document)


def _visuals(prompt: Prompt) -> list[Visual]:
    return [visual for part in _parts(prompt) for _, visual in part.visuals]


def _visual_inputs(model: Any, prompt: Prompt, tokens: Tensor) -> dict[str, Tensor]:
    return pixel_inputs(prompt, tokens) if model.config.model_type == "qwen3_vl" else {}


def pixel_inputs(prompt: Prompt, tokens: Tensor) -> dict[str, Tensor]:
    """The inputs of the unmodified Qwen3-VL for a prompt's images, besides its tokens [1, length]:
    normalised patches [patches, channel · time · y · x], grids in patches, and which tokens are
    visual. Empty without images."""
    visuals = _visuals(prompt)
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
