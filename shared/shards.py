"""Shard files and part files: what the feeder hands to a worker, and what a worker hands back.

Both are JSON Lines. A part is written whole, under a name of its attempt, before its commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shared.keys import shard_range
from shared.models import Provenance, Slice, SliceOutcome
from shared.objects import Objects


def job_uri(objects: Objects, job_id: str, *parts: str) -> str:
    """Where something of a job stands in the storage."""
    return objects.at("jobs", job_id, *parts)


def shard_file(round_: int, start: int, end: int, attempt: str) -> str:
    """The name of a shard file: its range, and who wrote it."""
    return f"{round_}-{start}-{end}-{attempt}"


def shard_uri(objects: Objects, job_id: str, file: str) -> str:
    """Where a shard file stands; an inline one says so itself."""
    return file if file.startswith("redis:") else job_uri(objects, job_id, "shards", file)


def dump_slices(slices: Sequence[Slice]) -> bytes:
    """The bytes of a shard file: one slice a line."""
    return b"".join(s.model_dump_json(exclude_defaults=True).encode() + b"\n" for s in slices)


def load_slices(objects: Objects, job_id: str, file: str, shard: str) -> list[Slice]:
    """The slices of a shard, which is all of its file or, after a split, a range of it."""
    at = int(file.rsplit("/", 1)[-1].split("-")[1])
    first, last = shard_range(shard)
    slices = []
    for line in objects.read(shard_uri(objects, job_id, file)).splitlines():
        piece = Slice.model_validate_json(line)
        wanted = (
            piece.cut(first - at, last - at) if at < last and at + piece.items > first else None
        )
        if wanted is not None:
            slices.append(wanted)
        at += piece.items
    return slices


def part_uri(objects: Objects, job_id: str, start: int, part: str) -> str:
    """Where a part file stands; an inline one says so itself."""
    if part.startswith("redis:"):
        return part
    return job_uri(objects, job_id, "parts", f"{start}-{part}")


def dump_part(outcomes: Sequence[SliceOutcome], provenance: Provenance) -> bytes:
    """The bytes of a part file: who scored it, then one slice's outcome a line."""
    head = provenance.model_dump_json().encode() + b"\n"
    return head + b"".join(
        o.model_dump_json(exclude_defaults=True).encode() + b"\n" for o in outcomes
    )


def load_part(
    objects: Objects, job_id: str, start: int, part: str
) -> Iterator[tuple[SliceOutcome, Provenance]]:
    """The outcomes of a part, each with who scored it. A part is as small as its shard: it is read
    whole, so that a storage that falters is asked again for this part alone."""
    outcomes, provenance = parse_part(objects.read(part_uri(objects, job_id, start, part)))
    for outcome in outcomes:
        yield outcome, provenance


def parse_part(data: bytes) -> tuple[list[SliceOutcome], Provenance]:
    """What `dump_part` wrote."""
    head, *lines = data.splitlines()
    provenance = Provenance.model_validate_json(head)
    return [SliceOutcome.model_validate_json(line) for line in lines], provenance
