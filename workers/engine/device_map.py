"""A model larger than one GPU: its layers are placed on several devices, in order, by bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from rerankfleet.workers.engine.weights import text_model

DeviceOf = Callable[[str], torch.device]
"""The device of a parameter, by its name; of "" that of the model's tables."""


def place(model: Any, devices: Sequence[torch.device]) -> DeviceOf:
    """Where each weight of a model goes; its own forward works across `devices`.

    The embedding is on the first device, the final norm on the last; a head that is tied to the
    embedding stays with it.
    """
    if len(devices) == 1:
        return lambda name: devices[0]
    body = text_model(model)
    numbers = assign_layers([_bytes(layer) for layer in body.layers], len(devices))
    places = [(layer, devices[at]) for layer, at in zip(body.layers, numbers, strict=True)]
    places.append((body.norm, devices[-1]))
    if visual := getattr(model.model, "visual", None):
        places.append((visual, devices[0]))
    head = model.score if hasattr(model, "score") else model.lm_head
    tied = bool(getattr(model.config, "tie_word_embeddings", False)) and not hasattr(model, "score")
    places.append((head, devices[0] if tied else devices[-1]))
    names = {module: name for name, module in model.named_modules()}
    by_prefix = {f"{names[module]}.": device for module, device in places}
    for module, device in places:
        _bring(module, device)
    return lambda name: next(
        (device for prefix, device in by_prefix.items() if name.startswith(prefix)), devices[0]
    )


def assign_layers(sizes: Sequence[int], devices: int) -> list[int]:
    """The number of the device of each layer, in order, so that all get about the same bytes."""
    total = sum(sizes)
    return [
        min(devices - 1, int(devices * (end - size / 2) / total))
        for size, end in zip(sizes, accumulate(sizes), strict=True)
    ]


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _bring(module: nn.Module, device: torch.device) -> None:
    """Have a module's arguments moved to its device at each call."""

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
