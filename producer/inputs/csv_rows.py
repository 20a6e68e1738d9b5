"""CSV, row by row and strictly: what quotation marks leave open is an error, never a guess.

Cells are separated by a comma, a semicolon or a tab, and rows by a line end. A cell in quotation
marks may hold all of these, which stay as they are, and a quotation mark, which is written twice.
Within a cell that does not begin with one, a quotation mark is a character like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.heartbeat import beat

COMMA = b","
DELIMITERS = (COMMA, b";", b"\t")
BLANK_BYTES_MAX = 16 << 20
"""Limit of blank lines without a row between them, which pack a thousand times."""
_QUOTE = b'"'
_BLOCK_BYTES = 64 << 10
_BEHIND_QUOTE = {d: re.compile(rb"[ \t]*" if d != b"\t" else rb" *") for d in DELIMITERS}
_ENDS = b"\r\n"


@dataclass(slots=True)
class Row:
    """A row, or why it cannot be read, and the line of the file, from 1, where it begins."""

    line: int
    cells: list[str] = field(default_factory=list)
    """Bytes that are not UTF-8 are half surrogates: they may name a file."""
    error: str = ""
    not_utf8: str = ""
    """The first place at which it is not UTF-8."""
    last_line: int = 0

    @property
    def place(self) -> str:
        """Where it stands in the file."""
        if self.last_line > self.line:
            return f"at lines {self.line} to {self.last_line} of the file"
        return f"at line {self.line} of the file"


class CsvRows:
    """The rows of a stream that are not blank, the one that names the columns too.

    After a row whose quotation marks are wrong there is no other: it would be guessed.
    `delimiter_of` chooses the delimiter by the first line. Raises UsageError for a row of more than
    `row_bytes`.
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        row_bytes: int,
        delimiter_of: Callable[[bytes], bytes] = lambda line: COMMA,
    ) -> None:
        self._name = name
        self._row_bytes = row_bytes
        self._lines = enumerate(_lines(stream, row_bytes), 1)
        self._delimiter_of = delimiter_of
        self._delimiter = b""
        self._number = self._size = self._opened = 0
        self._wrong = self._not_utf8 = ""

    def __iter__(self) -> Iterator[Row]:
        blank_bytes = 0
        while line := self._next():
            row = Row(self._number)
            blank_bytes = blank_bytes + len(line) if is_blank(line) else 0
            if blank_bytes > BLANK_BYTES_MAX:
                raise UsageError(
                    f"{self._name} has more than {BLANK_BYTES_MAX:,} bytes of blank lines, up to "
                    f"line {self._number}",
                    hint="remove them",
                )
            if not blank_bytes:
                self._delimiter = self._delimiter or self._delimiter_of(line)
                try:
                    cells = list(self._cells(line))
                except _Unclear as unclear:
                    yield Row(row.line, error=f"{unclear}: the rest of the file was not read")
                    return
                row.cells = [cell.decode(errors="surrogateescape") for cell in cells]
                row.error, row.not_utf8 = self._wrong, self._not_utf8
                row.last_line = self._number
                yield row
            self._size, self._opened, self._wrong, self._not_utf8 = 0, 0, "", ""

    def _next(self) -> bytes:
        """The next line, which belongs to the row that is read; empty at the end."""
        beat()
        self._number, line = next(self._lines, (self._number, b""))
        self._size += len(line)
        if self._size > self._row_bytes:
            opened = f" (a quotation mark opens at line {self._opened})" if self._opened else ""
            raise UsageError(
                f"line {self._number} of {self._name} is too long, or its row{opened}",
                hint=f"a row may have {self._row_bytes} bytes, as RERANK_MAX_LINE_BYTES allows and "
                "4 MiB at most: is a quotation mark missing?",
            )
        try:
            line.decode()
        except UnicodeDecodeError as error:
            where = f"not UTF-8 at byte {error.start} of line {self._number}"
            self._not_utf8 = self._not_utf8 or where
        return line

    def _cells(self, line: bytes) -> Iterator[bytes]:
        """The cells of the row that begins with a line. Raises _Unclear."""
        plain, at = line.rstrip(_ENDS), 0
        if _QUOTE not in plain and b"\r" not in plain:
            yield from plain.split(self._delimiter)
            return
        while True:
            if line.startswith(_QUOTE, at):
                cell, line, at = self._quoted(line, at + 1)
            else:
                end = line.find(self._delimiter, at)
                cell = line[at:end] if end >= 0 else line[at:].rstrip(_ENDS)
                at = end if end >= 0 else len(line)
                if b"\r" in cell:
                    where = f"a carriage return outside of quotation marks at line {self._number}"
                    self._wrong = self._wrong or where
            yield cell
            if not line.startswith(self._delimiter, at):
                return
            at += 1

    def _quoted(self, line: bytes, at: int) -> tuple[bytes, bytes, int]:
        """The cell that begins behind a quotation mark; the line in which it is closed, and the
        place where the next delimiter or the end of that line is. Raises _Unclear."""
        self._opened, parts = self._number, list[bytes]()
        while True:
            closes = line.find(_QUOTE, at)
            if closes < 0:
                parts.append(line[at:])
                line, at = self._next(), 0
                if not line:
                    raise _Unclear(f"the quotation mark of line {self._opened} is never closed")
            elif line.startswith(_QUOTE, closes + 1):
                parts.append(line[at : closes + 1])
                at = closes + 2
            else:
                parts.append(line[at:closes])
                break
        blanks = _BEHIND_QUOTE[self._delimiter].match(line, closes + 1)
        at = blanks.end() if blanks else closes + 1
        if line[at:].rstrip(_ENDS) and not line.startswith(self._delimiter, at):
            raise _Unclear(
                f"text follows the cell whose quotation mark opens at line {self._opened} (within "
                "quotation marks one is written twice)"
            )
        return b"".join(parts), line, at


class _Unclear(Exception):
    """From here on it is not known what is inside of a cell."""


def _lines(stream: BinaryIO, most: int) -> Iterator[bytes]:
    """The lines with their ends, without a byte-order mark; of one that is longer the beginning.
    They end with a line feed or, where the first one shows it, with a carriage return."""
    first = stream.readline(most + 1).removeprefix(b"\xef\xbb\xbf")
    header, end, _ = first.rstrip(_ENDS).partition(b"\r")
    if not end or _QUOTE in header:
        yield first
        yield from iter(lambda: stream.readline(most + 1), b"")
        return
    pending = first
    while pending:
        *whole, pending = pending.splitlines(keepends=True)
        yield from whole
        block = stream.read(_BLOCK_BYTES)
        if not block or len(pending) > most:
            yield pending
            pending = b""
        pending += block
