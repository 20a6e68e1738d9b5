"""Token ids, and the images at some of them.

Knows nothing of torch, prompts or models.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

PATCH_PX = 16
"""Side of a patch of the vision tower, in pixels."""
TOKEN_PX = 32
"""Side of the area of one visual token: 2 × 2 patches."""


@dataclass(frozen=True, slots=True)
class Visual:
    """An image, or two frames of a video, ready for the vision tower.

    `frames` are uint8 [height, width, 3] with sides in whole tokens: one for a still image, two
    for a step of a video. Compared and hashed by `key`, which names the pixels.
    """

    key: str
    frames: tuple[NDArray[np.uint8], ...] = field(compare=False, repr=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its visual tokens."""
        height, width, _ = self.frames[0].shape
        return height // TOKEN_PX, width // TOKEN_PX

    @property
    def tokens(self) -> int:
        """How many visual tokens it has."""
        rows, columns = self.grid
        return rows * columns

    @property
    def span(self) -> int:
        """How far positions advance over it: by its longer side, not by its tokens."""
        return max(self.grid)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids as int32 in one bytes object: small, immutable, compared and hashed by content.

    `visuals` are (index of its first token, visual), in order.
    """

    data: bytes
    visuals: tuple[tuple[int, Visual], ...] = ()

    @classmethod
    def of(cls, ids: Iterable[int], visuals: Iterable[tuple[int, Visual]] = ()) -> Tokens:
        """Pack ids."""
        return cls(array("i", ids).tobytes(), tuple(visuals))

    def __len__(self) -> int:
        return len(self.data) // 4

    def __iter__(self) -> Iterator[int]:
        return iter(self.array().tolist())

    def __add__(self, other: Tokens) -> Tokens:
        moved = tuple((at + len(self), visual) for at, visual in other.visuals)
        return Tokens(self.data + other.data, self.visuals + moved)

    @property
    def key(self) -> tuple[bytes, tuple[tuple[int, str], ...]]:
        """A hashable key for caches, without the pixels themselves."""
        return self.data, tuple((at, visual.key) for at, visual in self.visuals)

    def array(self) -> NDArray[np.int32]:
        """The ids without a copy, read-only."""
        return np.frombuffer(self.data, np.int32)

    @property
    def span(self) -> int:
        """How far positions advance over them: one per token, less for visuals."""
        return len(self) - sum(visual.tokens - visual.span for _, visual in self.visuals)

    def positions(self, start: int) -> NDArray[np.int64]:
        """[tokens, 3] positions (time, height, width) when the first token is at `start`.

        Text advances all three alike. A visual's tokens share the time and count rows and columns
        from there; the next token follows the largest of them (Qwen3-VL's get_rope_index).
        """
        positions = np.empty((len(self), 3), np.int64)
        at, position = 0, start
        for first, visual in self.visuals:
            positions[at:first] = np.arange(position, position + first - at)[:, None]
            position += first - at
            at = first + visual.tokens
            rows, columns = np.indices(visual.grid).reshape(2, -1)
            positions[first:at] = position
            positions[first:at, 1] += rows
            positions[first:at, 2] += columns
            position += visual.span
        positions[at:] = np.arange(position, position + len(self) - at)[:, None]
        return positions
