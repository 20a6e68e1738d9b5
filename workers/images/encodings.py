"""The content encodings of a body, of HTTP or as an object of S3 records it: taken off again.

Encodings are never asked for, but hosts send what they keep: pages and images that were compressed
once and for all.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from rerankfleet.shared.addresses import safe_uri
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.budget import CHUNK_BYTES, Budget, Transient, unreadable

ENCODINGS_MAX = 4
"""More than anyone means, one upon the other."""
NONE = frozenset({"", "identity", "none", "aws-chunked"})
"""Encodings that leave the bytes as they are; the last is a trace of how an object was uploaded."""

_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15
_BROTLI = ("brotli", "brotlicffi")


class Unpacker(Protocol):
    """One pass over a packed stream; `zlib.decompressobj` is one."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""

    @property
    def unused_data(self) -> bytes:
        """What follows after its end."""

    @property
    def unconsumed_tail(self) -> bytes:
        """Input that waits because the most output was reached."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """At most `max_length` bytes of output."""


def unpacked(data: bytes, encodings: str | None, budget: Budget) -> bytes:
    """A body without its encodings, as a `Content-Encoding` lists them, within bytes and time.

    Raises ItemError for one that is not read (`unreadable`), one that is damaged (`invalid_image`),
    and more bytes than an image may have (`too_large`); Transient for one that ends too early.
    """
    names = [name.strip().lower() for name in (encodings or "").split(",")]
    names = [name.removeprefix("x-") for name in names if name not in NONE]
    if len(names) > ENCODINGS_MAX:
        raise unreadable(budget.uri, f"has {len(names)} content encodings", _HINT)
    for name in reversed(names):
        if data:  # nothing stays nothing
            data = _without(data, name, budget)
    return data


_HINT = "store or send it without a content encoding"


def _without(data: bytes, name: str, budget: Budget) -> bytes:
    make = _unpacker(data, name)
    if make is None:
        shown = name if len(name) < 20 and name.isprintable() else "another"
        why = f"has the content encoding {shown!r}, which is not read"
        raise unreadable(budget.uri, why, _HINT)
    try:
        return _all(data, make, name, budget)
    except zlib.error:
        raise ItemError(
            "invalid_image",
            f"{safe_uri(budget.uri)} has the content encoding {name}, but is damaged or not of it",
            hint="store the file again, with the encoding that it has",
        ) from None


def _unpacker(data: bytes, name: str) -> Callable[[], Unpacker] | None:
    if name == "gzip":
        return lambda: zlib.decompressobj(_GZIP_WINDOW)
    if name == "deflate":  # zlib by the standard, but some servers send the stream without a header
        has_header = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
        return lambda: zlib.decompressobj(_ZLIB_WINDOW if has_header else _RAW_WINDOW)
    return _Brotli if name == "br" and _brotli() is not None else None


def _all(data: bytes, make: Callable[[], Unpacker], name: str, budget: Budget) -> bytes:
    """All that a packed stream holds. Gzip may have several members, and zeros after its end."""
    out = bytearray()
    at = _member(make(), data, 0, out, name, budget)
    while name == "gzip" and data[at:].strip(b"\0"):
        at = _member(make(), data, at, out, name, budget)
    if data[at:].strip(b"\0"):
        raise zlib.error("something follows after its end")
    return bytes(out)


def _member(
    unpacker: Unpacker, data: bytes, at: int, out: bytearray, name: str, budget: Budget
) -> int:
    """Append the output of the stream that begins at `at`, in small steps. Returns its end."""
    while not unpacker.eof:
        if at >= len(data):
            raise Transient(f"its {name} encoding ends too early")
        waiting = data[at : at + CHUNK_BYTES]
        at += len(waiting)
        step = waiting
        while (step or waiting) and not unpacker.eof:
            step = unpacker.decompress(waiting, CHUNK_BYTES)
            waiting = unpacker.unconsumed_tail
            out += step
            if len(out) > budget.max_bytes:
                raise budget.too_large(f"unpacks from {name} to more than")
            budget.check_time()
    return at - len(unpacker.unused_data)


def _brotli() -> Any:
    """A library that reads Brotli and can bound what one step gives; None where there is none."""
    for name in _BROTLI:
        try:
            library: Any = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(library.Decompressor, "can_accept_more_data"):
            return library
    return None


class _Brotli:
    """An Unpacker of Brotli."""

    unused_data = b""
    unconsumed_tail = b""

    def __init__(self) -> None:
        library = _brotli()
        self._decompressor, self._error = library.Decompressor(), library.error

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return bool(self._decompressor.is_finished())

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """About `max_length` bytes of output at most; the rest comes with the next call."""
        try:
            return bytes(self._decompressor.process(data, output_buffer_limit=max_length))
        except self._error as error:
            raise zlib.error(str(error)) from error
