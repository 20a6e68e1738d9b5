"""The encoding of a text: everything is UTF-8 from where a file is opened.

Shells of Windows write UTF-16. A file with its byte-order mark, or whose first characters can be
nothing else, is read as UTF-8; what is not UTF-8 within a line is an error that names the byte.
"""

from __future__ import annotations

import codecs
import io
from typing import cast

from rerankfleet.shared.errors import UsageError

MARK_BYTES = 4
"""So many first bytes say which encoding a text has."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte-order marks; those of UTF-32 come first, since one begins with one of UTF-16."""
_BLOCK_BYTES = 1 << 20


def other_encoding(head: bytes) -> str | None:
    """The encoding of a text that begins with these bytes, where it is not UTF-8.

    Without a mark, two characters of ASCII in UTF-16 are recognised by their zeros.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = tuple(byte == 0 for byte in head[:MARK_BYTES])
    if zeros == (False, True, False, True):
        return "utf-16-le"
    if zeros == (True, False, True, False):
        return "utf-16-be"
    return None


class AsUtf8(io.RawIOBase):
    """A text of another encoding as a raw stream of UTF-8, without its mark.

    Half a surrogate pair becomes bytes that are not UTF-8, so that it costs its own line. Raises
    UsageError for what is not in that encoding, or cut within a character.
    """

    def __init__(self, stream: io.BufferedReader, encoding: str, name: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._encoding = encoding
        self._name = name
        self._ready = b""
        self._read = 0
        self._begun = self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while len(self._ready) < len(buffer) and not self._ended:
            block = self._stream.read(_BLOCK_BYTES)
            self._ended = not block
            self._ready += self._as_utf8(block)
            self._read += len(block)
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _as_utf8(self, block: bytes) -> bytes:
        try:
            text = self._decoder.decode(block, final=self._ended)
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{self._name} seems to be {self._encoding.upper()}, but is not near byte "
                f"{self._read + error.start} ({error.reason})",
                hint="write it as UTF-8",
            ) from None
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        return text.encode("utf-8", "surrogatepass")


def as_utf8(stream: io.BufferedReader, name: str) -> io.BufferedReader:
    """The text of a stream in UTF-8, whatever it is written in."""
    encoding = other_encoding(stream.peek(MARK_BYTES)[:MARK_BYTES])
    if encoding is None:
        return stream
    raw = cast(io.RawIOBase, AsUtf8(stream, encoding, name))
    return io.BufferedReader(raw, _BLOCK_BYTES)


def is_blank(line: bytes) -> bool:
    """Whether a line holds nothing but white space. Such lines are passed over, and counted."""
    text = line.strip()
    if not text or b" " < text[:1] < b"\x7f":
        return not text
    return not text.decode("utf-8-sig", "replace").strip()
