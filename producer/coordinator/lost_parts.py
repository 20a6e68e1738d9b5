"""Parts of committed shards that are gone from the storage, or damaged: they are scored again.

What a shard holds is read from its shard file, or where that is gone too from the job's input,
which gives the same items in the same order. At the end the job's counts are taken from its parts.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator

import structlog

from rerankfleet.producer.coordinator.step import Control, Step
from rerankfleet.producer.inputs.cursor import Cursor
from rerankfleet.producer.inputs.jsonl import Input, refuse_changed
from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.content.requests import Piece
from rerankfleet.shared.errors import (
    Damaged,
    ObjectMissing,
    PartLost,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.formats.shard_files import (
    dump_slices,
    job_uri,
    load_slices,
    part_uri,
    shard_file,
    shard_uri,
)
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.job_status import CODE
from rerankfleet.shared.state.records import Job

LOST_MS = 30_000
"""For so long a part that is not there is waited for: another host may see it later."""
BASE = "_base"
"""How the facts end that hold the counts of earlier rounds."""

log = structlog.get_logger()

Lost = tuple[int, int, str]
"""The start and end of a shard, and its part."""


def reopen_lost(job: Job, control: Control, step: Step, error: PartLost) -> None:
    """Open the shards again whose parts are not in the storage.

    Raises StorageUnavailable while the storage may be away, and UsageError when what they hold can
    no longer be known.
    """
    _wait(job, control, error)
    cancelled = control.store.jobs.get(job.id).cancelled
    for (start, end, part), file in _with_files(job, control, error):
        log.warning("a part is lost, its shard is opened again", job=job.id, start=start, end=end)
        opened = control.store.shards.reopen(job, step.token, (start, end, part), file)
        if opened and not cancelled:
            spec = job.spec
            control.hints.shard(spec.model, spec.priority, job.id, shard_name(start, end))


def _wait(job: Job, control: Control, error: PartLost) -> None:
    """Raise StorageUnavailable while a storage that is away would look the same."""
    folders = control.objects.folders(job_uri(control.objects, job.id) + "/")
    if {"shards", "parts"}.isdisjoint(folders):  # of which there was one at least
        raise StorageUnavailable(
            f"the storage holds no file of shards of job {job.id}",
            hint="mount it, or restore its files",
        )
    now_ms = control.store.now_ms()
    since_ms = job.number("lost_ms")
    if not since_ms:
        control.store.jobs.set_facts(job.id, lost_ms=now_ms)
    if now_ms - (since_ms or now_ms) < LOST_MS:
        raise error


def _with_files(job: Job, control: Control, error: PartLost) -> Iterator[tuple[Lost, str]]:
    """The shards whose parts are lost, each with a shard file that holds its items."""
    files, lost = _shard_files(job, control), _lost(job, control, error)
    unknown = []
    for one in lost:
        shard = shard_name(*one[:2])
        covering = (name for name, (start, end) in files if start <= one[0] and one[1] <= end)
        if file := next((name for name in covering if _holds(name, shard, job, control)), None):
            yield one, file
        else:
            unknown.append(one)
    if unknown:
        yield from _cut_again(job, control, unknown, error)


def _lost(job: Job, control: Control, error: PartLost) -> list[Lost]:
    """The shards whose parts are not there, and that of the error, which may be damaged."""
    return [
        (start, end, part)
        for start, end, part in control.store.jobs.parts(job.id)
        if start == error.start or not _exists(job, control, start, part)
    ]


def _exists(job: Job, control: Control, start: int, part: str) -> bool:
    beat()
    objects = control.objects
    if part.startswith("!"):
        return objects.exists(shard_uri(objects, job.id, part[1:]))
    return objects.exists(part_uri(objects, job.id, start, part))


def _shard_files(job: Job, control: Control) -> list[tuple[str, tuple[int, int]]]:
    """The names of the shard files of this round, each with its range."""
    files = []
    try:
        for uri in control.objects.listing(job_uri(control.objects, job.id, "shards") + "/"):
            name = uri.rpartition("/")[2]
            round_, start, end, _ = name.split("-")
            if int(round_) == job.round:
                files.append((name, (int(start), int(end))))
    except ObjectMissing:
        return []
    return files


def _holds(file: str, shard: str, job: Job, control: Control) -> bool:
    """Whether a shard file is there and whole."""
    start, _, end = shard.partition("-")
    try:
        slices = load_slices(control.objects, job.id, file, shard)
    except (ObjectMissing, Damaged):
        return False
    return sum(piece.items for piece in slices) == int(end) - int(start)


def _cut_again(
    job: Job, control: Control, lost: list[Lost], error: PartLost
) -> Iterator[tuple[Lost, str]]:
    """Write shard files anew from the job's input, which is read once."""
    objects = control.objects
    try:
        refuse_changed(job.spec.input, objects)
        for one, pieces in _items_of(job, control, lost):
            file = shard_file(job.round, one[0], one[1], uuid.uuid4().hex[:8])
            objects.write(shard_uri(objects, job.id, file), dump_slices(pieces))
            yield one, file
    except UsageError as why:
        raise UsageError(
            f"{error.message}, and cannot be scored again: {why.message}",
            hint="restore the input or the part, and resume the job",
        ) from why


def _items_of(job: Job, control: Control, lost: list[Lost]) -> Iterator[tuple[Lost, list[Piece]]]:
    """The items of the shards, which are in order, from the beginning of the input on."""
    source = Input(job, control.objects, control.settings)
    reads, at = source.reads(source.make_seekable(), Cursor()), 0
    piece: Piece | None = None
    for one in lost:
        start, end, _ = one
        pieces: list[Piece] = []
        while at < end:
            if piece is None or at + piece.items <= start:
                at += piece.items if piece else 0
                read = next(reads, None)
                if read is None:
                    raise UsageError("its input is shorter than it was")
                piece = read.piece
                continue
            pieces.append(piece.cut(start - at, end - at))
            if at + piece.items > end:
                break
            at += piece.items
            piece = None
        yield one, pieces


def recounted(job: Job, control: Control, outcomes: Iterator[SliceOutcome]) -> Job:
    """A job whose shards were opened again, with the counts of its parts: another time an item may
    end otherwise. `outcomes` are those of this round."""
    counts: Counter[str] = Counter(scored=0, errors=0, rejected=0, cancelled=0, bad_lines=0)
    counts.update({f"{CODE}{code}": 0 for code in job.error_codes})
    for outcome in outcomes:
        beat()
        counts["scored"] += len(outcome.results)
        for failure in outcome.errors:
            if failure.code == "cancelled" and job.cancelled:
                counts["cancelled"] += 1
            elif failure.rejected:
                counts["rejected"] += 1
            else:
                counts.update(("errors", f"{CODE}{failure.code}"))
                counts["bad_lines"] += failure.index is None
    if job.round and f"scored{BASE}" not in job.facts:  # retried by an older version
        return job
    facts = {name: count + job.number(f"{name}{BASE}") for name, count in counts.items()}
    control.store.jobs.set_facts(job.id, **facts)
    return job.with_facts({name: str(count) for name, count in facts.items()})
