"""The size that an image's header claims, without decoding it."""

from __future__ import annotations

import struct

SEGMENTS_MAX = 1000
"""Segments of a JPEG in which its size is looked for."""

_SIZELESS = (0x01, *range(0xD0, 0xD9))  # markers of JPEG without a length
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those with the picture's size


def claimed_pixels(data: bytes) -> int:
    """Width times height as the header of a PNG, JPEG, WebP, GIF or BMP has it; 0 when it is
    another format, or damaged: the decoder says so."""
    try:
        width, height = _size(data)
    except (struct.error, IndexError, ValueError):
        return 0
    return abs(width * height)


def _size(data: bytes) -> tuple[int, int]:
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack_from(">II", data, 16)
    elif data.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", data, 6)
    elif data.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", data, 18)
    elif data.startswith(b"RIFF"):
        return _webp_size(data)
    elif data.startswith(b"\xff\xd8"):
        return _jpeg_size(data)
    else:
        return 0, 0
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """That of the first frame, if it comes early."""
    at = 2
    for _ in range(SEGMENTS_MAX):
        at = data.index(b"\xff", at)
        marker, at = data[at + 1], at + 2
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return width, height
        if marker == 0xFF:
            at -= 1
        elif marker not in _SIZELESS:
            (length,) = struct.unpack_from(">H", data, at)
            at += length
    return 0, 0
