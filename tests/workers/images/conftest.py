"""A drawn photograph, and its bytes in any format."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from tests.support.drawn import draw_leaves, encoded


@pytest.fixture(scope="session")
def leaves() -> Image.Image:
    """A sharp, well-exposed image of 640 × 480."""
    return draw_leaves(640, 480)


@pytest.fixture(scope="session")
def jpeg(leaves: Image.Image) -> bytes:
    return encoded(leaves, "JPEG", quality=90)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """`encode(image, "PNG", ...)`: its bytes; JPEG by default."""
    return lambda image, kind="JPEG", **options: encoded(image, kind, **options)
