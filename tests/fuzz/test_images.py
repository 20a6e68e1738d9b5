"""Images: whatever the bytes are, they come to an image or a named error, and others go on."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

import pytest
from PIL import Image

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ITEM_CODES, ItemError
from rerankfleet.workers.images.pool import Pool
from rerankfleet.workers.images.prepared import PreparedImage
from tests.support.drawn import draw_leaves, encoded
from tests.support.mutations import Mutations, case, cases
from tests.support.wait import patient

SAMPLES = Path(__file__).parents[1] / "workers" / "images" / "samples"
KINDS = {
    "JPEG": {"quality": 80},
    "PNG": {},
    "WEBP": {"quality": 80},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"quality": 60},
}
AT_ONCE = 40


@pytest.fixture(scope="module")
def examples() -> list[bytes]:
    """A small image in every format, in several modes, and some of other programs."""
    leaves = draw_leaves(96, 64, discs=12)
    found = [encoded(leaves, kind, **options) for kind, options in KINDS.items()]
    for mode in ("L", "LA", "RGBA", "P", "1", "I;16"):
        image = Image.new("I;16", (40, 30), 999) if mode == "I;16" else leaves.convert(mode)
        found.append(encoded(image, "PNG"))
    found.append(encoded(leaves.convert("CMYK"), "JPEG", progressive=True))
    found.append(encoded(leaves, "GIF", save_all=True, append_images=[leaves, leaves]))
    return [*found, *(path.read_bytes() for path in sorted(SAMPLES.iterdir()))]


def changed(mutations: Mutations, examples: list[bytes]) -> bytes:
    """Changed bytes of an image; of a PNG, half of the time, with its checksums made good again, so
    that what was changed is read."""
    data = mutations.of_bytes(mutations.pick(examples), 2)
    if data.startswith(b"\x89PNG\r\n\x1a\n") and mutations.random.random() < 0.5:
        return _with_checksums(data)
    return data


def _with_checksums(png: bytes) -> bytes:
    out, at = png[:8], 8
    while at + 12 <= len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        chunk = png[at + 4 : at + 8 + size]
        out += png[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + size
    return out


def outcome(future: Future[PreparedImage]) -> str:
    """What an image came to; an error is an item's, with a hint."""
    try:
        image = future.result(patient(60))
    except ItemError as error:
        assert error.code in ITEM_CODES  # noqa: PT017
        assert error.message  # noqa: PT017
        assert error.hint  # noqa: PT017
        return error.code
    assert image.pixels.shape[2] == 3
    assert image.tokens > 0
    return "image"


def test_every_image_comes_to_an_image_or_an_error(examples):
    results: Counter[str] = Counter()
    good, options = examples[0], ImageSpec()
    with Pool(2, timeout_s=patient(20)) as pool:
        batch: list[tuple[Mutations, bytes, Future[PreparedImage]]] = []
        for mutations in cases("images", 400):
            data = changed(mutations, examples)
            batch.append((mutations, data, pool.prepare(data, options)))
            if len(batch) < AT_ONCE:
                continue
            # given many at once, then each has its outcome
            for one, given, future in batch:
                with case(one, given):
                    results[outcome(future)] += 1
            batch = []
            # and a good one is decoded beside them
            assert outcome(pool.prepare(good, options)) == "image"
    assert results["image"] > 20, results
    assert results["invalid_image"] > 20, results
    # a decoder that ends with an image is replaced; that is rare
    assert results["decode_crashed"] < results.total() / 20, results
