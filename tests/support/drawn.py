"""Small drawn images, as bytes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageFilter


def drawn(seed: int, size: tuple[int, int] = (128, 96), *, sigma: float = 0.0) -> Image.Image:
    """A chequered image of its own colours; the larger `sigma`, the less sharp."""
    rng = np.random.default_rng(seed)
    width, height = size
    cells = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8)
    pixels = cells.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    image = Image.fromarray(pixels)
    return image.filter(ImageFilter.GaussianBlur(sigma)) if sigma else image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """An image's bytes in a format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(seed: int, size: tuple[int, int] = (128, 96), *, sigma: float = 0.0) -> bytes:
    """A drawn image's bytes."""
    return encoded(drawn(seed, size, sigma=sigma))
