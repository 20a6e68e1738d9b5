"""Images that a program holds reach a worker as the pixels that they are."""

from __future__ import annotations

import base64
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rerankfleet.producer.given_images import ImageSender, as_file, inline_uri
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.content.uris import DATA_URI_BYTES
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.decode import decode, prepare_image
from tests.support.drawn import drawn, encoded
from tests.support.raw_images import ADOBE_RGB, GREY, cmyk_profile, png, rgb_profile, tiff

PLAIN = ImageSpec(blur=False)
SIZE = (64, 64)


def opened(data: bytes, *, loaded: bool = False) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    if loaded:
        image.load()
    return image


def turned(kind: str, mode: str = "RGB") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(drawn(3).convert(mode), kind, exif=exif)


def pil_images() -> dict[str, Image.Image]:
    photo = drawn(1)
    modes = "1 L LA P PA RGB RGBA RGBX CMYK YCbCr HSV"
    images = {f"mode {mode}": photo.convert(mode) for mode in modes.split()}
    cut = photo.convert("RGBA")
    cut.putalpha(Image.linear_gradient("L").resize(cut.size))
    ramp = np.linspace(0, 65_535, 64 * 64).astype("<u2").tobytes()
    wide = Image.frombytes("I;16", SIZE, ramp)
    profile = rgb_profile(ADOBE_RGB)
    profiled = photo.copy()
    profiled.info["icc_profile"] = profile
    inks = photo.convert("CMYK")
    inks.info["icc_profile"] = cmyk_profile()
    clear = photo.convert("L")
    clear.info["transparency"] = clear.getpixel((0, 0))
    twelve = bytes(range(96)) * 64
    row = bytes([0b00011011]) * 16
    grey4 = png(SIZE, 2, GREY, [row] * 64, [(b"tRNS", struct.pack(">H", 2))])
    return images | {
        "LAB": Image.merge("LAB", photo.split()),
        "RGBa": cut.convert("RGBa"),
        "La": cut.convert("LA").convert("La"),
        "palette with transparency": cut.quantize(16),
        "I;16": wide,
        "Adobe RGB": profiled,
        "CMYK by profile": inks,
        "transparent grey": clear,
        "grey of 2 bits": opened(grey4),
        "TIFF of 12 bits": opened(tiff(SIZE, 12, twelve)),
        "TIFF, white is zero": opened(tiff(SIZE, 16, ramp, photometric=0)),
        "TIFF on its side": opened(turned("TIFF")),
        "loaded TIFF on its side": opened(turned("TIFF"), loaded=True),
        "JPEG on its side": opened(turned("JPEG")),
        "JPEG of inks on its side": opened(turned("JPEG", "CMYK")),
        "a GIF": opened(encoded(photo, "GIF")),
        "a progressive JPEG": opened(encoded(photo, "JPEG", progressive=True)),
    }


@pytest.mark.parametrize("name", pil_images())
def test_a_pil_image_is_sent_with_every_pixel_that_it_has_here(name):
    kind, data = as_file(pil_images()[name])
    sent, here = decode(data, PLAIN), prepare_image(pil_images()[name], PLAIN)
    assert sent.kind == kind
    assert sent.original == here.original
    off_by_one = {"TIFF of 12 bits"}
    difference = abs(sent.pixels.astype(int) - here.pixels).max()
    assert difference <= (1 if name in off_by_one else 0)


def arrays() -> list[np.ndarray]:
    pixels = np.asarray(drawn(2))
    with_alpha = np.dstack([pixels, pixels[..., 0]])
    return [pixels, pixels[..., 1], with_alpha, pixels[::-1, ::2], pixels[..., ::-1]]


@pytest.mark.parametrize("number", range(5))
def test_an_array_is_sent_as_its_pixels(number):
    array = arrays()[number]
    kind, data = as_file(array)
    assert (kind, decode(data, PLAIN)) == ("png", decode(data, PLAIN))
    assert (decode(data, PLAIN).pixels == prepare_image(array, PLAIN).pixels).all()
    mode = {2: "L", 3: "RGB", 4: "RGBA"}[array.ndim if array.ndim == 2 else array.shape[2]]
    assert (np.asarray(opened(data).convert(mode)) == array).all()


WRONG = [
    (np.zeros((8, 8, 3), np.float32), r"an array of float32 \[8, 8, 3\]"),
    (np.zeros((8, 8), bool), r"an array of bool \[8, 8\]"),
    (np.zeros((8, 8), np.uint16), "an array of uint16"),
    (np.zeros((3, 8, 8), np.uint8), r"an array of uint8 \[3, 8, 8\]"),
    (np.zeros((8, 8, 1), np.uint8), r"\[8, 8, 1\]"),
    (np.zeros((2, 8, 8, 3), np.uint8), r"\[2, 8, 8, 3\]"),
    (np.zeros((0, 8, 3), np.uint8), r"\[0, 8, 3\]"),
    (np.zeros(8, np.uint8), r"\[8\]"),
    (np.ma.masked_array(np.zeros((8, 8), np.uint8)), r"a masked array of uint8 \[8, 8\]"),
    (object(), "an object of the type object"),
    ({1}, "an object of the type set"),
]


@pytest.mark.parametrize(("image", "words"), WRONG)
@pytest.mark.parametrize("entrance", [as_file, prepare_image])
def test_anything_else_is_refused_in_one_sentence(image, words, entrance):
    with pytest.raises(ItemError, match=rf"an image is .*{words}.*; expected the bytes") as caught:
        entrance(image)
    assert caught.value.code == "unsupported_image"
    assert "uint8 [height, width] (grey), [height, width, 3] (RGB)" in caught.value.message


@pytest.mark.parametrize("entrance", [lambda given: as_file(given)[1], prepare_image])
def test_files_are_read_however_they_are_given(entrance, tmp_path):
    data = encoded(drawn(1))
    path = tmp_path / "drawn.png"
    path.write_bytes(data)
    written = io.BytesIO()
    written.write(data)  # left at its end
    with path.open("rb") as stream:
        given = [data, bytearray(data), memoryview(data), path, stream, stream, written]
        assert len({entrance(each) for each in given}) == 1
    assert written.tell() == len(data)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "text").write_text("text")
    closed = io.BytesIO(b"x")
    closed.close()
    with (tmp_path / "text").open() as text:
        for given, code, words in (
            (tmp_path / "none.png", "not_found", "No such file"),
            (tmp_path, "not_found", "cannot be read"),
            (Path("nul\0"), "not_found", "not a path"),
            (closed, "not_found", "closed file"),
            (text, "unsupported_image", "open it in binary mode"),
        ):
            for entrance in (as_file, prepare_image):
                with pytest.raises(ItemError, match=words) as caught:
                    entrance(given)
                assert caught.value.code == code


def test_a_file_without_bytes_is_refused():
    for given in (b"", io.BytesIO()):
        for entrance in (as_file, prepare_image):
            with pytest.raises(ItemError, match="no bytes") as caught:
                entrance(given)
            assert caught.value.code == "invalid_image"


def test_a_file_over_the_limit_is_refused(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(bytes(101))
    for given in (bytes(101), path, io.BytesIO(bytes(101))):
        with pytest.raises(ItemError, match="larger than 100 bytes") as caught:
            as_file(given, 100)
        assert caught.value.code == "too_large"
        assert as_file(given, 101) == ("unknown", bytes(101))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused_before_they_are_sent(mode):
    with pytest.raises(ItemError, match="black and white are not known"):
        as_file(Image.new(mode, SIZE))


def test_a_damaged_file_that_pil_opened_is_refused():
    image = opened(encoded(drawn(1), "PNG")[:400])
    with pytest.raises(ItemError, match="truncated or damaged") as caught:
        as_file(image)
    assert caught.value.code == "invalid_image"


# ---- the way ------------------------------------------------------------------------------------


def test_small_images_travel_in_the_request_and_large_ones_as_uploads(store, objects, settings):
    settings = settings.model_copy(update={"inline_bytes_max": 2000})
    small, large = bytes(range(60)), bytes(3000)
    with ImageSender(store, objects, settings) as sender:
        inline, upload, again = (sender.uri(each) for each in (small, large, small))
        assert base64.b64decode(inline.partition(",")[2]) == small
        assert again == inline
        assert upload.startswith(objects.at("uploads"))
        assert objects.read(upload) == large
    assert not objects.exists(upload)


def test_images_leave_room_for_the_texts_of_their_request(store, objects, settings):
    settings = settings.model_copy(update={"inline_bytes_max": 2000})
    with ImageSender(store, objects, settings) as sender:
        uris = [sender.uri(bytes(300)) for _ in range(4)]
    assert [uri.startswith("data:") for uri in uris] == [True, True, False, False]


def test_a_query_of_a_catalog_is_never_an_upload():
    """Since an upload may expire before its job ends."""
    assert inline_uri(b"abc") == "data:image/unknown;base64,YWJj"
    with pytest.raises(ItemError, match=f"at most {DATA_URI_BYTES:,} are sent"):
        inline_uri(bytes(DATA_URI_BYTES))
