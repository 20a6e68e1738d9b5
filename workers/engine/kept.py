"""Keys and values of kept parts: an LRU bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

from workers.tokens import Tokens


class KeptStates:
    """Remembers the states of the parts used last, up to `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._states: OrderedDict[Tokens, Tensor] = OrderedDict()

    def get(self, tokens: Tokens, compute: Callable[[Tokens], Tensor]) -> Tensor:
        """The state of a part, computed unless remembered. One larger than all is not kept."""
        state = self._states.get(tokens)
        if state is not None:
            self._states.move_to_end(tokens)
            return state
        state = compute(tokens)
        if state.nbytes <= self.max_bytes:
            self._states[tokens] = state
            self.bytes += state.nbytes
            while self.bytes > self.max_bytes:
                self.bytes -= self._states.popitem(last=False)[1].nbytes
        return state

    def clear(self) -> None:
        """Forget all."""
        self._states.clear()
        self.bytes = 0
