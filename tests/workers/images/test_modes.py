"""Pixels of every mode mean what their file says, upright and in sRGB, or are refused by name; and
a key names them all."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from rerankfleet.producer.given_images import as_file
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.decode import decode, prepare_image
from rerankfleet.workers.images.pool import Pool
from tests.support import raw_images
from tests.support.drawn import draw_leaves, encoded
from tests.support.raw_images import ADOBE_RGB, DISPLAY_P3, GREY, RGB, SRGB, png, tiff

PLAIN = ImageSpec(blur=False)
REFERENCE = ImageSpec(preset="reference")
SIDE = 64
"""Of images that are neither resampled nor cropped."""


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def both_ways(data: bytes) -> list[np.ndarray]:
    """The pixels of a file, and of the image that Pillow opens."""
    return [prepare_image(image, PLAIN).pixels for image in (data, opened(data))]


def four_columns(pixels: np.ndarray) -> list[list[int]]:
    """The colours of an image of four columns of 16 pixels."""
    columns = pixels.reshape(SIDE, 4, 16, 3)
    assert (columns == columns[:1, :, :1]).all()
    return columns[0, :, 0].tolist()


def packed(levels: list[int], bits: int) -> bytes:
    """A row of four columns, of samples of so many bits."""
    samples = "".join(f"{level:0{bits}b}" * 16 for level in levels)
    return bytes(int(samples[at : at + 8], 2) for at in range(0, len(samples), 8))


# ---- modes: levels and transparency -------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "levels", "transparent", "want"),
    [
        (1, [0, 1, 0, 1], 0, [255, 255, 255, 255]),
        (1, [0, 1, 0, 1], None, [0, 255, 0, 255]),
        (2, [0, 1, 2, 3], 1, [0, 255, 170, 255]),
        (2, [0, 1, 2, 3], None, [0, 85, 170, 255]),
        (4, [0, 3, 10, 15], 10, [0, 51, 255, 255]),
        (8, [0, 51, 100, 200], 100, [0, 51, 255, 200]),
        (16, [0, 257, 25_700, 25_701], 25_700, [0, 1, 255, 100]),
        (16, [0, 257, 25_700, 65_535], None, [0, 1, 100, 255]),
    ],
)
def test_grey_of_any_depth_has_its_levels_and_its_transparency(bits, levels, transparent, want):
    chunks = [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    data = png((SIDE, SIDE), bits, GREY, [packed(levels, bits)] * SIDE, chunks)
    for pixels in both_ways(data):
        assert four_columns(pixels) == [[level] * 3 for level in want]


def wide_rgb(transparent: tuple[int, int, int]) -> bytes:
    """16-bit colours, of which two differ in their lower bytes only."""
    colours = ((0, 0, 200), (0, 0, 0), (0, 0, 51_200), (65_535, 257, 0))
    row = b"".join(struct.pack(">3H", *colour) * 16 for colour in colours)
    chunk = (b"tRNS", struct.pack(">3H", *transparent))
    return png((SIDE, SIDE), 16, RGB, [row] * SIDE, [chunk])


@pytest.mark.parametrize(
    ("transparent", "which"),
    [((0, 0, 200), 0), ((0, 0, 0), 1), ((0, 0, 51_200), 2), ((65_535, 257, 0), 3), ((9, 9, 9), 4)],
)
def test_a_transparent_colour_of_16_bits_is_that_colour_alone(transparent, which):
    want = [[0, 0, 0], [0, 0, 0], [0, 0, 200], [255, 1, 0], [0, 0, 0]]
    want[which] = [255, 255, 255]
    for pixels in both_ways(wide_rgb(transparent)):
        assert four_columns(pixels) == want[:4]


def grey_of_2_bits(transparent: int) -> bytes:
    chunk = (b"tRNS", struct.pack(">H", transparent))
    return png((SIDE, SIDE), 2, GREY, [packed([0, 1, 2, 3], 2)] * SIDE, [chunk])


@pytest.mark.parametrize("data", [wide_rgb((0, 0, 51_200)), grey_of_2_bits(2)])
@pytest.mark.parametrize("entrance", [as_file, prepare_image])
def test_a_loaded_image_whose_transparent_colour_cannot_be_told_is_refused(data, entrance):
    image = opened(data)
    image.load()
    with pytest.raises(ItemError, match="transparent colour has other bits") as caught:
        entrance(image)
    assert caught.value.code == "unsupported_image"


def test_a_loaded_image_whose_transparent_colour_is_clear_is_read():
    colours = [0, 5, 200, 255]
    row = packed(colours, 8)
    data = png((SIDE, SIDE), 8, GREY, [row] * SIDE, [(b"tRNS", struct.pack(">H", 5))])
    for file in (data, grey_of_2_bits(0)):
        image = opened(file)
        image.load()
        assert (prepare_image(image, PLAIN).pixels == prepare_image(file, PLAIN).pixels).all()


@pytest.mark.parametrize(
    ("bits", "photometric", "samples", "want"),
    [
        (1, 1, [0, 1, 0, 1], [0, 255, 0, 255]),
        (1, 0, [0, 1, 0, 1], [255, 0, 255, 0]),
        (4, 0, [0, 3, 10, 15], [255, 204, 85, 0]),
        (8, 0, [0, 51, 100, 200], [255, 204, 155, 55]),
        (12, 1, [0, 16, 2056, 4095], [0, 1, 128, 255]),
        (16, 1, [0, 257, 32_896, 65_535], [0, 1, 128, 255]),
        (16, 0, [0, 257, 32_896, 65_535], [255, 254, 127, 0]),
    ],
)
def test_a_tiff_of_any_depth_has_its_levels(bits, photometric, samples, want):
    row = packed(samples, bits)
    if bits == 16:
        row = np.repeat(np.array(samples, "<u2"), 16).tobytes()
    data = tiff((SIDE, SIDE), bits, row * SIDE, photometric=photometric)
    for pixels in both_ways(data):
        assert four_columns(pixels) == [[level] * 3 for level in want]


@pytest.mark.parametrize(
    ("bits", "photometric", "sample_format"),
    [(8, 1, 2), (16, 1, 2), (32, 1, 2), (32, 1, 1), (32, 1, 3), (32, 0, 3)],
)
def test_samples_without_a_known_black_and_white_are_refused(bits, photometric, sample_format):
    data = tiff(
        (SIDE, SIDE),
        bits,
        bytes(SIDE * SIDE * bits // 8),
        photometric=photometric,
        sample_format=sample_format,
    )
    for image in (data, opened(data)):
        with pytest.raises(ItemError, match="black and white are not known") as caught:
            prepare_image(image, PLAIN)
        assert caught.value.code == "unsupported_image"
        assert "8 or 16 bits" in caught.value.hint


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_in_memory_of_unknown_range_is_refused(mode):
    with pytest.raises(ItemError, match="not known"):
        prepare_image(Image.new(mode, (SIDE, SIDE)), PLAIN)


def halves(mode: str) -> Image.Image:
    """Black beside white, both opaque."""
    image = Image.new("L", (SIDE, SIDE), 255)
    image.paste(0, (0, 0, SIDE // 2, SIDE))
    if mode.startswith("I;16"):
        wide = np.asarray(image).astype(">u2" if mode.endswith("B") else "<u2") * 257
        return Image.frombytes(mode, image.size, wide.tobytes())
    if mode == "La":
        return image.convert("LA").convert("La")
    if mode == "LAB":
        cms = ImageCms.createProfile
        return ImageCms.profileToProfile(
            image.convert("RGB"), cms("sRGB"), cms("LAB"), outputMode="LAB"
        )
    if mode in ("PA", "RGBa"):
        return image.convert("P" if mode == "PA" else "RGBA").convert(mode)
    return image.convert(mode if mode != "HSV" else "RGB").convert(mode)


MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I;16 I;16B".split()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_shows_black_and_white(mode):
    image = halves(mode)
    assert image.mode == mode
    pixels = prepare_image(image, PLAIN).pixels
    assert pixels[:, : SIDE // 2].max() <= 1
    assert pixels[:, SIDE // 2 :].min() >= 254


@pytest.mark.parametrize("mode", ["LA", "La", "RGBA", "RGBa", "PA"])
def test_what_is_transparent_lies_on_white_in_memory_too(mode):
    image = Image.new("LA" if mode in ("La", "PA") else "RGBA", (SIDE, SIDE))
    if mode == "PA":
        image = Image.new("P", (SIDE, SIDE)).convert("PA")
        image.putalpha(0)
    assert (prepare_image(image.convert(mode), PLAIN).pixels == 255).all()


def test_a_palette_may_hold_transparency_itself():
    """As one that Pillow made of an image with transparency does."""
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0)).quantize(4)
    assert image.palette is not None
    assert image.palette.mode == "RGBA"
    assert (prepare_image(image, PLAIN).pixels == 255).all()


def test_lab_shows_its_colours():
    red = Image.new("LAB", (SIDE, SIDE), (136, 128 + 81, 128 + 70))
    for image in (red, encoded(red, "TIFF")):
        pixel = prepare_image(image, PLAIN).pixels[0, 0].astype(int)
        assert abs(pixel - (255, 0, 0)).max() <= 8


def test_a_tiff_gives_its_first_page_and_in_memory_the_chosen_one():
    pages = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue")]
    data = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    second = opened(data)
    second.seek(1)
    colours = [prepare_image(image, PLAIN).pixels[0, 0].tolist() for image in (data, second)]
    assert colours == [[255, 0, 0], [0, 0, 255]]


# ---- orientation --------------------------------------------------------------------------------

BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright image is stored under an orientation."""


def stored(upright: Image.Image, kind: str, orientation: int, **options) -> bytes:
    image = upright.transpose(BACK[orientation]) if orientation in BACK else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_opened_image_is_turned_upright_once(kind, orientation):
    """Whether it was loaded before or not."""
    upright = Image.new("RGB", (128, 64), "white")
    upright.paste("black", (0, 0, 64, 32))
    data = stored(upright, kind, orientation)
    fresh, loaded = opened(data), opened(data)
    loaded.load()
    for image in (fresh, loaded):
        prepared = prepare_image(image, PLAIN)
        assert prepared.original == (128, 64)
        assert prepared.pixels[2:24, 2:56].max() < 30
        assert prepared.pixels[40:].min() > 225


@pytest.mark.parametrize("resize_mode", ["crop", "fit"])
@pytest.mark.parametrize("size", [(1023, 767), (1025, 769), (1022, 771), (1031, 770), (769, 1025)])
def test_a_reduced_jpeg_is_shifted_by_no_orientation(size, resize_mode):
    """Given sides that are no multiples of the reduction, whichever edge has the part that is left
    over."""
    upright = draw_leaves(*size, discs=100)
    options = ImageSpec(target=(128, 96), blur=False, resize_mode=resize_mode)
    whole = decode(encoded(upright, "PNG"), options).pixels.astype(int)
    differences = [
        abs(decode(stored(upright, "JPEG", each, quality=95), options).pixels - whole).mean()
        for each in range(1, 9)
    ]
    assert max(differences) < min(differences) + 0.3


# ---- colour profiles ----------------------------------------------------------------------------


def with_profile(profile: bytes, colour=(200, 100, 50), mode: str = "RGB", kind: str = "PNG"):
    image = Image.new(mode, (SIDE, SIDE), colour)
    return encoded(image, kind, icc_profile=profile, **({"quality": 100} if kind == "JPEG" else {}))


def linear(levels: tuple[int, ...], gamma: float) -> np.ndarray:
    return (np.array(levels) / 255) ** gamma


def in_srgb(
    colour: tuple[int, ...], primaries: tuple[tuple[float, float], ...], gamma: float
) -> np.ndarray:
    """A colour of other primaries in sRGB, by the definition of both, without any profile."""

    def to_xyz(each: tuple[tuple[float, float], ...]) -> np.ndarray:
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in each]).T
        return columns * np.linalg.solve(columns, (0.95047, 1.0, 1.08883))

    light = np.linalg.solve(to_xyz(SRGB), to_xyz(primaries) @ linear(colour, gamma)).clip(0, 1)
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return curve * 255


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("primaries", [ADOBE_RGB, DISPLAY_P3], ids=["Adobe RGB", "Display P3"])
def test_colours_become_srgb(kind, primaries):
    profile = raw_images.rgb_profile(primaries)
    data = with_profile(profile, kind=kind)
    plain = opened(data).convert("RGB").getpixel((0, 0))
    want = in_srgb(plain, primaries, 2.19921875)
    assert abs(want - plain).max() > 5
    for pixels in both_ways(data):
        assert abs(pixels[0, 0] - want).max() <= 2
    assert decode(data, REFERENCE).pixels[0, 0].tolist() == list(plain)


def test_colours_of_a_palette_become_srgb():
    profile = raw_images.rgb_profile(ADOBE_RGB)
    image = Image.new("RGB", (SIDE, SIDE), (200, 100, 50)).quantize(4)
    (paletted, in_memory) = both_ways(encoded(image, "PNG", icc_profile=profile))
    assert abs(paletted[0, 0] - in_srgb((200, 100, 50), ADOBE_RGB, 2.19921875)).max() <= 2
    assert (paletted == in_memory).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_by_its_profile(kind):
    data = with_profile(raw_images.cmyk_profile(), (255, 0, 0, 0), "CMYK", kind)
    for pixels in both_ways(data):
        red, green, blue = pixels[0, 0].tolist()
        assert red < 30
        assert 140 < green < 180
        assert 200 < blue < 240
    assert abs(decode(data, REFERENCE).pixels[0, 0].astype(int) - (0, 255, 255)).max() <= 3


def test_grey_has_a_profile_of_its_own_or_that_of_rgb():
    light = encoded(
        Image.new("L", (SIDE, SIDE), 128), "PNG", icc_profile=raw_images.grey_profile(1)
    )
    assert decode(light, PLAIN).pixels[0, 0].tolist() == [188, 188, 188]
    data = with_profile(raw_images.rgb_profile(SRGB, gamma=1.0), 128, "L")
    assert abs(decode(data, PLAIN).pixels[0, 0].astype(int) - 188).max() <= 1


def test_white_stays_white_and_an_srgb_profile_changes_nothing(leaves):
    on_white = Image.new("RGBA", (SIDE, SIDE), (0, 255, 0, 0))
    data = encoded(on_white, "PNG", icc_profile=raw_images.rgb_profile(ADOBE_RGB))
    assert (decode(data, PLAIN).pixels == 255).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tagged, plain = encoded(leaves, "PNG", icc_profile=srgb), encoded(leaves, "PNG")
    assert (decode(tagged, PLAIN).pixels == decode(plain, PLAIN).pixels).all()


CMYK_OF_RGB = raw_images.cmyk_profile()
GOOD = raw_images.rgb_profile(ADOBE_RGB)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    "profile",
    [b"x", b"no profile" * 50, GOOD[:200], GOOD[:128] + bytes(len(GOOD) - 128), CMYK_OF_RGB],
    ids=["a byte", "text", "cut", "zeros", "of CMYK"],
)
def test_a_broken_or_foreign_profile_is_ignored(kind, profile):
    data, plain = with_profile(profile, kind=kind), with_profile(b"", kind=kind)
    for pixels in both_ways(data):
        assert (pixels == decode(plain, PLAIN).pixels).all()


@pytest.mark.parametrize(
    "body",
    [
        b"name\0\0" + zlib.compress(bytes(3 << 20)),
        b"name\0\1" + zlib.compress(GOOD),
        b"name\0\0 not compressed",
        b"",
        b"name without an end",
    ],
    ids=["over a megabyte", "unknown method", "not compressed", "empty", "without end"],
)
@pytest.mark.filterwarnings("ignore")
def test_a_png_survives_a_chunk_of_its_profile_that_pillow_refuses(body):
    rows = [bytes((200, 100, 50)) * SIDE] * SIDE
    data = png((SIDE, SIDE), 8, RGB, rows, [(b"iCCP", body)])
    assert (decode(data, PLAIN).pixels == (200, 100, 50)).all()


def test_a_png_survives_a_wrong_checksum_of_its_profile():
    data = bytearray(with_profile(GOOD))
    data[data.index(b"iCCP") + 60] ^= 1
    assert decode(bytes(data), PLAIN).pixels[0, 0].tolist() == [200, 100, 50]


def test_a_process_of_the_pool_converts_within_its_memory():
    """Given an image of 48 MB of inks, and a process that may have little more than twice that."""
    big = Image.new("CMYK", (4000, 3000), (255, 0, 0, 0))
    data = encoded(big, "TIFF", compression="tiff_deflate", icc_profile=raw_images.cmyk_profile())
    with Pool(1, memory_bytes=112 << 20) as pool:
        got = pool.prepare(data, PLAIN).result().pixels
    assert (got == decode(data, PLAIN).pixels).all()


# ---- keys ---------------------------------------------------------------------------------------


def variants() -> dict[str, Image.Image | bytes]:
    """Images whose bytes of pixels are equal, and which look different."""
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 256, (SIDE, SIDE), np.uint8)
    palettes = {}
    for name, seed in (("one palette", 2), ("another palette", 3)):
        palettes[name] = Image.fromarray(levels, "L").convert("P")
        colours = np.random.default_rng(seed).integers(0, 256, 768, np.uint8)
        palettes[name].putpalette(colours.tobytes())
    clear = palettes["one palette"].copy()
    clear.info["transparency"] = bytes(256)
    alpha = palettes["one palette"].copy()
    alpha.putpalette(np.random.default_rng(2).integers(0, 256, 1024, np.uint8).tobytes(), "RGBA")
    grey = Image.fromarray(levels)
    key = grey.copy()
    key.info["transparency"] = 100
    profiled = grey.copy()
    profiled.info["icc_profile"] = raw_images.grey_profile(1.0)
    turned = {}
    for orientation in (2, 3):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned[f"orientation {orientation}"] = grey.copy()
        turned[f"orientation {orientation}"].info["exif"] = exif.tobytes()
    wide = Image.frombytes("L", (2 * SIDE, SIDE // 2), levels.tobytes())
    return (
        palettes
        | turned
        | {
            "transparent palette": clear,
            "palette of RGBA": alpha,
            "grey": grey,
            "transparent grey": key,
            "grey with a profile": profiled,
            "another shape": wide,
        }
    )


def test_images_that_look_different_have_different_keys():
    prepared = {name: prepare_image(image, PLAIN) for name, image in variants().items()}
    pixels = {image.pixels.tobytes() + bytes(image.size) for image in prepared.values()}
    assert len(pixels) == len(prepared)
    assert len({image.key for image in prepared.values()}) == len(prepared)


def test_images_that_look_alike_may_share_a_key():
    palette = variants()["one palette"]
    assert prepare_image(palette, PLAIN).key == prepare_image(palette.convert("RGB"), PLAIN).key


def test_files_that_differ_in_what_is_no_pixel_have_different_keys():
    image = Image.new("L", (SIDE, SIDE), 128).convert("P")
    files = [encoded(image, "PNG"), encoded(image, "PNG", transparency=128)]
    files += [encoded(image, "PNG", icc_profile=raw_images.rgb_profile(ADOBE_RGB))]
    files += [stored(image.convert("L"), "PNG", 3)]
    assert len({decode(data, PLAIN).key for data in files}) == len(files)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"max_crop": 0.15}, {"max_crop": 0.150_000_1}),
        ({"max_crop": 0.3}, {"max_crop": 0.3 + 1e-12}),
        ({"preset": "general"}, {"preset": "reference"}),
        ({"preset": "general"}, {"preset": "product"}),
        ({"target": (640, 480)}, {"target": (480, 640)}),
        ({"resize_mode": "fit"}, {"resize_mode": "crop"}),
        ({"resize_mode": "fit"}, {"resize_mode": "fit", "pad_color": (0, 0, 0)}),
        ({"pad_color": (1, 35, 0)}, {"pad_color": (18, 3, 0)}),
        ({"interpolation": "bicubic"}, {"interpolation": "lanczos"}),
        ({"blur": True}, {"blur": False}),
        ({"min_pixels": 4096}, {"min_pixels": 8192}),
        ({"max_pixels": 500_000}, {"max_pixels": 500_001}),
        ({"max_pixels": None}, {"max_pixels": 500_000}),
        ({"preset": "reference", "max_pixels": None}, {"preset": "reference"}),
    ],
)
def test_every_option_that_changes_pixels_is_in_the_key(jpeg, one, other):
    keys = [ImageSpec(**options).key() for options in (one, other)]
    assert keys[0] != keys[1]
    assert decode(jpeg, ImageSpec(**one)).key != decode(jpeg, ImageSpec(**other)).key


def test_the_exif_of_a_tiff_is_not_applied_again_after_a_copy():
    data = stored(Image.new("RGB", (128, 64), "red"), "TIFF", 6)
    image = opened(data)
    assert isinstance(image, TiffImagePlugin.TiffImageFile)
    image.load()
    assert prepare_image(image.copy(), PLAIN).original == (128, 64)
