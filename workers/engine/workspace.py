"""Scratch tensors that are reused from pack to pack.

A fresh allocation of some megabytes costs a page fault per 4 KB; reused memory costs nothing. Grows
to the largest size requested; `clear` frees it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Workspace:
    """Named scratch memory of one number type, on any device."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._flat: dict[tuple[str, torch.device], Tensor] = {}

    def take(self, name: str, *shape: int, device: torch.device) -> Tensor:
        """An uninitialised tensor of this shape; valid until its name is taken again."""
        size, key = math.prod(shape), (name, device)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            self._flat.pop(key, None)
            flat = self._flat[key] = torch.empty(size, device=device, dtype=self._dtype)
        return flat[:size].view(shape)

    def clear(self) -> None:
        """Free all memory."""
        self._flat.clear()
