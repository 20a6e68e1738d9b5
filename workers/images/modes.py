"""Pixels of any mode of Pillow -> 8 bits on white, and their colours -> sRGB.

What cannot be turned into colours for certain is refused: a guess would be a wrong score.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from rerankfleet.shared.content.given import grey_range, refuse_unclear_transparency

WHITE = (255, 255, 255)
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PROFILES_KEPT = 16
"""Colour profiles whose transformations are kept: those of a catalog are few."""
UNCHANGED = 1
"""A profile that moves no colour by more levels than this is sRGB by another name."""

#: PNG's bits of a grey sample -> the level that 1 becomes in 8 bits.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
#: A mode -> the colour space that its profile must be of.
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}

Levels = npt.NDArray[np.uint16]


def raw_mode(image: Image.Image) -> str:
    """How the file holds a pixel, in Pillow's words (`L;4`, `RGB;16B`); empty once it is loaded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else None
    mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return mode if isinstance(mode, str) else ""


def low_bytes(image: Image.Image) -> Image.Image | None:
    """The lower bytes of a PNG of 16-bit RGB with a transparent colour, which is not loaded yet:
    the image itself will hold the upper ones. None for any other image."""
    if raw_mode(image) != "RGB;16B" or "transparency" not in image.info:
        return None
    stream = image.fp  # type: ignore[attr-defined]
    position = stream.tell()
    stream.seek(0)
    twin = Image.open(io.BytesIO(stream.read()), formats=("PNG",))
    stream.seek(position)
    twin.tile = [twin.tile[0]._replace(args="RGB;16L")]
    twin.load()
    return twin


def flattened(
    image: Image.Image, raw: str, low: Image.Image | None, profile: bytes | None
) -> Image.Image:
    """A loaded image as L or RGB of 8 bits, transparency composited onto white; CMYK stays so if it
    has a profile, which `to_rgb` needs it for.

    `raw` and `low` are its `raw_mode` and `low_bytes` before it was loaded. Raises ItemError
    (`unsupported_image`) for pixels whose black and white are not known.
    """
    white, is_inverted = grey_range(image)
    if image.mode.startswith("I;16"):
        return _from_16_bits(image, white, is_inverted)
    if low is not None:
        return _without_wide_colour(image, low)
    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        return _on_white(_with_8_bit_key(image, raw))
    if image.mode in ("1", "L"):
        return image.convert("L")
    return image if image.mode == "CMYK" and profile else image.convert("RGB")


def to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """What `flattened` gave, as RGB: by its colour profile in sRGB, or without one as it is.

    A profile that is broken, or of another kind of colours, is ignored.
    """
    if not profile:
        return image.convert("RGB")
    if transform := _transform(profile, image.mode):
        return _transformed(image, transform)
    if image.mode == "L" and (transform := _transform(profile, "RGB")):
        return _transformed(image.convert("RGB"), transform)
    return image.convert("RGB")


# ---- modes --------------------------------------------------------------------------------------


def _from_16_bits(image: Image.Image, white: int, is_inverted: bool) -> Image.Image:
    """Grey of 16 bits, or of 12 in a TIFF, as 8: by a table, rounded."""
    levels: Levels = np.asarray(image)
    table = np.minimum((np.arange(1 << 16) * 255 + white // 2) // white, 255).astype(np.uint8)
    if is_inverted:
        table = 255 - table
    grey = table[levels]
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey)


def _without_wide_colour(high: Image.Image, low: Image.Image) -> Image.Image:
    """RGB whose transparent colour has 16 bits: white where all six bytes are that colour's."""
    colour = np.array(high.info["transparency"], np.uint16)
    pixels = np.array(high)
    pixels[((pixels == colour >> 8) & (np.asarray(low) == colour & 255)).all(axis=2)] = 255
    return Image.fromarray(pixels)


def _with_8_bit_key(image: Image.Image, raw: str) -> Image.Image:
    """The image with the level that is transparent as its pixels have it: Pillow leaves it as the
    PNG has it, of 2 or 4 bits. Raises ItemError where that cannot be told."""
    key = image.info.get("transparency")
    if image.mode == "L" and isinstance(key, int) and raw in _GREY_STEPS:
        image = image.copy()
        image.info["transparency"] = key * _GREY_STEPS[raw]
    elif not raw:
        refuse_unclear_transparency(image)
    return image


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    flat = Image.new("RGB", image.size, WHITE)
    flat.paste(image, mask=image.getchannel("A"))
    return flat


# ---- colours ------------------------------------------------------------------------------------


def without_png_profile(data: bytes) -> bytes | None:
    """A PNG without its colour profile, which Pillow refuses a PNG for where it is broken or over a
    megabyte; None when there is none."""
    at = len(PNG_SIGNATURE)
    while (
        data.startswith(PNG_SIGNATURE) and len(data) >= at + 8 and data[at + 4 : at + 8] != b"IDAT"
    ):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] == b"iCCP":
            return data[:at] + data[end:]
        at = end
    return None


@lru_cache(1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(PROFILES_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None when there is nothing to do, or it cannot be done."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _SPACES.get(mode):
            return None
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
        colours = _all_colours(mode)
        changed = np.asarray(_transformed(colours, transform)).astype(int)
    except MemoryError:
        raise
    except Exception:  # a broken profile must not cost the image
        return None
    before = np.asarray(colours.convert("RGB"))
    return transform if abs(changed - before).max() > UNCHANGED else None


def _all_colours(mode: str) -> Image.Image:
    """An image with colours from everywhere in a mode's space."""
    bands = Image.getmodebands(mode)
    steps = np.linspace(0, 255, {1: 256, 3: 17, 4: 9}[bands]).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * bands, indexing="ij"), axis=-1).reshape(1, -1, bands)
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def _transformed(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is, unless in place
    return converted
