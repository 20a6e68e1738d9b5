"""Shard files and part files: the input of a worker, written by the feeder, and its output.

Both are JSON Lines. A catalog's shard names each image once, with a run of its queries, which are
stored once per job beside the shards. A part is written whole, under a name of its attempt, before
its commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from pydantic import ValidationError

from rerankfleet.shared.content.content import Content, Document
from rerankfleet.shared.content.outcomes import Provenance, SliceOutcome
from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.content.requests import ImageRun, Piece, Slice
from rerankfleet.shared.errors import Damaged, UnreadableJob
from rerankfleet.shared.formats.lines import image_id
from rerankfleet.shared.storage.objects import Objects

QUERY_SETS_KEPT = 4
"""How many catalogs' queries one process caches."""


def job_uri(objects: Objects, job_id: str, *parts: str) -> str:
    """The URI of a file of a job in the storage."""
    return objects.at("jobs", job_id, *parts)


def shard_file(round_: int, start: int, end: int, attempt: str) -> str:
    """The name of a shard file: its round and range, and which attempt wrote it."""
    return f"{round_}-{start}-{end}-{attempt}"


def shard_uri(objects: Objects, job_id: str, file: str) -> str:
    """The URI of a shard file; an inline one is a URI already."""
    return file if file.startswith("redis:") else job_uri(objects, job_id, "shards", file)


def dump_slices(pieces: Sequence[Piece]) -> bytes:
    """The bytes of a shard file: per line a slice, or an image with a run of queries."""
    return b"".join(p.model_dump_json(exclude_defaults=True).encode() + b"\n" for p in pieces)


def load_slices(objects: Objects, job_id: str, file: str, shard: str) -> list[Slice]:
    """The slices of a shard: all of its file or, after a split, a range of it.

    An image of a catalog becomes one slice per query, the image being its only document and the
    query's ordinal that document's index; `metadata` names the image. Raises UnreadableJob for a
    file of a newer version.
    """
    with _damaged(f"the record or the file of shard {shard} of job {job_id}"):
        at = int(file.rsplit("/", 1)[-1].split("-")[1])
        lines = objects.read(shard_uri(objects, job_id, file)).splitlines()
        first, last = shard_range(shard)
        slices: list[Slice] = []
        for piece in (_piece(line, job_id) for line in lines):
            if at < last and at + piece.items > first:
                part = piece.cut(first - at, last - at)
                if isinstance(part, ImageRun):
                    slices += _pairs(part, load_queries(objects, job_id))
                else:
                    slices.append(part)
            at += piece.items
        return slices


@contextmanager
def _damaged(name: str) -> Iterator[None]:
    """Raise Damaged for what another process wrote and cannot be read."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise Damaged(
            f"{name} is damaged ({type(error).__name__})",
            hint="cancel the job and retry it: what was scored is kept",
        ) from error


def _piece(line: bytes, job_id: str) -> Piece:
    kind = ImageRun if line.startswith(b'{"run":') else Slice  # its first field
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        unknown = [e["loc"][-1] for e in error.errors() if e["type"] == "extra_forbidden"]
        if not unknown:
            raise
        raise UnreadableJob(
            f"a shard of job {job_id} was written by a newer version: {unknown[0]!r} is not known",
            hint="update this one",
        ) from error


def _pairs(image: ImageRun, queries: Sequence[Document]) -> Iterator[Slice]:
    name = {"image_id": image_id(image.document)}
    for ordinal in range(*image.run):
        query = queries[ordinal]
        yield Slice(
            line=image.line,
            id=query.id,
            query=Content(text=query.text, image=query.image, video=query.video),
            metadata=name,
            documents=[image.document],
            indices=[ordinal],
            continued=ordinal > 0,
        )


def count_requests(slices: Iterable[Slice]) -> int:
    """How many requests begin in these slices. In a catalog an image with all its queries is one;
    in a retry, a request of which anything is retried. A line that could not be read is none."""
    return sum(not (piece.continued or piece.is_bad_line) for piece in slices)


def queries_uri(objects: Objects, job_id: str) -> str:
    """The URI of a catalog's queries."""
    return job_uri(objects, job_id, "queries.jsonl")


def dump_queries(queries: Sequence[Document]) -> bytes:
    """The bytes of a catalog's queries: a content with its id per line."""
    return b"".join(q.model_dump_json(exclude_defaults=True).encode() + b"\n" for q in queries)


@lru_cache(maxsize=QUERY_SETS_KEPT)
def load_queries(objects: Objects, job_id: str) -> tuple[Document, ...]:
    """A catalog's queries, by ordinal. Cached: they never change."""
    with _damaged(f"the queries of job {job_id}"):
        lines = objects.read(queries_uri(objects, job_id)).splitlines()
        return tuple(Document.model_validate_json(line) for line in lines)


def part_uri(objects: Objects, job_id: str, start: int, part: str) -> str:
    """The URI of a part file; an inline one is a URI already."""
    if part.startswith("redis:"):
        return part
    return job_uri(objects, job_id, "parts", f"{start}-{part}")


def dump_part(outcomes: Sequence[SliceOutcome], provenance: Provenance) -> bytes:
    """The bytes of a part file: its provenance, then the outcome of a slice per line."""
    head = provenance.model_dump_json(exclude_defaults=True).encode() + b"\n"
    return head + b"".join(
        o.model_dump_json(exclude_defaults=True).encode() + b"\n" for o in outcomes
    )


def load_part(
    objects: Objects, job_id: str, start: int, part: str
) -> Iterator[tuple[SliceOutcome, Provenance]]:
    """The outcomes of a part, each with its provenance. A part is as small as its shard, so it is
    read whole: a failing storage is retried for this part alone."""
    with _damaged(f"part {start}-{part} of job {job_id}"):
        outcomes, provenance = parse_part(objects.read(part_uri(objects, job_id, start, part)))
    for outcome in outcomes:
        yield outcome, provenance


def parse_part(data: bytes) -> tuple[list[SliceOutcome], Provenance]:
    """What `dump_part` wrote."""
    head, *lines = data.splitlines()
    provenance = Provenance.model_validate_json(head)
    return [SliceOutcome.model_validate_json(line) for line in lines], provenance
