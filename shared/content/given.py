"""Images that a Python program holds: a file's bytes, a path, an open file, a PIL image, an array.

Knows neither PIL nor numpy: what is asked of their objects, these answer themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rerankfleet.shared.errors import ItemError

Given = Any
"""bytes, bytearray, memoryview; os.PathLike; a file open in binary mode; a PIL image; a numpy array
of uint8."""

EXPECTED = (
    "expected the bytes of a file, a path, a file open in binary mode, a PIL image, or a numpy "
    "array of uint8 [height, width] (grey), [height, width, 3] (RGB) or [height, width, 4] (RGBA)"
)

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2


def with_images(content: Any, replace: Callable[[Given], Any]) -> Any:
    """A query or document with `replace(image)` in place of each image that is no URI; what is no
    content stays as it is, for the validation to refuse."""
    if not isinstance(content, Mapping):
        return content
    fields = dict(content)
    for name in ("image", "frames"):
        if name in fields:
            fields[name] = _each(fields[name], replace)
    video = fields.get("video")
    if isinstance(video, Mapping) and "frames" in video:
        fields["video"] = {**video, "frames": _each(video["frames"], replace)}
    return fields


def _each(images: Any, replace: Callable[[Given], Any]) -> Any:
    if isinstance(images, list | tuple):
        return [one if _may_be_json(one) else replace(one) for one in images]
    return images if _may_be_json(images) else replace(images)


def _may_be_json(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | Mapping | list | tuple)


def file_bytes(image: Given, bytes_max: int | None = None) -> bytes | None:
    """The bytes of an image's file; None for the pixels of a PIL image or an array.

    An open file is read from its start, and left at its position. Raises ItemError: `not_found`,
    `too_large`, `invalid_image` for a file without bytes, `unsupported_image` for what is no image.
    """
    if is_pil(image):
        return None
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    elif isinstance(image, os.PathLike):
        data = _of_path(Path(os.fsdecode(image)), bytes_max)
    elif callable(getattr(image, "read", None)):
        data = _of_stream(image, bytes_max)
    else:
        _check_array(image)
        return None
    refuse_empty(data)
    if bytes_max is not None and len(data) > bytes_max:
        raise ItemError(
            "too_large", f"the image is larger than {bytes_max:,} bytes", hint="scale it down"
        )
    return data


def refuse_empty(data: bytes) -> None:
    """Raise ItemError for a file without bytes."""
    if not data:
        raise ItemError("invalid_image", "the image has no bytes", hint="check the file")


def is_pil(image: Given) -> bool:
    """Whether it is an image of PIL."""
    return hasattr(image, "getbands") and hasattr(image, "getexif")


def grey_range(image: Any) -> tuple[int, bool]:
    """The white level of a PIL image's grey samples of 16 bits, and whether it is black instead.

    Raises ItemError for an image of any depth whose black and white are not known.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode in ("I", "F") or _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        kind = "floating-point" if image.mode == "F" else "signed or 32-bit"
        raise ItemError(
            "unsupported_image",
            f"the image has {kind} pixels, of which black and white are not known",
            hint="save it with unsigned pixels of 8 or 16 bits",
        )
    (bits, *_) = tags.get(_BITS_PER_SAMPLE, (16,))
    is_inverted = bits == 16 and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # fewer: PIL inverts them
    return (1 << bits) - 1, is_inverted


def refuse_unclear_transparency(image: Any) -> None:
    """Raise ItemError for a loaded PIL image whose transparent colour may have other bits than its
    pixels: PIL keeps the number that a PNG of 2, 4 or 16 bits has, and not in how many bits."""
    key = image.info.get("transparency")
    is_wide = image.mode == "RGB" and isinstance(key, tuple) and max(key) > 0xFF
    may_be_narrow = image.mode == "L" and image.format == "PNG" and key in range(1, 16)
    if is_wide or (may_be_narrow and _are_of_4_bits(image)):
        raise ItemError(
            "unsupported_image",
            "the image's transparent colour has other bits than its pixels, which are loaded",
            hint="pass the file itself, or the image before it is loaded",
        )


def _are_of_4_bits(image: Any) -> bool:
    return all(level % 17 == 0 for _, level in image.getcolors(256))


def _of_path(path: Path, bytes_max: int | None) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(-1 if bytes_max is None else bytes_max + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not a path"
        raise ItemError(
            "not_found", f"the image {path} cannot be read ({why})", hint="check the path"
        ) from error


def _of_stream(stream: Any, bytes_max: int | None) -> bytes:
    try:
        position = stream.tell() if stream.seekable() else None
        if position is not None:
            stream.seek(0)
        data = stream.read(-1 if bytes_max is None else bytes_max + 1)
        if position is not None:
            stream.seek(position)
    except (OSError, ValueError, AttributeError) as error:
        raise ItemError(
            "not_found", f"the image's file cannot be read ({error})", hint="open it again"
        ) from error
    if not isinstance(data, bytes):
        raise ItemError(
            "unsupported_image",
            f"the image's file gives {type(data).__name__}, not bytes",
            hint='open it in binary mode: open(path, "rb")',
        )
    return data


def _check_array(image: Any) -> None:
    shape, kind = getattr(image, "shape", None), getattr(image, "dtype", None)
    if hasattr(image, "__array_interface__") and shape is not None and kind is not None:
        is_masked = hasattr(image, "mask")
        fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
        if kind == "uint8" and fits and all(shape) and not is_masked:
            return
        name = "a masked array" if is_masked else "an array"
        found = f"{name} of {kind} [{', '.join(map(str, shape))}]"
    else:
        found = f"an object of the type {type(image).__name__}"
    raise ItemError("unsupported_image", f"an image is {found}; {EXPECTED}")
