"""A drawn photograph, its bytes in any format, and a host that answers nonsense."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import stamina
from PIL import Image

from tests.support.drawn import draw_leaves, encoded
from tests.support.nonsense import Nonsense


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


@pytest.fixture(scope="module")
def server() -> Iterator[Nonsense]:
    with Nonsense() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def at_once() -> Iterator[None]:
    """Retries happen at once."""
    stamina.set_testing(True, attempts=2)
    yield
    stamina.set_testing(False)
