"""Files of every kind: what is read, and what the others are called.

The samples are one picture, its left half blue and its right half red, written with avifenc 0.11.1.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.file_kinds import IMAGE_KINDS
from rerankfleet.workers.images import formats
from rerankfleet.workers.images.decode import decode
from rerankfleet.workers.images.pool import Pool
from tests.support.drawn import encoded

SAMPLES = Path(__file__).parent / "samples"
PLAIN = ImageSpec(blur=False)
BLUE, RED = (0, 0, 255), (255, 0, 0)


def halves() -> Image.Image:
    """128 × 64 pixels, blue on the left and red on the right."""
    image = Image.new("RGB", (128, 64), RED)
    image.paste(BLUE, (0, 0, 64, 64))
    return image


def heic(image: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=95, **options)
    return out.getvalue()


def corners(data: bytes) -> tuple[tuple[int, int], str]:
    """Width and height of the source, and the colours at the top left, top right and bottom left,
    as letters."""
    image = decode(data, PLAIN)
    seen = (image.pixels[0, 0], image.pixels[0, -1], image.pixels[-1, 0])
    letters = ("b" if np.abs(pixel.astype(int) - BLUE).max() < 12 else "r" for pixel in seen)
    return image.original, "".join(letters)


def error_of(data: bytes) -> ItemError:
    with pytest.raises(ItemError) as caught:
        decode(data, PLAIN)
    assert caught.value.hint
    return caught.value


# ---- what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [
        ("10-bits", (64, 32), "brb"),
        ("12-bits", (64, 32), "brb"),
        ("turned", (32, 64), "rrb"),
        ("turned-and-mirrored", (32, 64), "bbr"),
    ],
)
def test_avif_of_more_bits_and_turned_by_its_boxes_is_read(name, size, colours):
    assert corners((SAMPLES / f"{name}.avif").read_bytes()) == (size, colours)


def turned(orientation: int) -> dict[str, bytes]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif.tobytes()}


@pytest.mark.parametrize(
    ("orientation", "size", "colours"),
    [(1, (128, 64), "brb"), (3, (128, 64), "rbr"), (6, (64, 128), "bbr"), (8, (64, 128), "rrb")],
)
def test_orientation_is_applied_once_whatever_the_format(orientation, size, colours):
    for data in (
        encoded(halves(), "JPEG", quality=95, **turned(orientation)),
        encoded(halves(), "AVIF", quality=95, **turned(orientation)),
        heic(halves(), **turned(orientation)),
    ):
        assert corners(data) == (size, colours)


def test_heic_is_read_by_the_processes_that_decode():
    with Pool(1) as pool:
        image = pool.prepare(heic(halves()), PLAIN).result()
    assert (image.kind, image.original) == ("heif", (128, 64))


def test_heic_of_ten_bits_is_read():
    pillow_heif = pytest.importorskip("pillow_heif")
    levels = np.asarray(halves()).astype("<u2") * 257
    out = io.BytesIO()
    deep = pillow_heif.from_bytes("RGB;16", (128, 64), levels.tobytes())
    deep.save(out, quality=95)
    assert corners(out.getvalue()) == ((128, 64), "brb")


def test_without_its_package_heic_is_named_with_what_to_install(monkeypatch):
    data = heic(halves())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    error = error_of(data)
    assert error.code == "unsupported_image"
    assert "a HEIC image" in error.message
    assert "rerankfleet[heic]" in error.hint


def test_an_avif_that_pillow_cannot_read_is_named(monkeypatch):
    monkeypatch.setattr(formats.features, "check", lambda _: False)
    error = error_of(encoded(halves(), "AVIF"))
    assert (error.code, "an AVIF image" in error.message) == ("unsupported_image", True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("encode", [heic, lambda image: encoded(image, "AVIF")])
def test_the_size_in_the_header_is_checked_before_pixels_are_loaded(encode):
    data = encode(halves())
    small, large = (struct.pack(">II", *size) for size in ((128, 64), (12_000, 9_000)))
    assert small in data
    error = error_of(data.replace(small, large))
    assert (error.code, "12,000 × 9,000" in error.message) == ("image_too_large", True)


def test_of_several_pictures_the_first_is_read():
    for kind in ("MPO", "TIFF", "GIF", "WEBP"):
        other = Image.new("RGB", (128, 64), "green")
        data = encoded(halves(), kind, save_all=True, append_images=[other])
        assert corners(data) == ((128, 64), "brb")


# ---- what is not read ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "hint"),
    [
        (gzip.compress(b"x", mtime=0), "a gzip file", "unpack"),
        (b"PK\3\4" + bytes(30), "a ZIP archive", "unpack"),
        (b"%PDF-1.7", "a PDF document", "JPEG, PNG"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "an MP4 video", "frames"),
        (b"\0\0\0\x14ftypqt  \0\0\2\0qt  ", "a QuickTime video", "frames"),
        (b"\x1a\x45\xdf\xa3\1\0", "a Matroska video", "frames"),
        (b"<html><body>404", "a web page (HTML)", "leads to a page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing", "JPEG, PNG"),
        (b"<?xml version='1.0'?><Error/>", "an XML text", "leads to a page"),
        (b'{"error": "expired"}', "a JSON text", "leads to a page"),
        (b"Rate limit exceeded\n", "a plain text", "leads to a page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer", "git lfs pull"),
        (b"/annex/objects/MD5E-s1--0.jpg\n", "a git-annex pointer", "git annex get"),
        (b"outs:\n- md5: 0\n  path: a.jpg\n", "a DVC pointer", "dvc pull"),
        (b"8BPS\0\1", "a Photoshop file", "JPEG, PNG"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image", "JPEG, PNG"),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw photo of a camera", "JPEG, PNG"),
        (b"\0\5\x16\7\0\2\0\0", "a macOS resource file", "leave it out"),
        (bytes(range(9, 0, -1)), "a file of an unknown kind", "JPEG, PNG"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # they hold a time
)
def test_a_file_of_another_kind_is_not_called_damaged(data, kind, hint):
    error = error_of(data)
    assert error.code == "unsupported_image"
    assert kind in error.message
    assert hint in error.hint


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no bytes"),
        (bytes(5000), "a file of zeros"),
        (b"\xff\xd8\xff\xe0nonsense", "truncated or damaged"),
        (b"GIF89a", "like a GIF image"),
        (b"RIFF\0\0\0\0WEBPnonsense", "like a WebP image"),
        (b"II*\0\xff\xff\xff\xff", "like a TIFF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "like a HEIC image"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "like an AVIF image"),
    ],
)
def test_a_file_of_a_kind_that_is_read_is_called_damaged(data, words):
    error = error_of(data)
    assert (error.code, words in error.message) == ("invalid_image", True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(IMAGE_KINDS))
def test_a_truncated_image_of_any_kind_is_damaged_not_unsupported(kind):
    data = heic(halves()) if kind == "HEIF" else encoded(halves(), kind)
    for size in (16, 40, len(data) // 2):
        assert error_of(data[:size]).code == "invalid_image"


def test_the_thumbnail_of_a_raw_photo_is_not_taken_for_the_photo():
    """Given a TIFF file as cameras write them: a reduced picture first."""
    tags = formats.Image.Exif()
    tags[254] = 1
    data = encoded(halves(), "TIFF", tiffinfo=tags)
    assert "raw photo" in error_of(data).message
    tags[254] = 0
    assert decode(encoded(halves(), "TIFF", tiffinfo=tags), PLAIN).original == (128, 64)
