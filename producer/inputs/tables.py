"""CSV and Parquet as lines of JSON: row by row, whatever sizes the file claims.

Columns are known by their names, whatever their case and the blanks around them. Rows of CSV stand
on the same lines as in the file, blank ones between them, so that errors name its lines.
"""

from __future__ import annotations

import io
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import IO, Any, BinaryIO, cast

from rerankfleet.producer.inputs.csv_rows import COMMA, DELIMITERS, CsvRows, Row
from rerankfleet.shared.content.validation import is_id
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.lines import MALFORMED
from rerankfleet.shared.formats.sources import (
    COPY_BYTES,
    is_uri,
    open_local,
    plain,
    refuse_other_kinds,
)
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.objects import Objects

COLUMNS = ("id", "image", "text")
"""The columns that are read; others are ignored."""
CSV_ROW_BYTES = 4 << 20
"""Limit of a CSV row, which may span many lines and takes more memory than its bytes."""
PARQUET_SILENT_S = 300.0
"""For so long at most the reader of Parquet may yield nothing."""
PARQUET_MEMORY_BYTES = 2 << 30
"""Limit for reading Parquet, in which a few bytes may unpack to any number of long cells."""

NAME_MAX = 1000
"""Characters of an id or address that a malformed row is known by; longer ones are left out."""

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")

Needed = tuple[str, ...]
"""Columns of which a table must have one."""
IMAGES: Needed = ("image",)
"""Of a listing of images."""
CONTENTS: Needed = ("text", "image")
"""Of queries and candidates."""


def table_suffix(name: str) -> str:
    """The suffix of a table's name; empty for other files."""
    return next((suffix for suffix in _TABLES if name.lower().endswith(suffix)), "")


@contextmanager
def table_lines(
    source: str, objects: Objects | None, max_line_bytes: int, needed: Needed = IMAGES
) -> Iterator[Iterator[bytes]]:
    """The rows of a table as lines of JSON. Raises UsageError for other files."""
    with opened(source, objects) as raw:
        if table_suffix(source) != ".parquet":
            with plain(raw, source) as stream:
                refuse_other_kinds(stream, source, "CSV", COLUMNS_HINT)
                rows = _csv_rows(cast(BinaryIO, stream), source, max_line_bytes, needed)
                yield _in_place(rows)
            return
        with _on_disk(raw) as file:
            yield _parquet_lines(file, source, max_line_bytes, needed)


@contextmanager
def opened(source: str, objects: Objects | None) -> Iterator[BinaryIO]:
    """The bytes of a path, or of a URI where there are `objects`."""
    opening = objects.open(source) if objects and is_uri(source) else open_local(source)
    with opening as stream:
        yield stream


# ---- CSV ----------------------------------------------------------------------------------------


def csv_lines(
    stream: BinaryIO, name: str, max_line_bytes: int, needed: Needed = IMAGES
) -> Iterator[bytes]:
    """The rows of CSV as lines. The first row names the columns. A malformed row becomes a line
    with an error."""
    return (line for _, line in _csv_rows(stream, name, max_line_bytes, needed))


def _in_place(rows: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    """Rows with their numbers, each as the line of that number; what is between them is blank."""
    written = 0
    for number, line in rows:
        if between := number - written - 1:
            yield b"\n" * between
        yield line
        written = number


def _csv_rows(
    stream: BinaryIO, name: str, max_line_bytes: int, needed: Needed
) -> Iterator[tuple[int, bytes]]:
    """The rows of CSV as lines, with the line of the file on which each begins."""
    rows = iter(CsvRows(stream, name, min(max_line_bytes, CSV_ROW_BYTES), _delimiter_for(needed)))
    header = next(rows, None)
    if header is None:
        return
    if header.error:
        raise UsageError(
            f"the first line of {name} cannot be read: {header.error}",
            hint="it names the columns",
        )
    places = columns_of(header.cells, name, needed)
    for row in rows:
        yield row.line, _csv_line(row, places, len(header.cells))


def _csv_line(row: Row, places: Mapping[str, int], count: int) -> bytes:
    """A row of so many columns as a line. Only the name of a file may hold bytes that are not
    UTF-8."""
    if row.error:
        return _malformed(row.error)
    if len(row.cells) != count:
        return _malformed(f"{len(row.cells)} columns, expected {count}, {row.place}")
    fields = {column: row.cells[at] for column, at in places.items()}
    if row.not_utf8 and any(_is_odd(fields[name]) for name in fields if name != "image"):
        return _malformed(row.not_utf8, {k: v for k, v in fields.items() if not _is_odd(v)})
    return row_line(fields)


def _is_odd(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _delimiter_for(needed: Needed) -> Callable[[bytes], bytes]:
    """Chooses the delimiter with which a header names one of these columns."""

    def choose(header: bytes) -> bytes:
        for delimiter in DELIMITERS:
            if not _names_in(header, delimiter).isdisjoint(needed):
                return delimiter
        return COMMA

    return choose


def _names_in(header: bytes, delimiter: bytes) -> set[str]:
    return {plain_name(cell.strip(b' "\t\r\n')) for cell in header.split(delimiter)}


def _is_array(line: bytes) -> bool:
    try:
        return line.lstrip().startswith(b"[") and isinstance(json.loads(line), list)
    except (ValueError, RecursionError):
        return False


def refuse_other_lines(line: bytes, name: str, needed: Needed) -> None:
    """Raise UsageError where the first of a file's plain lines names the columns of a table, or
    begins a JSON array: what follows would be read as texts or addresses."""
    if re.match(rb"\s*\[\s*(\{|$)", line) or _is_array(line):
        raise UsageError(
            f"{name} seems to be a JSON array", hint="write its values one a line, as JSON Lines"
        )
    names = [_names_in(line, delimiter).intersection(COLUMNS) for delimiter in DELIMITERS]
    if any(len(known) > 1 and not known.isdisjoint(needed) for known in names):
        raise UsageError(
            f"{name} seems to be CSV: its first line names columns",
            hint="let its name end with .csv",
        )


# ---- Parquet ------------------------------------------------------------------------------------


@contextmanager
def _on_disk(stream: BinaryIO) -> Iterator[BinaryIO]:
    """A seekable file, which Parquet needs: an object of S3 is copied to the disk."""
    if isinstance(getattr(stream, "raw", None), io.FileIO) and stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(stream, copy, COPY_BYTES)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def _parquet_lines(
    stream: BinaryIO, name: str, max_line_bytes: int, needed: Needed
) -> Iterator[bytes]:
    """The rows of Parquet as lines, read by a separate process with a limit on its memory."""
    if find_spec("pyarrow") is None:
        raise no_pyarrow("to read Parquet")
    # other memory pools reserve a gigabyte at once, which would count towards the limit
    command = [
        "env",
        "ARROW_DEFAULT_MEMORY_POOL=system",
        sys.executable,
        "-P",
        "-m",
        "rerankfleet.producer.inputs.parquet_process",
    ]
    reader = subprocess.Popen(
        [*command, name, str(max_line_bytes), str(PARQUET_MEMORY_BYTES), *needed],
        stdin=stream,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert reader.stdout
    assert reader.stderr
    with reader:
        try:
            yield from _while_heard(reader.stdout, name)
            message = reader.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            if status := reader.wait():
                crash = f"{name} crashed the Parquet reader (status {status})"
                raise UsageError(message if status == 1 else crash)
        finally:
            reader.kill()


def _while_heard(pipe: IO[bytes], name: str) -> Iterator[bytes]:
    """The lines of a pipe. Raises UsageError when it is silent for too long."""
    rest = b""
    while block := _heard(pipe, name):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _heard(pipe: IO[bytes], name: str) -> bytes:
    """The next bytes of a pipe, nothing at its end; signs of life are given while it is silent."""
    until_s = time.monotonic() + PARQUET_SILENT_S
    while True:
        beat()
        if select.select([pipe], [], [], 0.5)[0]:
            return os.read(pipe.fileno(), COPY_BYTES)
        if time.monotonic() > until_s:
            raise UsageError(
                f"{name} yielded no row in {PARQUET_SILENT_S:.0f} seconds",
                hint="write it with smaller row groups, or as JSON Lines",
            )


def no_pyarrow(purpose: str) -> UsageError:
    """The error where pyarrow is not installed."""
    return UsageError(
        f"pyarrow is needed {purpose}", hint="pip install 'rerankfleet[parquet]', or use JSON Lines"
    )


# ---- rows ---------------------------------------------------------------------------------------


COLUMNS_HINT = "the columns that are read are image, id and text"


def plain_name(column: str | bytes) -> str:
    """A column's name without what differs by accident: its case, and blanks around it."""
    text = column if isinstance(column, str) else column.decode(errors="replace")
    return text.strip("\ufeff").strip().casefold()


def columns_of(
    columns: Sequence[str], name: str, needed: Needed, known: Sequence[str] = COLUMNS
) -> dict[str, int]:
    """The known columns, each with its place in the table. Raises UsageError for a table that has
    none of the needed ones, or a known one twice."""
    places: dict[str, int] = {}
    for at, column in enumerate(map(plain_name, columns)):
        if column in places:
            first, second = columns[places[column]], columns[at]
            raise UsageError(
                f"{name} has the column {column!r} twice: {first!r} and {second!r}, columns "
                f"{places[column] + 1} and {at + 1}",
                hint="rename one of them",
            )
        if column in known:
            places[column] = at
    if places.keys().isdisjoint(needed):
        wanted = " or ".join(map(repr, needed))
        found = " ".join(", ".join(columns).split())[:200] or "none"
        raise UsageError(
            f"{name} has no column {wanted}, only {found}",
            hint=f"the columns that are read are {', '.join(known)}",
        )
    return places


def row_line(row: Mapping[str, Any], max_bytes: int | None = None) -> bytes:
    """A row as a line of JSON, without its empty cells."""
    fields = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    for name, value in fields.items():
        if not isinstance(value, str | int | list) and not (name == "id" and is_id(value)):
            kind = type(value).__name__
            return _malformed(f"{name} is of type {kind}, expected text", fields)
    try:
        line = json.dumps(fields).encode() + b"\n"
    except TypeError:
        return _malformed("image is a list of values that are not text", fields)
    if max_bytes is not None and len(line) > max_bytes:
        return _malformed(f"the row is longer than {max_bytes} bytes", fields)
    return line


def _malformed(message: str, fields: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """A line with an error, and with what names the row: its id and its address."""
    names = {name: fields.get(name) for name in ("id", "image")}
    kept = {k: v for k, v in names.items() if is_id(v) and len(str(v)) <= NAME_MAX}
    return json.dumps({MALFORMED: message, **kept}).encode() + b"\n"
