"""CSV and Parquet as the lines of a listing: row by row, whatever sizes the file claims."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, BinaryIO, cast

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.lines import MALFORMED, raw_lines
from rerankfleet.shared.formats.sources import COPY_BYTES, is_uri, open_local, plain
from rerankfleet.shared.storage.objects import Objects

COLUMNS = ("id", "image", "text")
"""The columns that are read; `image` is required, others are ignored."""
CSV_ROW_BYTES = 4 << 20
"""Limit of a CSV row, which may span many lines and takes more memory than its bytes."""
PARQUET_MEMORY_BYTES = 2 << 30
"""Limit for reading Parquet, in which a few bytes may unpack to any number of long cells."""

NAME_MAX = 1000
"""Characters of an id or address that a malformed row is known by; longer ones are left out."""

_TABLES = (".csv", ".csv.gz", ".parquet")


def table_suffix(name: str) -> str:
    """The suffix of a table's name; empty for other files."""
    return next((suffix for suffix in _TABLES if name.lower().endswith(suffix)), "")


@contextmanager
def table_lines(source: str, objects: Objects, max_line_bytes: int) -> Iterator[Iterator[bytes]]:
    """The rows of a table as lines of a listing. Raises UsageError for other files."""
    with opened(source, objects) as raw:
        if table_suffix(source) != ".parquet":
            with plain(raw, source) as stream:
                yield csv_lines(cast(BinaryIO, stream), source, max_line_bytes)
            return
        with _on_disk(raw) as file:
            yield _parquet_lines(file, source, max_line_bytes)


@contextmanager
def opened(source: str, objects: Objects) -> Iterator[BinaryIO]:
    """The bytes of a path or URI."""
    opening = objects.open(source) if is_uri(source) else open_local(source)
    with opening as stream:
        yield stream


# ---- CSV ----------------------------------------------------------------------------------------


def csv_lines(stream: BinaryIO, name: str, max_line_bytes: int) -> Iterator[bytes]:
    """The rows of CSV as lines; the first row names the columns. A malformed row becomes a line
    with an error."""
    text = _RowText(stream, name, max_line_bytes)
    rows = csv.reader(text)
    header: list[str] = []
    while True:
        text.row_bytes = 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield _malformed(f"{error}, near line {rows.line_num} of the file")
            continue
        if row is None:
            return
        if row and not header:
            header = row
            refuse_columns(header, name)
        elif len(row) == len(header):
            yield row_line(dict(zip(header, row, strict=True)))
        elif row:  # blank lines are skipped
            yield _malformed(
                f"{len(row)} columns, expected {len(header)}, at line {rows.line_num} of the file"
            )


class _RowText:
    """Lines as text, up to the limit of a row. Bytes that are not UTF-8 become half surrogates, for
    which the row is refused."""

    def __init__(self, stream: BinaryIO, name: str, max_line_bytes: int) -> None:
        self._lines = enumerate(raw_lines(stream, min(max_line_bytes, CSV_ROW_BYTES)), 1)
        self._name = name
        self.row_bytes = 0
        """Size of the row that is being read."""

    def __iter__(self) -> _RowText:
        return self

    def __next__(self) -> str:
        number, (consumed, raw) = next(self._lines)
        self.row_bytes += consumed
        if raw is None or self.row_bytes > CSV_ROW_BYTES:
            raise UsageError(
                f"line {number} of {self._name} is too long, or its row",
                hint=f"a row may have {CSV_ROW_BYTES >> 20} MiB and no more than "
                "RERANK_MAX_LINE_BYTES: is a quotation mark missing?",
            )
        return raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape") + "\n"


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


def _parquet_lines(stream: BinaryIO, name: str, max_line_bytes: int) -> Iterator[bytes]:
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
        [*command, name, str(max_line_bytes), str(PARQUET_MEMORY_BYTES)],
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


def refuse_columns(columns: Sequence[str], name: str) -> None:
    """Raise UsageError for a table without images."""
    if "image" not in columns:
        raise UsageError(
            f"{name} has no column 'image', only {', '.join(columns)[:200] or 'none'}",
            hint="the columns that are read are image, id and text",
        )


def row_line(row: Mapping[str, Any], max_bytes: int | None = None) -> bytes:
    """A row as a line of a listing, without its empty cells."""
    fields = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    for name, value in fields.items():
        if not isinstance(value, str | int | list):
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
