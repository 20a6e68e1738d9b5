"""Bytes of an untrusted image -> a PreparedImage. Runs in child processes: see pool.py.

Formats are allow-listed, the size in the header is checked before pixels are loaded, and any
exception of a codec becomes an ItemError. Colours become sRGB by the image's profile, except in the
`reference` preset: the model's authors ignore profiles.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rerankfleet.shared.addresses import safe_uri, scheme_of
from rerankfleet.shared.content.data_uris import carries_file
from rerankfleet.shared.content.given import Given, file_bytes, is_pil, refuse_empty
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.formats import formats_for, refuse, refuse_raw
from rerankfleet.workers.images.modes import (
    flattened,
    low_bytes,
    raw_mode,
    to_rgb,
    without_png_profile,
)
from rerankfleet.workers.images.prepared import Pixels, PreparedImage
from rerankfleet.workers.images.quality import measure_quality
from rerankfleet.workers.images.resize import SizePlan, blur, check_shape, plan_size

PIXELS_MAX = 100_000_000
SIDE_MAX = 65_000

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
#: EXIF orientation -> the transposition that turns the image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
#: Orientations whose left edge, and whose top edge, is the stored image's right or bottom edge.
_LEFT_IS_FAR, _TOP_IS_FAR = (2, 3, 6, 7), (3, 4, 7, 8)


def prepare_image(image: Given | str, options: ImageSpec | None = None) -> PreparedImage:
    """An image as the model would see it. Decodes in this process: only for images that you trust.

    `image` is the bytes of a file, a path, a file open in binary mode, a PIL image, or a numpy
    array of uint8 [height, width] (grey), [height, width, 3] (RGB) or [height, width, 4] (RGBA).
    Raises ItemError when it cannot be used.
    """
    options = options or ImageSpec()
    given: Given = _path(image) if isinstance(image, str) else image
    data = file_bytes(given)
    if data is not None:
        return decode(data, options)
    return _prepare_pixels(given if is_pil(given) else Image.fromarray(given), options)


def _path(image: str) -> Path:
    """Raises ItemError for an address or base64: nothing is fetched here."""
    if scheme_of(image) or carries_file(image):
        shown = safe_uri(image) if scheme_of(image) else "base64"
        raise ItemError(
            "unsupported_image",
            f"the image is {shown}; expected a path, or what a program holds of it",
            hint="pass the path, or the bytes of the file",
        )
    return Path(image)


def _prepare_pixels(image: Image.Image, options: ImageSpec) -> PreparedImage:
    """An image in memory, whose key is that of its prepared pixels: its own bytes may be indices
    into a palette, to be turned, or mean other colours by a profile."""
    with _item_errors():
        _check_header(image.size)
        prepared = _prepared(image, options, key="", kind="pixels", laps=_Laps())
    key = hashlib.sha256(f"{prepared.pixels.shape} {options.key()}\n".encode())
    key.update(prepared.pixels.data.cast("B"))
    return replace(prepared, key=key.hexdigest())


def decode(data: bytes, options: ImageSpec) -> PreparedImage:
    """Decode, turn upright, crop, resample and blur.

    Raises ItemError: `invalid_image` (empty, truncated, damaged), `unsupported_image` (format, mode
    or shape), `image_too_large` (by its header).
    """
    refuse_empty(data)
    key = hashlib.sha256(hashlib.sha256(data).digest() + options.key().encode()).hexdigest()
    try:
        return _decode(data, options, key)
    except ItemError:
        rest = without_png_profile(data)
        if rest is None:
            raise
        return _decode(rest, options, key)


def _decode(data: bytes, options: ImageSpec, key: str) -> PreparedImage:
    laps = _Laps()
    with _item_errors():
        try:
            opened = Image.open(io.BytesIO(data), formats=formats_for(data))
        except UnidentifiedImageError:
            refuse(data)
        with opened as image:
            _check_header(image.size)
            refuse_raw(image)
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()
            return _prepared(image, options, key, kind=kind, laps=laps)


@contextmanager
def _item_errors() -> Iterator[None]:
    """Turn whatever an image causes into ItemError: on damaged bytes, codecs raise anything."""
    try:
        yield
    except ItemError:
        raise
    except Image.DecompressionBombError as error:  # Pillow checks the header too
        raise ItemError(
            "image_too_large",
            f"the image has many more than {PIXELS_MAX:,} pixels",
            hint="scale it down",
        ) from error
    except MemoryError as error:
        raise ItemError(
            "image_too_large", "the image does not fit into memory", hint="scale it down"
        ) from error
    except Exception as error:
        raise ItemError(
            "invalid_image",
            f"the image is truncated or damaged ({type(error).__name__})",
            hint="save the image again",
        ) from error


def _check_header(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > PIXELS_MAX or max(size) > SIDE_MAX:
        raise ItemError(
            "image_too_large",
            f"the image has {width:,} × {height:,} pixels; at most {PIXELS_MAX:,} in all and"
            f" {SIDE_MAX:,} a side are read",
            hint="scale it down",
        )
    check_shape(width, height)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where it is missing or broken."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF data must not cost the image
        return 1
    return orientation if orientation in _UPRIGHT else 1


class _Laps:
    """Seconds of consecutive stages."""

    def __init__(self) -> None:
        self.stages_s: dict[str, float] = {}
        self._since_s = time.monotonic()

    def end(self, stage: str) -> None:
        """Add the time since the last end to this stage."""
        now_s = time.monotonic()
        self.stages_s[stage] = self.stages_s.get(stage, 0.0) + now_s - self._since_s
        self._since_s = now_s


def _prepared(
    image: Image.Image, options: ImageSpec, key: str, *, kind: str, laps: _Laps
) -> PreparedImage:
    """An opened image -> a PreparedImage."""
    raw, low = raw_mode(image), low_bytes(image)
    if kind != "jpeg":
        image.load()  # TIFF is turned upright while it loads
    orientation = _orientation(image)
    width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
    plan = plan_size(width, height, options)
    reduced = _draft(image, plan) if kind == "jpeg" and not options.is_reference else 1
    image.load()
    profile = None if options.is_reference else _profile(image)
    flat = flattened(image, raw, low, profile)
    if orientation in _UPRIGHT:
        flat = flat.transpose(_UPRIGHT[orientation])
    laps.end("decode")
    left = flat.width - width / reduced if orientation in _LEFT_IS_FAR else 0
    top = flat.height - height / reduced if orientation in _TOP_IS_FAR else 0
    box = _moved(plan.box, reduced, left, top, flat.size)
    pixels = np.array(to_rgb(_resampled(flat, box, plan.inner, options), profile))
    laps.end("resize")
    measured = measure_quality(pixels)
    laps.end("quality")
    if options.blurs:
        pixels = blur(pixels)
    pixels = _padded(pixels, plan, options)
    laps.end("resize")
    return PreparedImage(
        key=key,
        pixels=pixels,
        original=(width, height),
        cropped_share=plan.cropped_share,
        sharpness=measured.sharpness,
        exposure=measured.exposure,
        kind=kind,
        stages_s=laps.stages_s,
    )


def _draft(image: Image.Image, plan: SizePlan) -> int:
    """Let libjpeg decode at 1/2, 1/4 or 1/8 if the crop stays as large as its target. Returns the
    divisor."""
    left, top, right, bottom = plan.box
    wide, high = plan.inner
    if (right - left < bottom - top) != (image.width < image.height):
        wide, high = high, wide
    sides = sorted((right - left, bottom - top)), sorted((wide, high))
    room = min(source // target for source, target in zip(*sides, strict=True))
    divisor = next((d for d in (8, 4, 2) if d <= room), 1)
    if divisor == 1:
        return 1
    before = image.width
    image.draft(None, (image.width // divisor, image.height // divisor))
    return round(before / image.width)


def _profile(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) and profile else None


Box = tuple[float, float, float, float]


def _moved(
    box: tuple[int, int, int, int], reduced: int, left: float, top: float, size: tuple[int, int]
) -> Box:
    """A crop's box in the pixels of the reduced image. That is larger than the image by part of a
    pixel, where its sides are no multiples of the divisor: at its left and top, once it is turned
    over."""
    edges = [side / reduced for side in box]
    return (
        edges[0] + left,
        edges[1] + top,
        min(edges[2] + left, size[0]),
        min(edges[3] + top, size[1]),
    )


def _resampled(
    image: Image.Image, box: Box, size: tuple[int, int], options: ImageSpec
) -> Image.Image:
    """The crop, resampled once to its final size, or not at all if it has that size already."""
    if (box, image.size) == ((0, 0, *image.size), size):
        return image
    return image.resize(size, _RESAMPLING[options.interpolation], box=box)


def _padded(pixels: Pixels, plan: SizePlan, options: ImageSpec) -> Pixels:
    """Centred in a frame of `pad_color`, if the plan pads."""
    if plan.inner == plan.size or options.pad_color is None:
        return pixels
    (wide, high), (inner_w, inner_h) = plan.size, plan.inner
    frame = np.empty((high, wide, 3), np.uint8)
    frame[:] = options.pad_color
    left, top = (wide - inner_w) // 2, (high - inner_h) // 2
    frame[top : top + inner_h, left : left + inner_w] = pixels
    return frame
