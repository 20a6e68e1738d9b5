"""Tensors that were computed once and are kept: an LRU bounded in bytes.

Keys and values of the prefixes that prompts share, and features of pictures.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, TypeVar

from torch import Tensor

K = TypeVar("K", bound=Hashable)


class Kept(Generic[K]):
    """Remembers the tensors used last, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._tensors: OrderedDict[K, Tensor] = OrderedDict()

    def get(
        self, keys: Iterable[K], compute: Callable[[Sequence[K]], Sequence[Tensor]]
    ) -> dict[K, Tensor]:
        """The tensor of each key; those not remembered are computed in one call.

        One larger than all is not kept.
        """
        found = {key: self._tensors.get(key) for key in keys}
        missing = [key for key, tensor in found.items() if tensor is None]
        if missing:
            found |= dict(zip(missing, compute(missing), strict=True))
        tensors = {key: tensor for key, tensor in found.items() if tensor is not None}
        for key, tensor in tensors.items():
            self._keep(key, tensor)
        return tensors

    def _keep(self, key: K, tensor: Tensor) -> None:
        if key in self._tensors:
            self._tensors.move_to_end(key)
        elif tensor.nbytes <= self.max_bytes:
            self._tensors[key] = tensor
            self.bytes += tensor.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._tensors.popitem(last=False)[1].nbytes

    def clear(self) -> None:
        """Forget all."""
        self._tensors.clear()
        self.bytes = 0
