"""An image as the model sees it, what was done to it, and what names one that is to be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rerankfleet.shared.content.images import SIDE_PX, ImageSpec

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], RGB, contiguous."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image by its URI, and how it is to be prepared."""

    uri: str
    options: ImageSpec


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Prepared pixels. Equal and hashed by `key`: same source bytes and options, same pixels."""

    key: str
    """Hexadecimal digest of the source's bytes and the options."""
    pixels: Pixels = field(compare=False, repr=False)
    original: tuple[int, int] = field(compare=False)
    """Width and height of the source in pixels, after its orientation was applied."""
    cropped_share: float = field(compare=False)
    """Share of the source's area that was cropped away."""
    sharpness: float = field(compare=False)
    """0 to 1, by the width of edges at the prepared size."""
    exposure: float = field(compare=False)
    """0 to 1; low when over- or under-exposed."""
    kind: str = field(compare=False)
    """The format of the source: jpeg, png, webp, gif, bmp, tiff, avif, heif; or pixels."""
    stages_s: Mapping[str, float] = field(default_factory=dict, compare=False, repr=False)
    """Seconds that each of `decode`, `resize` and `quality` took."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        height, width, _ = self.pixels.shape
        return width, height

    @property
    def tokens(self) -> int:
        """How many visual tokens it has in the language model."""
        width, height = self.size
        return (height // SIDE_PX) * (width // SIDE_PX)

    @property
    def quality(self) -> float:
        """0 to 1: the lower of sharpness and exposure."""
        return min(self.sharpness, self.exposure)
