"""The input of a catalog, before the job: its images and its queries.

Images come from a prefix or folder, read while the job is cut, or from a listing, whose lines are
pinned: CSV and Parquet become lines on the way into the storage, a row or a row group at a time.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydantic import ValidationError

from producer.ingest import IMAGE_SUFFIXES, is_folder, is_image, pin
from shared.errors import OutputExists, UsageError
from shared.lines import LISTING_HINT, MALFORMED, image_of, raw_lines, valid_document
from shared.models import Document, ImageRun, InputRef, Slice
from shared.objects import Objects, file_uri, local_path
from shared.settings import Settings
from shared.sources import COPY_BYTES, PROBE_LINES, is_uri, open_local, plain

COLUMNS = ("id", "image", "text")
"""The columns of CSV and Parquet that are read; `image` is needed, others are passed over."""

QUERIES_BYTES = 64 << 20
"""All queries of a catalog: each process that works on it holds them."""

PARQUET_ROWS = 4096
"""Rows of Parquet turned into lines at a time, within a row group."""


# ---- queries ------------------------------------------------------------------------------------


def read_queries(
    source: str | Path | Sequence[str | Mapping[str, Any]], objects: Objects
) -> list[Document]:
    """The queries of a catalog, each with an id: its own, or the number of its line from 1.

    `source` is a file with a query a line (text, or a JSON content with an optional id; blank
    lines are passed over), or a sequence of texts and contents. Raises UsageError naming the first
    that is wrong: a query concerns every image.
    """
    name, values = _query_values(source, objects)
    queries: list[Document] = []
    seen: set[str] = set()
    for number, value in values:
        query = _query(f"{name}, query {number}", number, value)
        if str(query.id) in seen:
            raise UsageError(f"{name}, query {number}: the id {query.id!r} is taken already")
        seen.add(str(query.id))
        queries.append(query)
    if not queries:
        raise UsageError(f"{name} holds no query", hint="write one query a line")
    return queries


def _query_values(
    source: str | Path | Sequence[str | Mapping[str, Any]], objects: Objects
) -> tuple[str, Iterable[tuple[int, Any]]]:
    if not isinstance(source, str | Path):
        return "the queries", enumerate(source, 1)
    name = str(source)
    with _opened(name, objects) as raw, plain(raw, name) as stream:
        data = stream.read(QUERIES_BYTES + 1)
    if len(data) > QUERIES_BYTES:
        raise UsageError(f"{name} is larger than {QUERIES_BYTES >> 20} MiB", hint="split it")
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not UTF-8 (at byte {error.start})") from error
    found = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return name, ((number, _as_written(name, number, line)) for number, line in found if line)


def _as_written(name: str, number: int, line: str) -> Any:
    """A line as a content when it is a JSON object, else as the text that it is."""
    if not line.startswith("{"):
        return line
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{name}, query {number} begins like JSON but is none") from error


def _query(where: str, number: int, value: Any) -> Document:
    try:
        query = valid_document(value)
    except (ValidationError, UnicodeEncodeError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is no text"
        raise UsageError(
            f"{where}: {said}", hint='write text, or {"text"?, "image"?, "video"?, "id"?}'
        ) from error
    if query.metadata is not None:
        raise UsageError(f"{where}: metadata has no place in a row", hint="find it by the id")
    if query.plain and not (query.text or "").strip():
        raise UsageError(f"{where} is empty", hint="say what is looked for")
    return query if query.id is not None else query.model_copy(update={"id": number})


# ---- images -------------------------------------------------------------------------------------


def pin_catalog(source: str, objects: Objects, settings: Settings, upload_to: str) -> InputRef:
    """Check a catalog's images and pin them; a prefix or folder is read when its turn comes.

    A local listing, CSV and Parquet go to `upload_to` as lines; a URI of lines stays where it is.
    Raises UsageError when there is nothing, when it is not allowed, or when it is no listing.
    """
    if not is_uri(source) and Path(source).is_dir():
        source = f"{file_uri(source)}/"
    if is_folder(source):
        return _pin_folder(source, objects)
    suffix = Path(source.removesuffix(".gz")).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        return pin(source, objects, settings, upload_to, probe=_probe)
    with ExitStack() as stack:
        if suffix == ".parquet":
            lines = _parquet_lines(stack.enter_context(_on_disk(source, objects)), source)
        else:
            raw = stack.enter_context(_opened(source, objects))
            stream = stack.enter_context(plain(raw, source))
            lines = _csv_lines(stream, source, settings.max_line_bytes)
        return _upload(lines, source, objects, upload_to)


def _pin_folder(uri: str, objects: Objects) -> InputRef:
    if not any(is_image(found) for found in objects.listing(uri)):
        raise UsageError(
            f"there is no image under {uri}",
            hint=f"taken are names that end with {' '.join(IMAGE_SUFFIXES)}",
        )
    return InputRef(uri=uri, size=0, tag="")


def _upload(lines: Iterator[bytes], source: str, objects: Objects, target: str) -> InputRef:
    """Write lines into the storage, once some of the first are images."""
    head = list(islice(lines, PROBE_LINES))
    _refuse_others(head, source)
    digest = hashlib.sha256()
    with objects.writer(target) as out:
        for line in chain(head, lines):
            digest.update(line)
            out.write(line)
    stat = objects.stat(target)
    return InputRef(uri=target, size=stat.size, tag=stat.tag, sha256=digest.hexdigest())


def _probe(stream: io.BufferedReader, name: str) -> None:
    """Refuse what is no listing, without consuming anything."""
    head = stream.peek(COPY_BYTES)
    lines = raw_lines(io.BytesIO(head), len(head))
    _refuse_others([line or b"" for _, line in islice(lines, PROBE_LINES)], name)


def _refuse_others(lines: Sequence[bytes], name: str) -> None:
    """Raise UsageError when none of the first lines names an image."""
    if not lines:
        raise UsageError(f"{name} is empty", hint=LISTING_HINT)
    found = [image_of(number, line, 1) for number, line in enumerate(lines, 1)]
    if not any(isinstance(one, ImageRun) for one in found):
        said = next(f.message for one in found if isinstance(one, Slice) for f in one.failures)
        raise UsageError(f"{name} is no listing of images ({said})", hint=LISTING_HINT)


@contextmanager
def _opened(source: str, objects: Objects) -> Iterator[BinaryIO]:
    opening = objects.open(source) if is_uri(source) else open_local(source)
    with opening as stream:
        yield stream


@contextmanager
def _on_disk(source: str, objects: Objects) -> Iterator[BinaryIO]:
    """A file that can be sought, as Parquet must be: an object of S3 is copied onto the disk."""
    with _opened(source, objects) as stream:
        if not source.startswith("s3:"):
            yield stream
            return
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy, COPY_BYTES)
            yield cast(BinaryIO, copy)


def refuse_existing_folder(output: str, objects: Objects, *, force: bool) -> None:
    """Raise before any work when an output folder cannot be written, or holds something already
    and `force` is not set."""
    if output.startswith("s3:"):
        taken = next(objects.listing(output), None) is not None
    else:
        if is_uri(output):
            objects.check(output)
        path = local_path(output) if is_uri(output) else Path(output)
        if path.is_file():
            raise UsageError(f"the output {output} is a file", hint="name a folder")
        taken = path.is_dir() and any(path.iterdir())
    if taken and not force:
        raise OutputExists(
            f"the output {output} holds files already", hint="use --force to write among them"
        )


# ---- other formats, as lines --------------------------------------------------------------------


def _csv_lines(stream: io.BufferedReader, name: str, max_line_bytes: int) -> Iterator[bytes]:
    """The rows of CSV as lines; the first row names the columns. A malformed row is a line too."""
    rows = csv.reader(_text_lines(stream, name, max_line_bytes))
    header: list[str] = []
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield _malformed(f"{error}, near line {rows.line_num} of the file")
            continue
        if row is None:
            return
        if row and not header:
            header = row
            _refuse_columns(header, name)
        elif len(row) == len(header):
            yield _line(dict(zip(header, row, strict=True)))
        elif row:  # blank lines are none
            yield _malformed(
                f"{len(row)} columns, expected {len(header)}, at line {rows.line_num} of the file"
            )


def _text_lines(stream: io.BufferedReader, name: str, max_line_bytes: int) -> Iterator[str]:
    """Lines as text; what is no UTF-8 becomes half surrogates, for which its row is refused."""
    for number, (_, raw) in enumerate(raw_lines(stream, max_line_bytes), 1):
        if raw is None:
            raise UsageError(f"line {number} of {name} is too long", hint="RERANK_MAX_LINE_BYTES")
        yield raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape") + "\n"


def _parquet_lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """The rows of Parquet as lines, a row group in memory at the most."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise no_pyarrow("to read Parquet") from error
    try:
        file = parquet.ParquetFile(stream)
        _refuse_columns(file.schema_arrow.names, name)
        columns = [column for column in COLUMNS if column in file.schema_arrow.names]
        for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
            yield from (_line(row) for row in batch.to_pylist())
    except (ArrowException, OSError) as error:  # the latter for damaged pages
        raise UsageError(f"{name} is no Parquet ({str(error)[:200]})") from error


def no_pyarrow(purpose: str) -> UsageError:
    """What is said where pyarrow is not installed."""
    return UsageError(
        f"pyarrow is needed {purpose}", hint="pip install 'rerankfleet[parquet]', or use JSON Lines"
    )


def _refuse_columns(columns: Sequence[str], name: str) -> None:
    if "image" not in columns:
        raise UsageError(
            f"{name} has no column 'image', only {', '.join(columns)[:200] or 'none'}",
            hint="the columns that are read are image, id and text",
        )


def _line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of a listing; an empty cell is none."""
    fields = {name: row[name] for name in COLUMNS if row.get(name) not in (None, "")}
    for name, value in fields.items():
        if not isinstance(value, str | int | list):
            kind = type(value).__name__
            return _malformed(f"{name} is of type {kind}, expected text")
    try:
        return json.dumps(fields).encode() + b"\n"
    except TypeError:
        return _malformed("image is a list of something else than text")


def _malformed(message: str) -> bytes:
    return json.dumps({MALFORMED: message}).encode() + b"\n"
