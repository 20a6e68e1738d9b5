"""The size that a header claims: that of the decoder, for every format, and no failure."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rerankfleet.shared.content.image_headers import claimed_pixels

HEADS = (
    b"\x89PNG",
    b"GIF89a",
    b"BM",
    b"RIFF",
    b"\xff\xd8",
    b"\xff\xd8\xff\xe0",
    b"RIFF0000WEBPVP8 ",
)


def encoded(kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (321, 123), (10, 200, 30)).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"x" * 60_000, "icc_profile": b"y" * 200_000}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0abc"}),
    ],
)
def test_it_is_what_the_header_has(kind, options):
    assert claimed_pixels(encoded(kind, **options)) == 321 * 123


def test_of_a_format_without_a_simple_header_nothing_is_claimed():
    assert claimed_pixels(encoded("TIFF")) == 0
    assert claimed_pixels(b"") == 0


@given(st.sampled_from(HEADS), st.binary(max_size=60))
def test_damaged_headers_claim_anything_and_fail_never(head, rest):
    assert claimed_pixels(head + rest) >= 0


def test_a_jpeg_of_markers_alone_is_not_searched_to_its_end():
    assert claimed_pixels(b"\xff\xd8" + b"\xff" * 1_000_000) == 0
    assert claimed_pixels(b"\xff\xd8" + b"\xff\xd0" * 1_000_000) == 0
