"""A model larger than one GPU: its layers are placed on several devices, in order, by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from rerankfleet.workers.engine.weights import text_model


def place_on(model: Any, devices: Sequence[torch.device]) -> None:
    """Move a loaded causal language model onto `devices`; its own forward keeps working.

    The embedding is on the first device, the final norm on the last; a head that is tied to the
    embedding stays with it.
    """
    if len(devices) == 1:
        model.to(devices[0])
        return
    body = text_model(model)
    if visual := getattr(model.model, "visual", None):
        _place(visual, devices[0])
    body.embed_tokens.to(devices[0])
    body.rotary_emb.to(devices[0])
    assigned = assign_layers([_bytes(layer) for layer in body.layers], len(devices))
    for layer, number in zip(body.layers, assigned, strict=True):
        _place(layer, devices[number])
    _place(body.norm, devices[-1])
    tied = model.lm_head.weight is body.embed_tokens.weight
    _place(model.lm_head, devices[0] if tied else devices[-1])


def assign_layers(sizes: Sequence[int], devices: int) -> list[int]:
    """The number of the device of each layer, in order, so that all get about the same bytes."""
    total = sum(sizes)
    return [
        min(devices - 1, int(devices * (end - size / 2) / total))
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]


def _bytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())


def _place(module: nn.Module, device: torch.device) -> None:
    """Move a module, and from now on the arguments of its calls."""
    module.to(device)

    def bring(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _to(args, device), _to(kwargs, device)

    module.register_forward_pre_hook(bring, with_kwargs=True)


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(_to(v, device) for v in value)
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    return value
