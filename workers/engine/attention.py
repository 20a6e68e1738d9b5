"""Which attention kernel runs, and what all of them offer."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Attention(Protocol):
    """Attention over one pack. Rotated and scaled q, k and v stand in the buffer."""

    def all(self, buffer: Tensor) -> Tensor:
        """Outputs [computed rows, query heads · dim] of all computed rows."""

    def last(self, buffer: Tensor, queries: Tensor) -> Tensor:
        """Outputs [documents, query heads · dim] of each document's last row.

        `queries` [documents, query heads · dim] are given apart.
        """
