"""Feed: cut a job's input into shards, under back-pressure. A step of the coordinator.

A step is leased, short and resumable: it cuts at most a few shards while the window has room, and
the cursor moves with them in one atomic step. The window is per model and shared by its jobs, sized
by the fleet and never below a minimum, so that an autoscaler sees a backlog even at zero workers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from rerankfleet.producer.coordinator.cut import Cut, cut
from rerankfleet.producer.inputs.cursor import Cursor
from rerankfleet.producer.inputs.jsonl import Input, refuse_changed
from rerankfleet.producer.shard_size import CHARACTERS_PER_TOKEN, ShardSize, shard_size
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import Unavailable, UsageError
from rerankfleet.shared.formats.shard_files import dump_slices, shard_file, shard_uri
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.records import Job, OpenShard
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

SHARDS_PER_STEP = 8
"""A step ends after this many shards: steps stay short, so that jobs take turns."""
SHARDS_PER_STEP_CANCELLED = 256
WINDOW_PER_SLOT = 4
"""Shards that wait per slot of the fleet: enough that no worker finds the queue empty."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Control:
    """What the coordinator's steps work with."""

    store: Store
    objects: Objects
    hints: Hints
    settings: Settings


def feed(job_id: str, control: Control) -> None:
    """Cut the next shards of a job, if it is anyone's turn to do so."""
    store, token = control.store, uuid.uuid4().hex
    if store.jobs.begin_step(job_id, token) != "yes":
        return
    job = store.jobs.get(job_id)
    go_on = finish = False
    try:
        if not job.sealed and not job.paused:
            go_on = _cut_some(job, control, token)
            job = store.jobs.get(job_id)
        finish = job.sealed and not job.open_shards
    except Unavailable as error:
        log.warning("feeding is delayed", job=job_id, error=str(error))
        store.jobs.set_facts(job_id, waiting_for=str(error))
        store.jobs.end_step(job_id, token, due_ms=5000)
        return
    except UsageError as error:  # the input is gone, changed or refused: a person must look
        if store.jobs.pause(job, str(error)) == "cancelled":
            finish = _end_early(job_id, control)
    store.jobs.end_step(job_id, token)
    if finish:
        control.hints.finish(job_id)
    elif go_on:
        control.hints.feed(job_id)


def _cut_some(job: Job, control: Control, token: str) -> bool:
    """Open shards while there is room. Returns whether another step is wanted at once."""
    store, settings = control.store, control.settings
    share = _window_share(job, control)
    room = SHARDS_PER_STEP_CANCELLED if job.cancelled else share - job.open_shards
    steps = SHARDS_PER_STEP_CANCELLED if job.cancelled else SHARDS_PER_STEP
    if room <= 0:
        return False
    refuse_changed(job.spec.input, control.objects)
    source = Input(job, control.objects, settings)
    renew = every(settings.lease_s / 4, lambda: store.jobs.begin_step(job.id, token))
    uri = job.facts.get("plain_uri")
    if uri is None:
        uri = source.make_seekable(renew)
        store.jobs.set_facts(job.id, plain_uri=uri, input_tokens=str(source.tokens(uri)))
        job = store.jobs.get(job.id)
    cursor = Cursor.parse(job.facts["cursor"])
    shards = cut(source.reads(uri, cursor, renew), cursor, _shard_size(job, control))
    for count, found in enumerate(shards, 1):
        if store.jobs.begin_step(job.id, token) != "yes":
            return False
        if _open(job, control, cursor, [found], low_water=max(share // 2, 1)) != "opened":
            return False
        cursor = found.cursor
        if count == min(room, steps):
            return count < room
    _open(job, control, cursor, [], low_water=0, sealed=True)
    return False


def _end_early(job_id: str, control: Control) -> bool:
    """Seal a cancelled job whose input cannot be read any more with what was cut of it."""
    job = control.store.jobs.get(job_id)
    cursor = Cursor.parse(job.facts["cursor"])
    log.warning("a cancelled job ends before its input does", job=job_id, line=cursor.line)
    return _open(job, control, cursor, [], low_water=0, sealed=True) == "opened"


def _open(
    job: Job,
    control: Control,
    cursor: Cursor,
    cuts: Sequence[Cut],
    *,
    low_water: int,
    sealed: bool = False,
) -> str:
    """Write shard files, open the shards, hint them: in this order, so that no hint is ahead."""
    after = cuts[-1].cursor if cuts else cursor
    shards = [OpenShard(c.start, c.end, _write(job, control, c)) for c in cuts if c.slices]
    answer = control.store.shards.open(
        job,
        (str(cursor), str(after)),
        shards,
        sealed=sealed,
        lines=after.line - cursor.line,
        low_water=low_water,
    )
    if answer == "opened" and not job.cancelled:
        for shard in shards:
            name = shard_name(shard.start, shard.end)
            control.hints.shard(job.spec.model, job.spec.priority, job.id, name)
    return answer


def _write(job: Job, control: Control, found: Cut) -> str:
    """Write a shard file under a name of this attempt. Returns the name."""
    name = shard_file(job.round, found.start, found.end, uuid.uuid4().hex[:8])
    uri = shard_uri(control.objects, job.id, name)
    control.objects.write(uri, dump_slices(found.slices))
    return name


def _shard_size(job: Job, control: Control) -> ShardSize:
    workers = control.store.fleet.workers(job.spec.model)
    rates = [w.tokens_per_s for w in workers if w.tokens_per_s > 0]
    catalog = job.spec.catalog
    per_query = catalog.queries.size / catalog.count / CHARACTERS_PER_TOKEN if catalog else 0.0
    return shard_size(
        shard_s=control.settings.shard_seconds,
        tokens_per_s=sum(rates) / len(rates) if rates else 0.0,
        pairs_max=control.settings.shard_pairs_max,
        input_tokens=float(job.facts.get("input_tokens", "inf")),
        workers=len(workers),
        images=job.spec.image_spec,
        text_max=job.spec.max_tokens_per_doc,
        per_query=per_query,
    )


def _window_share(job: Job, control: Control) -> int:
    """How many open shards this job may have now."""
    model = job.spec.model
    slots = sum(worker.slots for worker in control.store.fleet.workers(model))
    window = max(control.settings.window_min, WINDOW_PER_SLOT * slots)
    return max(window // max(control.store.jobs.active_count(model), 1), 1)


def every(seconds: float, act: Callable[[], object]) -> Callable[[], None]:
    """Call `act` at most once in so many seconds."""
    last = time.monotonic()

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last > seconds:
            last = time.monotonic()
            act()

    return maybe
