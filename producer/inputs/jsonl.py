"""A job's input: pinned before any work starts, then read as a stream from any position.

Memory holds one line, or one page of a listing. Invalid lines become slices with a failure, so that
nothing is counted twice.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import cast

from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.inputs.folders import is_folder, is_image, name_in
from rerankfleet.producer.inputs.tables import table_lines, table_suffix
from rerankfleet.producer.shard_size import image_tokens, slice_tokens
from rerankfleet.shared.content.outcomes import Provenance, SliceOutcome
from rerankfleet.shared.content.requests import Piece, Slice
from rerankfleet.shared.errors import InputChanged
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.lines import image_of, parse_line, raw_lines
from rerankfleet.shared.formats.output import outcome_of
from rerankfleet.shared.formats.sources import (
    COPY_BYTES,
    Hashing,
    is_plain,
    is_uri,
    open_local,
    plain,
    probe,
    refuse_bomb,
)
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.job_spec import InputRef
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.uploads import is_upload, recorded_hash

SKIPPED_PER_CUT = 10_000
"""After so many files of a folder that are no images, the position moves on without one."""
BLANK_PER_CUT = 100_000
"""After so many blank lines, the position moves on without a request."""
BLANK = b""
HEAD_BYTES = 256 << 10
"""How much of an input is read to estimate the cost of all of it."""


Grow = Callable[[int], None]
"""Makes room for so many bytes in all, before the last of them are written."""
Probe = Callable[[io.BufferedReader, str], None]
"""Refuses an input by its first bytes, without consuming them; the text is its name."""


def no_quota(_: int) -> None:
    """There is room for any number of bytes."""


# ---- before the job -----------------------------------------------------------------------------


def pin(
    source: str,
    objects: Objects,
    settings: Settings,
    upload_to: str,
    grow: Grow = no_quota,
    probe: Probe = probe,
) -> InputRef:
    """Check an input and pin its bytes, for which `grow` makes room.

    A local path or `-` is uploaded to `upload_to` as plain lines; a URI stays where it is. An
    upload expires, so the storage makes the job a copy, packed as it is.
    Raises UsageError when it is missing, not allowed, empty or refused by `probe`.
    """
    if is_upload(source, settings):
        return _pin_upload(source, objects, upload_to, grow, probe)
    if is_uri(source):
        return _pin_uri(source, objects, probe)
    if (path := Path(source)).is_file():
        grow(path.stat().st_size)
    with open_local(source) as raw:
        hashing = Hashing(raw)
        with plain(hashing, source) as lines:
            probe(lines, source)
            return _copied(lines, hashing, objects, upload_to, grow)


def _pin_upload(uri: str, objects: Objects, upload_to: str, grow: Grow, probe: Probe) -> InputRef:
    grow(objects.stat(uri).size)
    _probe_uri(uri, objects, probe)
    sha256 = recorded_hash(objects, uri)
    if sha256 is None:
        with objects.open(uri) as raw:
            hashing = Hashing(raw)
            while hashing.read(COPY_BYTES):
                beat()
        sha256 = hashing.hexdigest()
    objects.copy(uri, upload_to)
    stat = objects.stat(upload_to)
    return InputRef(uri=upload_to, size=stat.size, tag=stat.tag, sha256=sha256)


def _copied(
    source: io.RawIOBase | io.BufferedReader,
    hashing: Hashing,
    objects: Objects,
    target: str,
    grow: Grow,
) -> InputRef:
    size = 0
    with objects.writer(target) as out:
        while block := source.read(COPY_BYTES):
            size += len(block)
            grow(size)
            out.write(block)
    stat = objects.stat(target)
    return InputRef(uri=target, size=stat.size, tag=stat.tag, sha256=hashing.hexdigest())


def _pin_uri(uri: str, objects: Objects, probe: Probe) -> InputRef:
    stat = objects.stat(uri)
    _probe_uri(uri, objects, probe)
    sha256 = None
    if uri.startswith("file://"):
        with objects.open(uri) as stream:
            sha256 = hashlib.file_digest(cast(io.BufferedReader, stream), "sha256").hexdigest()
    return InputRef(uri=uri, size=stat.size, tag=stat.tag, sha256=sha256)


def _probe_uri(uri: str, objects: Objects, probe: Probe) -> None:
    with objects.open(uri) as raw, plain(raw, uri) as lines:
        probe(lines, uri)


def refuse_changed(pinned: InputRef, objects: Objects) -> None:
    """Raise InputChanged when an input is no longer the one that was pinned. A folder is not
    pinned: it is listed while the job is cut."""
    if is_folder(pinned.uri):
        return
    stat = objects.stat(pinned.uri)
    if (stat.size, stat.tag) != (pinned.size, pinned.tag):
        raise InputChanged(
            f"the input {pinned.uri} changed since the job was made",
            hint="restore the same bytes and resume, or cancel and submit it as a new job",
        )


# ---- while the job is cut -----------------------------------------------------------------------


class Input:
    """A job's input as slices. In a retry, only what failed in the previous round's output."""

    def __init__(self, job: Job, objects: Objects, settings: Settings) -> None:
        self._job = job
        self._objects = objects.for_inputs(job.id)
        self._settings = settings

    def make_seekable(self) -> str:
        """Return the URI of the plain lines in UTF-8; gzip, tables and other encodings are first
        rewritten into the storage, which can take long."""
        if uri := self._job.facts.get("plain_uri"):
            return uri
        uri, objects = self._job.spec.input.uri, self._objects
        if is_folder(uri):
            return uri
        if self._job.spec.catalog and table_suffix(uri):
            with table_lines(uri, objects, self._settings.max_line_bytes) as lines:
                return self._rewritten(lines)
        with objects.open(uri) as raw:
            if is_plain(raw):
                return uri
        with objects.open(uri) as raw, plain(raw, uri) as stream:
            return self._rewritten(iter(partial(stream.read, COPY_BYTES), b""))

    def _rewritten(self, blocks: Iterable[bytes]) -> str:
        """Write the plain lines beside the job's other files. Returns their URI."""
        pinned, size = self._job.spec.input, 0
        target = self._objects.at("jobs", self._job.id, "lines.jsonl")
        with self._objects.writer(target) as out:
            for block in blocks:
                out.write(block)
                size += len(block)
                refuse_bomb(pinned.uri, pinned.size, size)
                beat()
        return target

    def tokens(self, uri: str) -> float:
        """Estimated tokens of all the plain lines at `uri`, by the first of them: short lines may
        name large images. Infinite for a catalog, which is not read before it is cut."""
        if self._job.spec.catalog:
            return math.inf
        spec, tokens, offset = self._job.spec, 0.0, 0
        per_image, text_max = image_tokens(spec.image_spec), spec.max_tokens_per_doc or math.inf
        for line, offset in self._lines(uri, 0, 0):
            if line[1] != BLANK:
                tokens += slice_tokens(self._parse_request(*line), per_image, text_max)
            if offset >= HEAD_BYTES:
                break
        return tokens / max(offset, 1) * self._objects.stat(uri).size

    def reads(self, uri: str, cursor: Cursor) -> Iterator[Read]:
        """Yield the lines of the plain input, or the images of the folder, at `uri` from `cursor`
        on; where a folder holds many other files, now and then a position without an image."""
        if self._job.round:
            yield from self._within_limit(self._failed(uri, cursor), cursor)
            return
        reads = self._images if is_folder(uri) else self._plain
        yield from self._within_limit(reads(uri, cursor), cursor)

    def _within_limit(self, reads: Iterator[Read], cursor: Cursor) -> Iterator[Read]:
        """The reads that the job's limit of requests still allows from a cursor on."""
        limit, requests = self._job.spec.limit, cursor.requests
        while limit is None or requests < limit:
            if (read := next(reads, None)) is None:
                return
            requests += read.piece is not None
            yield read

    def _plain(self, uri: str, cursor: Cursor) -> Iterator[Read]:
        for line, offset in self._lines(uri, cursor.offset, cursor.line):
            blank = line[1] == BLANK
            yield Read(None if blank else self._parse(*line), offset, passed=line[0] * blank)

    def _images(self, uri: str, cursor: Cursor) -> Iterator[Read]:
        """The images of a folder. One that is partly cut comes first, even if it no longer exists:
        no other may take its place."""
        begun = [cursor.key] if cursor.skip else []
        number, skipped = cursor.line, 0
        for key in chain(begun, self._objects.listing(uri, cursor.key)):
            if is_image(name_in(key, uri)):
                number += 1
                yield Read(self._parse(number, json.dumps({"image": key}).encode()), key=key)
                continue
            skipped += 1
            if skipped % SKIPPED_PER_CUT == 0:
                yield Read(None, key=key, passed=number)

    def _lines(
        self, uri: str, offset: int, number: int
    ) -> Iterator[tuple[tuple[int, bytes | None], int]]:
        """The lines that are not blank, each with its number and the offset behind it; after many
        blank ones the last of them, as BLANK."""
        blank = 0
        with self._objects.open(uri, offset) as stream:
            for consumed, raw in raw_lines(stream, self._settings.max_line_bytes):
                offset, number = offset + consumed, number + 1
                if raw is None or not is_blank(raw):
                    yield (number, raw), offset
                    continue
                blank += 1
                if blank % BLANK_PER_CUT == 0:
                    yield (number, BLANK), offset

    def _parse(self, number: int, raw: bytes | None) -> Piece:
        if catalog := self._job.spec.catalog:
            return image_of(number, raw, catalog.count)
        return self._parse_request(number, raw)

    def _parse_request(self, number: int, raw: bytes | None) -> Slice:
        return parse_line(number, raw, max_documents=self._settings.max_documents_per_request)

    def _failed(self, uri: str, cursor: Cursor) -> Iterator[Read]:
        """Read the input and the previous output, which has a line for each of its requests."""
        before = previous_outcomes(self._job, self._objects, cursor.previous, cursor.requests)
        previous = cursor.previous
        for line, offset in self._lines(uri, cursor.offset, cursor.line):
            if line[1] == BLANK:
                yield Read(None, offset, previous, passed=line[0])
                continue
            piece, old = self._parse(*line), next(before, None)
            # where the previous output was cut short, the whole line is due
            if old is not None and isinstance(piece, Slice):
                piece, previous = self._due_again(piece, old.outcome), old.offset
            yield Read(piece, offset, previous)

    def _due_again(self, piece: Slice, before: SliceOutcome) -> Slice:
        """`due_again`, for a line of which the previous output may hold only the best results, and
        in the middle of which its job may have ended."""
        facts = self._job.facts
        only, end = facts.get("only", ""), Cursor.parse(facts.get("before", ""))
        top_n = self._job.spec.top_n if piece.top_n is None else piece.top_n
        if not top_n or len(before.results) < top_n:
            return due_again(piece, before, only)
        ended_here = end.skip and piece.line == end.line + 1
        return due_again(piece, before, only, missing_from=end.skip if ended_here else piece.items)


@dataclass(frozen=True, slots=True)
class Previous:
    """A line of the previous round's output, and the offset after it."""

    outcome: SliceOutcome
    provenance: Provenance | None
    offset: int


def previous_outcomes(
    job: Job, objects: Objects, offset: int = 0, number: int = 0
) -> Iterator[Previous]:
    """The lines of the previous round's output from an offset on, before which there are `number`
    lines."""
    outputs = objects.for_outputs(job.id, over_http=job.spec.over_http)
    with outputs.open(job.facts["previous"], offset) as stream:
        for raw in stream:
            offset, number = offset + len(raw), number + 1
            line = json.loads(raw)
            provenance = line["provenance"] and Provenance(**line["provenance"])
            yield Previous(outcome_of(line.get("line", number), line), provenance, offset)


def due_again(piece: Slice, before: SliceOutcome, only: str, *, missing_from: int = 0) -> Slice:
    """The pairs of a line that have no score: those that failed, and those that the previous output
    does not mention, since its job ended before they were cut.

    With `only` "errors" the cancelled ones are left out. Where the output holds only the best
    results of the line, an item before the position `missing_from` that it does not mention has a
    score.
    """
    failed = {
        e.index
        for e in before.errors
        if not e.rejected and (only != "errors" or e.code != "cancelled")
    }
    if None in failed:
        return piece
    mentioned = {r.index for r in before.results} | {e.index for e in before.errors}
    items = [*piece.indices, *(failure.index for failure in piece.failures)]
    missing = {index for index in items[missing_from:] if not mentioned & {index, None}}
    due = failed | missing
    kept = [
        (document, index)
        for document, index in zip(piece.documents, piece.indices, strict=True)
        if index in due
    ]
    return piece.model_copy(
        update={
            "documents": [document for document, _ in kept],
            "indices": [index for _, index in kept],
            "failures": [f for f in piece.failures if f.index in due],
            "twins": _twins_left(piece, before, [index for _, index in kept]),
        }
    )


def _twins_left(piece: Slice, before: SliceOutcome, left: Sequence[int]) -> dict[int, int]:
    """The twins of the documents that are left: one that has its score already, where there is one,
    so that all have that score."""
    scored: dict[int, int] = {}
    for index in sorted(result.index for result in before.results):
        scored.setdefault(piece.twins.get(index, index), index)
    first = {index: piece.twins.get(index, index) for index in left}
    twins = {index: scored.get(at, at) for index, at in first.items()}
    return {index: at for index, at in twins.items() if at != index}
