"""Bytes of an untrusted image -> a PreparedImage. Runs in child processes: see pool.py.

Formats are allow-listed, the size in the header is checked before pixels are loaded, and any
exception of a codec becomes an ItemError. Colour profiles are ignored, as by the model's authors.
"""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.formats import formats_for, refuse, refuse_raw
from rerankfleet.workers.images.prepared import Pixels, PreparedImage
from rerankfleet.workers.images.quality import measure_quality
from rerankfleet.workers.images.resize import SizePlan, blur, check_shape, plan_size

PIXELS_MAX = 100_000_000
SIDE_MAX = 65_000
WHITE = (255, 255, 255)

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


def prepare_image(
    image: Image.Image | Path | str | bytes, options: ImageSpec | None = None
) -> PreparedImage:
    """An image as the model would see it. Decodes in this process: only for images that you trust.

    Raises ItemError when it cannot be used.
    """
    options = options or ImageSpec()
    if isinstance(image, Image.Image):
        return _prepare_pixels(image, options)
    if isinstance(image, bytes):
        return decode(image, options)
    try:
        return decode(Path(image).read_bytes(), options)
    except OSError as error:
        raise ItemError(
            "not_found",
            f"the image {image} cannot be read ({error.strerror})",
            hint="check the path",
        ) from error


def _prepare_pixels(image: Image.Image, options: ImageSpec) -> PreparedImage:
    key = hashlib.sha256(f"{image.mode} {image.size} {options.key()}\n".encode())
    try:
        orientation = _orientation(image)
        key.update(image.tobytes())
        key.update(bytes(str(image.info.get("transparency")) + str(orientation), "utf-8"))
        return _prepared(image, orientation, options, key.hexdigest(), kind="pixels", laps=_Laps())
    except (ItemError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(error) from error


def decode(data: bytes, options: ImageSpec) -> PreparedImage:
    """Decode, turn upright, crop, resample and blur.

    Raises ItemError: `invalid_image` (empty, truncated, damaged), `unsupported_image` (format, mode
    or shape), `image_too_large` (by its header).
    """
    if not data:
        raise ItemError("invalid_image", "the image has no bytes", hint="check the file")
    laps = _Laps()
    key = hashlib.sha256(hashlib.sha256(data).digest() + options.key().encode()).hexdigest()
    try:
        with Image.open(io.BytesIO(data), formats=formats_for(data)) as image:
            _check_header(image.size)
            refuse_raw(image)
            kind = "jpeg" if image.format == "MPO" else str(image.format).lower()
            if kind != "jpeg":
                image.load()  # TIFF is turned upright while it loads
            orientation = _orientation(image)
            return _prepared(image, orientation, options, key, kind=kind, laps=laps)
    except ItemError:
        raise
    except UnidentifiedImageError:
        refuse(data)
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
    except Exception as error:  # codecs raise anything at all on damaged bytes
        raise _damaged(error) from error


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


def _damaged(error: Exception) -> ItemError:
    return ItemError(
        "invalid_image",
        f"the image is truncated or damaged ({type(error).__name__})",
        hint="save the image again",
    )


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
    image: Image.Image,
    orientation: int,
    options: ImageSpec,
    key: str,
    *,
    kind: str,
    laps: _Laps,
) -> PreparedImage:
    """An opened image -> a PreparedImage."""
    width, height = image.size[::-1] if orientation in _SIDEWAYS else image.size
    plan = plan_size(width, height, options)
    reduced = 1
    if kind == "jpeg" and not options.is_reference:
        reduced = _draft(image, plan)
    flat = _flattened(image)
    if orientation in _UPRIGHT:
        flat = flat.transpose(_UPRIGHT[orientation])
    laps.end("decode")
    pixels = _resampled(flat, plan, reduced, options)
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


def _flattened(image: Image.Image) -> Image.Image:
    """As RGB or L of 8 bits, transparency composited onto white."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode == "F":
        raise ItemError(
            "unsupported_image", "the image has floating-point pixels", hint="use 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        flat = Image.new("RGB", image.size, WHITE)
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.clip(np.asarray(image).astype(np.int32), 0, 65535)
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def _resampled(image: Image.Image, plan: SizePlan, reduced: int, options: ImageSpec) -> Pixels:
    """The crop, resampled once to its final size, or not at all if it has that size already."""
    left, top, right, bottom = (side / reduced for side in plan.box)
    box = (left, top, min(right, image.width), min(bottom, image.height))
    if (box, image.size) != ((0, 0, *image.size), plan.inner):
        image = image.resize(plan.inner, _RESAMPLING[options.interpolation], box=box)
    return np.array(image.convert("RGB"))


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
