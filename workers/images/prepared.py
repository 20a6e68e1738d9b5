"""An image as the model sees it, and what was done to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rerankfleet.shared.content.images import SIDE_PX

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], RGB, contiguous."""


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Prepared pixels. Equal and hashed by `key`: same source bytes and options, same pixels."""

    key: str
    """Hexadecimal digest of the source's bytes and the options."""
    pixels: Pixels = field(compare=False, repr=False)
    original: tuple[int, int] = field(compare=False)
    """Width and height of the source in pixels, as it is looked at (orientation applied)."""
    cropped_share: float = field(compare=False)
    """Share of the source's area that was cut away."""
    sharpness: float = field(compare=False)
    """0 to 1, by the width of edges at the prepared size."""
    exposure: float = field(compare=False)
    """0 to 1; low when over- or under-exposed."""
    kind: str = field(compare=False)
    """The format of the source: jpeg, png, webp, gif, bmp, tiff; or pixels."""
    stages_s: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """Seconds that each of `decode`, `resize` and `quality` took."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width, _ = self.pixels.shape
        return width, height

    @property
    def tokens(self) -> int:
        """How many visual tokens the language model reads."""
        width, height = self.size
        return (height // SIDE_PX) * (width // SIDE_PX)

    @property
    def quality(self) -> float:
        """0 to 1: the lower of sharpness and exposure."""
        return min(self.sharpness, self.exposure)
