"""Tensors that were computed once and are kept: an LRU bounded in bytes.

Keys and values of the prefixes that prompts share, and features of images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor


class Keyed(Protocol):
    """What tensors are computed of; its key is small."""

    @property
    def key(self) -> Hashable: ...


K = TypeVar("K", bound=Keyed)


class Kept(Generic[K]):
    """Remembers the tensors used last, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = self.misses = 0
        """Of each call, what was remembered and what was not; each once."""
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(
        self, wanted: Sequence[K], compute: Callable[[Sequence[K]], Sequence[Tensor]]
    ) -> list[Tensor]:
        """The tensor of each; those not remembered are computed in one call, each once.

        One larger than all is not kept.
        """
        one_of_each = {item.key: item for item in wanted}
        missing = [item for key, item in one_of_each.items() if key not in self._tensors]
        self.hits += len(one_of_each) - len(missing)
        self.misses += len(missing)
        computed = dict(zip((i.key for i in missing), compute(missing), strict=True))
        tensors = {key: computed.get(key, self._tensors.get(key)) for key in one_of_each}
        found = {key: tensor for key, tensor in tensors.items() if tensor is not None}
        for key, tensor in found.items():
            self._keep(key, tensor)
        return [found[item.key] for item in wanted]

    def _keep(self, key: Hashable, tensor: Tensor) -> None:
        if key in self._tensors:
            self._tensors.move_to_end(key)
        elif tensor.nbytes <= self.max_bytes:
            self._tensors[key] = tensor
            self.bytes += tensor.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._tensors.popitem(last=False)[1].nbytes

    def __contains__(self, key: object) -> bool:
        """Whether the tensor of this key is remembered; asking is no use of it."""
        return key in self._tensors

    def clear(self) -> None:
        """Forget all."""
        self._tensors.clear()
        self.bytes = 0
