"""Untrusted bytes become an image or a clear error, whatever they are."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.decode import decode, prepare_image
from tests.support.drawn import draw_leaves, encoded

PLAIN = ImageSpec(blur=False)
REFERENCE = ImageSpec(preset="reference")


def error_of(data: bytes, options: ImageSpec = PLAIN) -> ItemError:
    with pytest.raises(ItemError) as caught:
        decode(data, options)
    return caught.value


def mean_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


# ---- what can be read ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_all_formats_give_the_same_image(leaves, encode, kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}, "AVIF": {"quality": 95}}.get(
        kind, {}
    )
    image = decode(encode(leaves, kind, **options), PLAIN)
    assert image.kind == kind.lower()
    assert image.original == image.size == (640, 480)
    assert image.tokens == 20 * 15
    assert image.quality >= 0.8
    assert image.pixels.flags.c_contiguous
    assert mean_difference(image.pixels, np.asarray(leaves)) < {
        "GIF": 12,
        "JPEG": 4,
        "AVIF": 4,
    }.get(kind, 0.1)


def two_halves(mode: str) -> Image.Image:
    """Black on the left, white on the right, as a mode of Pillow."""
    image = Image.new("L", (128, 64), 255)
    image.paste(0, (0, 0, 64, 64))
    if mode == "I;16":
        return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *((mode, "PNG") for mode in ("1", "L", "P", "LA", "I;16")),
        *((mode, "JPEG") for mode in ("L", "CMYK", "YCbCr")),
        *((mode, "TIFF") for mode in ("CMYK", "I;16")),
    ],
)
def test_all_modes_become_rgb(mode, kind):
    pixels = decode(encoded(two_halves(mode), kind), PLAIN).pixels
    assert pixels.shape == (64, 128, 3)
    assert pixels[:, :56].max() <= 8
    assert pixels[:, 72:].min() >= 247


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "GIF"), ("RGBA", "WEBP")]
)
def test_what_is_transparent_lies_on_white(mode, kind):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 32, 64))
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = decode(encoded(image.convert(mode), kind, **options), PLAIN).pixels
    assert pixels[:, :30].max() == 0
    assert pixels[:, 34:].min() == 255


def test_16_bits_are_scaled_not_cut():
    levels = np.full((64, 64), 32_896, np.uint16)
    assert (decode(encoded(Image.fromarray(levels), "PNG"), PLAIN).pixels == 128).all()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, PLAIN).pixels[0, 0].tolist() == [255, 0, 0]


# ---- orientation --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_image_is_turned_upright(kind, orientation):
    upright = Image.new("RGB", (256, 128), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 63, 31), fill="black")
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = decode(encoded(stored, kind, exif=exif), ImageSpec(blur=False, target=(64, 32)))

    assert image.original == (256, 128)
    assert image.size == (64, 32)
    assert image.pixels[2:6, 2:12].max() < 30
    assert image.pixels[10:, 20:].min() > 225


@pytest.mark.filterwarnings("ignore")
def test_broken_exif_costs_nothing(leaves):
    data = encoded(leaves, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff" + b"\xee" * 40)
    assert decode(data, PLAIN).size == (640, 480)


# ---- the way to its size ------------------------------------------------------------------------


def test_a_jpeg_at_reduced_scale_is_close_to_the_whole_way():
    big = draw_leaves(2048, 1536)
    data = encoded(big, "JPEG", quality=95)
    fast = decode(data, ImageSpec(target=(512, 384), blur=False)).pixels
    whole = Image.open(io.BytesIO(data)).resize((512, 384), Image.Resampling.BICUBIC)
    assert mean_difference(fast, np.asarray(whole)) <= 1.2


def test_the_reference_is_one_resample_of_all_pixels(leaves):
    data = encoded(leaves.resize((2000, 1500)), "JPEG")
    plain = Image.open(io.BytesIO(data)).resize((1536, 1152), Image.Resampling.BICUBIC)
    assert (decode(data, REFERENCE).pixels == np.asarray(plain)).all()


def test_a_crop_cuts_around_the_centre(leaves):
    image = leaves.resize((640, 400))
    prepared = decode(encoded(image, "PNG"), PLAIN)
    assert prepared.size == (640, 352)
    assert prepared.cropped_share == pytest.approx(0.1)
    plain = image.resize((640, 352), Image.Resampling.BICUBIC, box=(0, 20, 640, 380))
    assert (prepared.pixels == np.asarray(plain)).all()


def test_padding_is_around_the_whole_image():
    options = ImageSpec(resize_mode="fit", pad_color=(1, 2, 3))
    prepared = decode(encoded(Image.new("RGB", (1000, 1000), "white"), "PNG"), options)
    assert prepared.size == (1024, 768)
    assert prepared.pixels[5, 5].tolist() == [1, 2, 3]
    assert (prepared.pixels[:, 128:896] == 255).all()


def test_the_key_is_of_bytes_and_options(jpeg):
    image = decode(jpeg, PLAIN)
    assert image == decode(jpeg, PLAIN)
    assert len({image, decode(jpeg, PLAIN)}) == 1
    assert image != decode(jpeg, ImageSpec())
    assert image != decode(jpeg + b"\0", PLAIN)


def test_prepare_image_takes_what_a_program_holds(leaves, jpeg, tmp_path):
    path = tmp_path / "leaves.jpg"
    path.write_bytes(jpeg)
    with Image.open(path) as opened:
        images = [prepare_image(source) for source in (path, str(path), jpeg, opened)]
    for image in images[1:]:
        assert (image.pixels == images[0].pixels).all()
    assert prepare_image(leaves).kind == "pixels"
    assert prepare_image(leaves) == prepare_image(leaves.copy())
    with pytest.raises(ItemError, match="cannot be read"):
        prepare_image(tmp_path / "none.jpg")


def test_an_image_in_memory_has_the_limits_of_a_file():
    for size, code in (((20_000, 6_000), "image_too_large"), ((20_001, 100), "unsupported_image")):
        with pytest.raises(ItemError) as caught:
            prepare_image(Image.new("1", size))
        assert caught.value.code == code


# ---- what cannot be read ------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims this size, without any pixels."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", b""),
    ):
        check = struct.pack(">I", zlib.crc32(name + body))
        chunks += struct.pack(">I", len(body)) + name + body + check
    return chunks


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "invalid_image", "no bytes"),
        (b"<!DOCTYPE html><html>404</html>", "unsupported_image", "web page"),
        (b"%PDF-1.7 " + b"x" * 99, "unsupported_image", "a PDF document"),
        (b"\x89PNG\r\n\x1a\nnonsense", "invalid_image", "damaged"),
        (png_header(30_000, 30_000), "image_too_large", "100,000,000"),
        (png_header(12_000, 9_000), "image_too_large", "12,000 × 9,000"),
        (png_header(70_000, 1_000), "image_too_large", "70,000"),
        (png_header(20_000, 1), "unsupported_image", "200 times"),
        (png_header(640, 480), "invalid_image", "truncated"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_each_bad_input_has_its_outcome(data, code, words):
    error = error_of(data)
    assert error.code == code
    assert words in str(error)
    assert error.hint


def test_a_truncated_image_is_no_image(jpeg):
    assert error_of(jpeg[: len(jpeg) // 2]).code == "invalid_image"


def test_floating_point_pixels_are_refused():
    image = Image.fromarray(np.zeros((64, 64), np.float32))
    assert error_of(encoded(image, "TIFF")).code == "unsupported_image"


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 200), (33, 31)])
def test_the_smallest_images_have_an_outcome(size):
    image = decode(encoded(Image.new("RGB", size, "red"), "PNG"), ImageSpec())
    assert image.original == size
    assert image.tokens >= 4
    assert image.pixels[0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore")
def test_mutated_bytes_give_an_image_or_an_item_error():
    """Given small images of every format, when some bytes are changed, cut out or doubled, then
    nothing but an ItemError is raised."""
    rng = random.Random(3)
    small = draw_leaves(48, 40, discs=20)
    kinds = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
    seeds = [encoded(small, kind) for kind in kinds]
    seeds.append(encoded(small, "TIFF", compression="tiff_lzw"))
    seeds.append(encoded(small, "JPEG", progressive=True, exif=Image.Exif()))
    options = (ImageSpec(target=(32, 32)), REFERENCE)
    outcomes = {"picture": 0, "error": 0}
    for number in range(3_000):
        data = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.randint(1, 6)):
            reach = rng.choice((len(data), 64))  # half of them into the header
            at = rng.randrange(min(reach, len(data)))
            match rng.randrange(4):
                case 0:
                    data[at] = rng.randrange(256)
                case 1:
                    del data[at : at + rng.randint(1, 8)]
                case 2:
                    data[at:at] = data[at : at + rng.randint(1, 8)]
                case 3:
                    data[at : at + 4] = rng.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
        try:
            decode(bytes(data), options[number % 2])
            outcomes["picture"] += 1
        except ItemError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 300


@pytest.mark.parametrize("size", [(1000, 700), (333, 1000), (1003, 701), (40, 9)])
def test_a_padded_image_of_any_size_has_a_quality(size):
    options = ImageSpec(resize_mode="fit", pad_color=(0, 0, 0))
    assert 0 <= prepare_image(Image.new("RGB", size, "white"), options).quality <= 1
