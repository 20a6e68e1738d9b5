"""Drawn images, and their bytes in any format."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter


def draw_leaves(width: int, height: int, *, seed: int = 0, discs: int = 400) -> Image.Image:
    """Discs over discs of all sizes with some noise: what a photograph is like."""
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


def to_bytes(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="session")
def leaves() -> Image.Image:
    """A sharp, well-exposed image of 640 × 480."""
    return draw_leaves(640, 480)


@pytest.fixture(scope="session")
def jpeg(leaves: Image.Image) -> bytes:
    return to_bytes(leaves, quality=90)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, "PNG", ...)`: its bytes."""
    return to_bytes
