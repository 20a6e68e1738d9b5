"""Files of images that Pillow cannot write, and colour profiles, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

GREY, RGB, RGBA = 0, 2, 6
"""Colour types of PNG."""


def png(
    size: tuple[int, int],
    bits: int,
    colour: int,
    rows: Sequence[bytes],
    chunks: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of packed rows, with these chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    every = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, body) for name, body in every)


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(
    size: tuple[int, int], bits: int, pixels: bytes, *, photometric: int = 1, sample_format: int = 1
) -> bytes:
    """An uncompressed TIFF of one sample a pixel; its `photometric` is 0 where white is zero, its
    `sample_format` 2 for signed and 3 for floating-point samples."""
    width, height = size
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(pixels)), (339, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = 8 + len(pixels) + len(pixels) % 2
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return (b"II*\0" + struct.pack("<I", start) + pixels).ljust(start, b"\0") + directory


# ---- colour profiles ----------------------------------------------------------------------------

#: Primaries (x, y) of red, green and blue; white is D65.
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
DISPLAY_P3 = ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)


def rgb_profile(primaries: Sequence[tuple[float, float]], gamma: float = 2.19921875) -> bytes:
    """An ICC profile of RGB with these primaries."""
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    white = np.array([0.95047, 1.0, 1.08883])
    to_xyz = columns * np.linalg.solve(columns, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ to_xyz
    tags = {f"{c}XYZ".encode(): _xyz(adapted[:, at]) for at, c in enumerate("rgb")}
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    tags |= {f"{c}TRC".encode(): curve for c in "rgb"}
    return _profile(b"RGB ", b"XYZ ", b"mntr", tags)


def grey_profile(gamma: float) -> bytes:
    """An ICC profile of grey levels with this gamma."""
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    return _profile(b"GRAY", b"XYZ ", b"mntr", {b"kTRC": curve})


#: What cyan, magenta and yellow on paper of Lab (100, 0, 0) change.
_INKS = np.array([(-40, -30, -45), (-45, 72, -5), (-8, -8, 90)], float)


def cmyk_profile() -> bytes:
    """An ICC profile of four inks, whose cyan is duller than that of a screen."""
    corners = []
    for number in range(16):
        is_printed = np.array([number >> 3 & 1, number >> 2 & 1, number >> 1 & 1], float)
        colour = (100, 0, 0) + is_printed @ _INKS
        if number & 1:
            colour = np.array([10 * colour[0] / 100, 0, 0])
        corners += [round(colour[0] * 2.55), round(colour[1]) + 128, round(colour[2]) + 128]
    identity = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity
    table += bytes(range(256)) * 4 + bytes(corners) + bytes(range(256)) * 3
    return _profile(b"CMYK", b"Lab ", b"prtr", {b"A2B0": table})


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def _profile(space: bytes, connection: bytes, kind: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    text = b"desc" + struct.pack(">II", 0, 5) + b"test\0" + bytes(78)
    every = {b"desc": text, b"wtpt": _xyz(_D50), **tags}
    table, body, at = b"", b"", 128 + 4 + 12 * len(every)
    for name, data in every.items():
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += padded
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(_D50)[8:]
    whole = head.ljust(128, b"\0") + struct.pack(">I", len(every)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]
