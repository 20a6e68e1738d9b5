"""Drawn images, and their bytes in any format."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def drawn(seed: int, size: tuple[int, int] = (128, 96), *, sigma: float = 0.0) -> Image.Image:
    """A chequered image with colours of its own; a larger `sigma` makes it less sharp."""
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


def draw_leaves(width: int, height: int, *, seed: int = 0, discs: int = 400) -> Image.Image:
    """Overlapping discs of all sizes with some noise, similar to a photograph."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (120, 130, 140))
    draw = ImageDraw.Draw(image)
    for _ in range(discs):
        radius = min(width, height) * 0.35 * (rng.random() ** 4 + 0.01)
        x, y = rng.random(2) * (width, height)
        colour = np.clip(rng.normal(120, 55, 3), 5, 245).astype(int)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour.tolist()))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.6)), float)
    noisy = pixels + rng.normal(0, 3, (height, width, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
