"""CSV and Parquet as lines of JSON: row by row, whatever sizes the file claims.

Columns are known by their names, whatever their case and the blanks around them. Rows of CSV stand
on the same lines as in the file, blank ones between them, so that errors name its lines.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, BinaryIO, cast

from rerankfleet.producer.inputs.csv_rows import COMMA, DELIMITERS, CsvRows, Row
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.lines import MALFORMED
from rerankfleet.shared.formats.sources import COPY_BYTES, is_uri, open_local, plain
from rerankfleet.shared.storage.objects import Objects

COLUMNS = ("id", "image", "text")
"""The columns that are read; others are ignored."""
CSV_ROW_BYTES = 4 << 20
"""Limit of a CSV row, which may span many lines and takes more memory than its bytes."""
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
                yield csv_lines(cast(BinaryIO, stream), source, max_line_bytes, needed)
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
    """The rows of CSV as lines, each as the line of the file on which it begins; what is between
    them is blank. The first row names the columns. A malformed row becomes a line with an error."""
    rows = iter(CsvRows(stream, name, min(max_line_bytes, CSV_ROW_BYTES), _delimiter_for(needed)))
    header = next(rows, None)
    if header is None:
        return
    if header.error:
        raise UsageError(
            f"the first line of {name} cannot be read: {header.error}",
            hint="it names the columns",
        )
    places, written = columns_of(header.cells, name, needed), 0
    for row in rows:
        if between := row.line - written - 1:
            yield b"\n" * between
        written = row.line
        if row.error:
            yield _malformed(row.error)
        elif len(row.cells) == len(header.cells):
            yield _csv_line(row, {column: row.cells[at] for column, at in places.items()})
        else:
            yield _malformed(
                f"{len(row.cells)} columns, expected {len(header.cells)}, at line {row.line} of "
                "the file"
            )


def _csv_line(row: Row, fields: dict[str, str]) -> bytes:
    """A row as a line. Only the name of a file may hold bytes that are not UTF-8."""
    if row.not_utf8 and any(_is_odd(fields[name]) for name in fields if name != "image"):
        return _malformed(row.not_utf8, {k: v for k, v in fields.items() if not _is_odd(v)})
    return row_line(fields)


def _is_odd(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def _delimiter_for(needed: Needed) -> Callable[[bytes], bytes]:
    """Chooses the delimiter with which a header names one of these columns."""

    def choose(header: bytes) -> bytes:
        for delimiter in DELIMITERS:
            names = (plain_name(cell.strip(b' "\t\r\n')) for cell in header.split(delimiter))
            if not set(needed).isdisjoint(names):
                return delimiter
        return COMMA

    return choose


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
            yield from reader.stdout
            message = reader.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
            if status := reader.wait():
                crash = f"{name} crashed the Parquet reader (status {status})"
                raise UsageError(message if status == 1 else crash)
        finally:
            reader.kill()


def no_pyarrow(purpose: str) -> UsageError:
    """The error where pyarrow is not installed."""
    return UsageError(
        f"pyarrow is needed {purpose}", hint="pip install 'rerankfleet[parquet]', or use JSON Lines"
    )


# ---- rows ---------------------------------------------------------------------------------------


def plain_name(column: str | bytes) -> str:
    """A column's name without what differs by accident: its case, and blanks around it."""
    text = column if isinstance(column, str) else column.decode(errors="replace")
    return text.strip("\ufeff").strip().casefold()


def columns_of(columns: Sequence[str], name: str, needed: Needed) -> dict[str, int]:
    """The columns that are read, each with its place in the table. Raises UsageError for a table
    that has none of the needed ones, or one of them twice."""
    places: dict[str, int] = {}
    for at, column in enumerate(map(plain_name, columns)):
        if column in places:
            first, second = columns[places[column]], columns[at]
            raise UsageError(
                f"{name} has the column {column!r} twice: {first!r} and {second!r}, columns "
                f"{places[column] + 1} and {at + 1}",
                hint="rename one of them",
            )
        if column in COLUMNS:
            places[column] = at
    if places.keys().isdisjoint(needed):
        wanted = " or ".join(map(repr, needed))
        raise UsageError(
            f"{name} has no column {wanted}, only {', '.join(columns)[:200] or 'none'}",
            hint="the columns that are read are image, id and text",
        )
    return places


def row_line(row: Mapping[str, Any], max_bytes: int | None = None) -> bytes:
    """A row as a line of JSON, without its empty cells."""
    fields = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    for name, value in fields.items():
        if not isinstance(value, str | int | float | list):
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
    kept = {k: v for k, v in names.items() if isinstance(v, str | int) and len(str(v)) <= NAME_MAX}
    return json.dumps({MALFORMED: message, **kept}).encode() + b"\n"
