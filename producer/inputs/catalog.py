"""The input of a catalog, before the job: its images and its queries.

Images come from a prefix or folder, listed while the job is cut, or from a listing, whose lines are
pinned. CSV and Parquet become lines: a local file while it is uploaded, a URI while the job is cut.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from rerankfleet.producer.contents import CONTENT_HINT, read_contents
from rerankfleet.producer.given_images import inline_uri
from rerankfleet.producer.inputs.folders import IMAGE_SUFFIXES, is_folder, survey
from rerankfleet.producer.inputs.jsonl import Grow, no_quota, pin
from rerankfleet.producer.inputs.tables import (
    IMAGES,
    csv_lines,
    refuse_no_parquet,
    refuse_other_lines,
    table_lines,
    table_suffix,
)
from rerankfleet.shared.addresses import file_uri, printable
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.given import with_images
from rerankfleet.shared.content.requests import ImageRun, Slice
from rerankfleet.shared.content.validation import ItemId, listed
from rerankfleet.shared.errors import InvalidOption, ItemError, OutputExists, UsageError
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.file_kinds import HEAD_BYTES as KIND_BYTES
from rerankfleet.shared.formats.lines import (
    LISTING_HINT,
    image_of,
    valid_document,
)
from rerankfleet.shared.formats.sources import (
    COPY_BYTES,
    PROBE_LINES,
    first_lines,
    is_uri,
    output_errors,
    refuse_other_kinds,
    require_writable,
    source_of,
)
from rerankfleet.shared.job_spec import InputRef
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects

QUERIES_BYTES = 64 << 20
"""The limit of a catalog's queries, which each process that works on it holds in memory."""


# ---- queries ------------------------------------------------------------------------------------


def read_queries(
    source: str | Path | Iterable[str | Mapping[str, Any]], objects: Objects
) -> list[Document]:
    """The queries of a catalog, each with an id: its own, or the number of its line from 1.

    `source` is a file with a query per line (text, or a JSON content with an optional id), or a
    table with the columns text, image, id; or a sequence of texts and contents. Raises
    InvalidOption naming the first that is wrong, with its place in a sequence: a query concerns
    every image.
    """
    name, values = _query_values(source, objects)
    queries: list[Document] = []
    seen: set[str] = set()
    number = 0
    try:
        for number, value in values:
            query = _query(f"{name}, query {number}", number, value)
            if (as_text := _as_text(query.id)) in seen:
                raise UsageError(f"{name}, query {number}: the id {query.id!r} is already used")
            seen.add(as_text)
            queries.append(query)
    except UsageError as error:
        place = () if isinstance(source, str | Path) else (number - 1,)
        raise _wrong_queries(error.message, error.hint, *place) from error
    if not queries:
        raise _wrong_queries(f"{name} has no queries", "write one query per line")
    return queries


def _as_text(query_id: ItemId | None) -> str:
    """An id as it is told from others: 8, 8.0 and "8" are one in many readers of the output."""
    if isinstance(query_id, float) and query_id.is_integer():
        return str(int(query_id))
    return str(query_id)


def _wrong_queries(message: str, hint: str, *place: int) -> InvalidOption:
    return InvalidOption("catalog", message, hint=hint, inside=("queries", *place))


def _query_values(
    source: str | Path | Iterable[str | Mapping[str, Any]], objects: Objects
) -> tuple[str, Iterable[tuple[int, Any]]]:
    if not isinstance(source, str | Path):
        try:
            return "the queries", enumerate(listed(source), 1)
        except PydanticCustomError as error:
            raise _wrong_queries(f"the queries: {error.message()}", "write a list") from None
    name = source_of(str(source))
    lines = read_contents(name, objects, QUERIES_BYTES, word="query")
    return name, (line for line in lines if line[1] is not None)


def _query(where: str, number: int, value: Any) -> Document:
    try:
        query = valid_document(with_images(value, inline_uri))
    except ItemError as error:
        raise UsageError(f"{where}: {error.message}", hint=CONTENT_HINT) from error
    if query.metadata is not None:
        raise UsageError(f"{where}: rows have no metadata", hint="look it up by the id")
    if query.plain and not (query.text or "").strip():
        raise UsageError(f"{where} is empty", hint="write what to search for")
    return query if query.id is not None else query.model_copy(update={"id": number})


# ---- images -------------------------------------------------------------------------------------


def pin_catalog(
    source: str, objects: Objects, settings: Settings, upload_to: str, grow: Grow = no_quota
) -> InputRef:
    """Check a catalog's images and pin them, for which `grow` makes room; a prefix or folder is
    listed while the job is cut.

    A local listing is uploaded to `upload_to` as lines; a URI stays where it is.
    Raises UsageError when it is missing, not allowed or not a listing.
    """
    if _is_local_folder(source, objects):
        source = f"{source if is_uri(source) else file_uri(source)}/"
    if is_folder(source):
        return _pin_folder(source, objects)
    suffix = table_suffix(source)
    if not suffix:
        return pin(source, objects, settings, upload_to, grow, probe=_probe)
    if is_uri(source):
        upload_to = f"{upload_to.removesuffix('.jsonl')}{suffix}"
        probe = _probe_parquet if suffix == ".parquet" else _probe_csv
        return pin(source, objects, settings, upload_to, grow, probe=probe)
    with table_lines(source, objects, settings.max_line_bytes) as lines:
        return _upload(lines, source, objects, upload_to, grow)


def _is_local_folder(source: str, objects: Objects) -> bool:
    """Whether it names a folder, without a slash at its end where it is a URI. Raises NotAllowed
    for one that may not be touched."""
    if not is_uri(source):
        return Path(source).is_dir()
    if not source.startswith("file://") or is_folder(source):
        return False
    return objects.is_folder(source)


def _pin_folder(uri: str, objects: Objects) -> InputRef:
    has_image, passed_over = survey(uri, objects.listing(uri))
    if not has_image:
        others = f" ({passed_over})" if passed_over else ""
        raise UsageError(
            f"there is no image under {printable(uri)}{others}",
            hint=f"the names of images end with {' '.join(IMAGE_SUFFIXES)}",
        )
    return InputRef(uri=uri, size=0, tag="", passed_over=passed_over)


def _upload(
    lines: Iterator[bytes], source: str, objects: Objects, target: str, grow: Grow
) -> InputRef:
    """Write lines into the storage, once some of the first are images."""
    head = list(islice(lines, PROBE_LINES))
    _refuse_others(head, source)
    digest, size = hashlib.sha256(), 0
    with objects.writer(target) as out:
        for line in chain(head, lines):
            size += len(line)
            grow(size)
            digest.update(line)
            out.write(line)
    stat = objects.stat(target)
    return InputRef(uri=target, size=stat.size, tag=stat.tag, sha256=digest.hexdigest())


def _probe(stream: io.BufferedReader, name: str) -> None:
    """Refuse what is not a listing, without consuming anything."""
    refuse_other_kinds(stream, name, "a listing of images", LISTING_HINT)
    lines = first_lines(stream)
    if lines is not None:
        refuse_other_lines(lines[0] if lines else b"", name, IMAGES)
        _refuse_others(lines, name)


def _probe_csv(stream: io.BufferedReader, name: str) -> None:
    """Refuse CSV that is not a listing, without consuming anything."""
    refuse_other_kinds(stream, name, "CSV", LISTING_HINT)
    head = stream.peek(COPY_BYTES)
    rows = list(islice(csv_lines(io.BytesIO(head), name, COPY_BYTES), PROBE_LINES))
    if len(head) >= COPY_BYTES - 1 and len(rows) < PROBE_LINES:
        rows.pop()  # it may be cut
        if not rows:
            return  # a very long row: it is checked when it is read
    _refuse_others(rows, name)


def _probe_parquet(stream: io.BufferedReader, name: str) -> None:
    """Refuse what cannot be Parquet. Its columns, at its end, are checked when it is read."""
    refuse_no_parquet(stream.peek(KIND_BYTES)[:KIND_BYTES], name)


def _refuse_others(lines: Sequence[bytes], name: str) -> None:
    """Raise UsageError when none of the first lines names an image."""
    if not lines:
        raise UsageError(f"{name} is empty", hint=LISTING_HINT)
    named = (line for line in lines if not is_blank(line))
    pieces = [image_of(number, line, 1) for number, line in enumerate(named, 1)]
    if not any(isinstance(piece, ImageRun) for piece in pieces):
        why = next((f.message for p in pieces if isinstance(p, Slice) for f in p.failures), "blank")
        raise UsageError(f"{name} is not a listing of images ({why})", hint=LISTING_HINT)


def refuse_existing_folder(output: str, objects: Objects, *, force: bool) -> None:
    """Raise before any work if an output folder cannot be written, or is not empty and `force` is
    not set."""
    if is_uri(output):
        occupied = objects.is_occupied(output)
        objects.try_writing(output)
    else:
        path = Path(output)
        if path.is_file():
            raise UsageError(f"the output {output} is a file", hint="name a folder")
        with output_errors(output):
            occupied = path.is_dir() and any(path.iterdir())
            require_writable(path / "manifest.json")
    if occupied and not force:
        raise OutputExists(
            f"the output {output} is not empty",
            hint="set `force` to add files to it",
            command="--force",
        )
