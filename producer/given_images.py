"""Images that a program holds -> URIs that a worker can read.

An image travels in its request as a data: URI while there is room, and else through the storage, as
an upload that is removed when the request ends.
"""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

from rerankfleet.producer.quotas import Reservation
from rerankfleet.shared.content.given import (
    Given,
    file_bytes,
    grey_range,
    is_pil,
    refuse_unclear_transparency,
)
from rerankfleet.shared.content.uris import DATA_URI_BYTES, data_uri
from rerankfleet.shared.errors import ItemError, StorageUnavailable, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.uploads import new_upload, upload_uri

INLINE_SHARE = 0.5
"""Of a request's most bytes, what its images may take: the rest is for texts."""

_AS_THEY_ARE = ("1", "L", "LA", "P", "RGB", "RGBA")
#: Modes that PNG lacks -> the ones that hold the same colours.
_SAME_COLOURS = {
    **{"La": "LA", "RGBa": "RGBA", "PA": "RGBA"},
    **dict.fromkeys(("RGBX", "YCbCr", "HSV"), "RGB"),
}
_PNG_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}


class ImageSender:
    """Sends the images of one request. A context: its uploads are removed at the end."""

    def __init__(self, store: Store, objects: Objects, settings: Settings) -> None:
        self._store, self._objects, self._settings = store, objects, settings
        self._room_bytes = int(min(INLINE_SHARE * settings.inline_bytes_max, DATA_URI_BYTES))
        self._uploads: dict[str, Reservation] = {}

    def __enter__(self) -> ImageSender:
        return self

    def __exit__(self, *_: object) -> None:
        for uri, room in self._uploads.items():
            with suppress(UsageError, StorageUnavailable):  # the monitor will
                self._objects.delete_tree(uri)
                room.release()

    def uri(self, image: Given) -> str:
        """Where a worker finds the image. Raises ItemError for what is no image, and what the
        storage raises."""
        kind, data = as_file(image, self._settings.image_bytes_max)
        uri = data_uri(kind, data)
        if len(uri) <= self._room_bytes:
            self._room_bytes -= len(uri)
            return uri
        ttl_s = self._settings.upload_ttl_s
        upload_id, _ = new_upload(ttl_s)
        room = Reservation(self._store, self._settings, "uploads", upload_id, len(data), ttl_s)
        room.begin()
        self._uploads[upload_uri(self._objects, upload_id)] = room
        uri = upload_uri(self._objects, upload_id, "upload.image")
        self._objects.write(uri, data)
        return uri


def inline_uri(image: Given) -> str:
    """An image as a data: URI. Raises ItemError for what is no image, or too large for one."""
    kind, data = as_file(image)
    uri = data_uri(kind, data)
    if len(uri) > DATA_URI_BYTES:
        raise ItemError(
            "too_large",
            f"the image has {len(uri):,} bytes in base64, at most {DATA_URI_BYTES:,} are sent",
            hint="scale it down, or name it by a URI",
        )
    return uri


def as_file(image: Given, bytes_max: int | None = None) -> tuple[str, bytes]:
    """An image as a file, and the kind of it: its own bytes, or without any loss those of a new
    one. Raises ItemError for what is no image."""
    data = file_bytes(image, bytes_max)
    if data is not None:
        return "unknown", data  # workers find out by the bytes
    if not is_pil(image):
        return "png", _png(image)
    try:
        return _of_pil(image)
    except (ItemError, MemoryError):
        raise
    except Exception as error:  # it may be opened from a damaged file
        raise ItemError(
            "invalid_image",
            f"the image is truncated or damaged ({type(error).__name__})",
            hint="save the image again",
        ) from error


def _png(array: Any) -> bytes:
    """Pixels of a numpy array that was checked."""
    height, width, *bands = array.shape
    band_count = bands[0] if bands else 1
    pixels, stride = array.tobytes(), width * band_count
    rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOUR_TYPES[band_count], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _of_pil(image: Any) -> tuple[str, bytes]:
    if (data := _untouched_png(image)) is not None:
        return "png", data
    image.load()  # a TIFF is turned upright while it loads
    refuse_unclear_transparency(image)
    white, is_inverted = grey_range(image)
    if image.mode.startswith("I;16") and (white, is_inverted) != (0xFFFF, False):
        scale, start = (-1, 0xFFFF) if is_inverted else (0xFFFF / white, 0.5)
        image = image.point(lambda level: level * scale + start)
    image = image.convert(_SAME_COLOURS.get(image.mode, image.mode))
    is_png = image.mode in _AS_THEY_ARE or image.mode.startswith("I;16")
    out = io.BytesIO()
    if is_png:
        image.save(out, "PNG", compress_level=1, **_orientation(image))
    else:
        image.save(out, "TIFF", **_orientation(image))
    return "png" if is_png else "tiff", out.getvalue()


def _untouched_png(image: Any) -> bytes | None:
    """The file of a PNG that has a transparent colour and is not loaded: once it is, PIL no longer
    knows in how many bits that colour is written."""
    is_one = getattr(image, "format", None) == "PNG" and getattr(image, "tile", None)
    if not is_one or image.tell() or "transparency" not in image.info:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    data: bytes = image.fp.read()
    image.fp.seek(position)
    return data


def _orientation(image: Any) -> dict[str, Any]:
    try:
        exif = image.getexif()
    except Exception:  # broken EXIF data must not cost the image
        return {}
    return {"exif": exif} if exif else {}
