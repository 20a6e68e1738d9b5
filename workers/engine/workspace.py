"""Scratch tensors that live from pack to pack.

A fresh allocation of some megabytes costs a page fault per 4 KB; the same memory again costs
nothing. Grows to the largest size asked for; `clear` gives it back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Named scratch memory on one device and of one type."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._flat: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape with undefined content; valid until its name is taken again."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.numel() < size:
            self._flat.pop(name, None)
            flat = self._flat[name] = torch.empty(size, device=self._device, dtype=self._dtype)
        return flat[:size].view(shape)

    def clear(self) -> None:
        """Give all memory back."""
        self._flat.clear()
