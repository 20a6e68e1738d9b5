"""An LRU cache of tensors, bounded in bytes: for the keys and values of the prefixes that prompts
share, and for the features of images.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor


class Keyed(Protocol):
    """Something that a tensor is computed from, with a small key."""

    @property
    def key(self) -> Hashable: ...


K = TypeVar("K", bound=Keyed)


class TensorCache(Generic[K]):
    """Holds the most recently used tensors, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = self.misses = 0
        """Lookups over all calls, a key counting once per call."""
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()

    def get(
        self, items: Sequence[K], compute: Callable[[Sequence[K]], Sequence[Tensor]]
    ) -> list[Tensor]:
        """The tensor of each item; missing ones are computed in one call, each once.

        A tensor larger than the cache is not stored.
        """
        one_of_each = {item.key: item for item in items}
        missing = [item for key, item in one_of_each.items() if key not in self._tensors]
        self.hits += len(one_of_each) - len(missing)
        self.misses += len(missing)
        computed = dict(zip((i.key for i in missing), compute(missing), strict=True))
        tensors = {
            key: computed[key] if key in computed else self._tensors[key] for key in one_of_each
        }
        for key, tensor in tensors.items():
            self._store(key, tensor)
        return [tensors[item.key] for item in items]

    def _store(self, key: Hashable, tensor: Tensor) -> None:
        if key in self._tensors:
            self._tensors.move_to_end(key)
        elif tensor.nbytes <= self.max_bytes:
            self._tensors[key] = tensor
            self.bytes += tensor.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._tensors.popitem(last=False)[1].nbytes

    def __contains__(self, key: object) -> bool:
        """Whether the key is cached; does not count as a use."""
        return key in self._tensors

    def clear(self) -> None:
        """Drop all tensors."""
        self._tensors.clear()
        self.bytes = 0
