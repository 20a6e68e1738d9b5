"""Feed: cut a job's input into shards, under back-pressure. A step of the coordinator.

A step is leased, short and resumable: it cuts at most a few shards while the window has room, and
the cursor moves with them in one atomic operation. The window is per model and shared by its jobs.
It grows with the fleet and has a minimum, so that an autoscaler sees a backlog at zero workers too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Literal

import structlog

from rerankfleet.producer.coordinator.cut import Cut, cut
from rerankfleet.producer.coordinator.step import Control, Step, StepOver
from rerankfleet.producer.inputs.cursor import Cursor
from rerankfleet.producer.inputs.jsonl import Input, refuse_changed
from rerankfleet.producer.shard_size import CHARACTERS_PER_TOKEN, ShardSize, shard_size
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import (
    InputChanged,
    NotAllowed,
    StorageRefused,
    StorageUnavailable,
    Unavailable,
    UsageError,
)
from rerankfleet.shared.formats.shard_files import dump_slices, shard_file, shard_uri
from rerankfleet.shared.heartbeat import heartbeat
from rerankfleet.shared.outages import as_outage
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.records import Job, OpenShard

SHARDS_PER_STEP = 8
"""A step ends after this many shards: steps stay short, so that jobs take turns."""
SHARDS_PER_STEP_CANCELLED = 256
STEP_S = 20.0
"""Or after so long."""
REPORTED = "reported"
"""The fact `unreadable` of a job that was paused since its input cannot be read."""
WINDOW_PER_SLOT = 4
"""Shards that wait per slot of the fleet: enough that no worker finds the queue empty."""

Next = Literal["feed", "finish"] | None
"""The step to hint when this one has ended."""

log = structlog.get_logger()


def feed(job_id: str, control: Control) -> None:
    """Cut the next shards of a job, unless another step of it is running."""
    step = Step.begin(job_id, control)
    if step is None:
        return
    feeding = Feeding(control.store.jobs.get(job_id), control, step)
    try:
        with heartbeat(step.beat):
            following = feeding.run()
    except StepOver as over:  # a cancelled job is cut on, to record what it leaves
        following = "feed" if over.why == "cancelled" else None
    except Exception as error:
        if step.is_lost():  # what failed here no longer matters
            log.info("a step was overtaken", job=job_id, error=str(error))
            return
        outage = as_outage(error)
        if isinstance(outage, Unavailable):
            step.wait(outage)
            return
        if not isinstance(outage, UsageError):
            raise
        following = feeding.refused(outage)
    step.end()
    if following == "finish":
        control.hints.finish(job_id)
    elif following == "feed":
        control.hints.feed(job_id)


class Feeding:
    """One feed step of a job: what was read of it once, and the cursor as it moves."""

    def __init__(self, job: Job, control: Control, step: Step) -> None:
        self.job = job
        self._control = control
        self._step = step
        self._cursor = Cursor.parse(job.facts["cursor"])

    def run(self) -> Next:
        """Open shards while there is room. Returns the step that is due next."""
        job, store = self.job, self._control.store
        if job.sealed:
            return None if job.open_shards else "finish"
        if job.paused:
            return None
        self._step.until_cancelled = not job.cancelled
        workers = store.fleet.workers(job.spec.model)
        share = self._window_share(workers)
        room = SHARDS_PER_STEP_CANCELLED if job.cancelled else share - job.open_shards
        if room <= 0:
            return None
        at_once = min(room, SHARDS_PER_STEP_CANCELLED if job.cancelled else SHARDS_PER_STEP)
        opened, until_s = 0, time.monotonic() + STEP_S
        for shard in self._cuts(workers):
            if not shard.slices and shard.cursor == self._cursor:
                continue  # the end
            self._step.hold()
            if self._open([shard], low_water=max(share // 2, 1))[0] != "opened":
                return None
            opened += bool(shard.slices)
            if opened == at_once or time.monotonic() >= until_s:
                return "feed" if opened < room or job.cancelled else None
        return self._seal()

    def refused(self, error: UsageError) -> Next:
        """Act on an input that cannot be read. Returns the step that is due next.

        What the storage does not give out may be back in a moment: the job waits, then it is
        paused, since a person must look. Of all else one must look at once; only a cancelled job,
        at which nobody may look, waits first for whatever may return. It ends without the rest of
        its input only when the bytes themselves are refused, or when somebody cancels it although
        it was paused since they are not there.
        """
        jobs = self._control.store.jobs
        job, reason = jobs.get(self.job.id), str(error)
        may_return = isinstance(error, StorageRefused)
        if job.cancelled:
            may_return |= isinstance(error, NotAllowed | InputChanged)
            if job.facts.get("unreadable") == REPORTED or not may_return:
                return self._end_early()
            reason += ". Resume the job when that is mended, or cancel it again to end it now"
        if may_return and self._step.wait(error):
            return None
        resumes_s = self._step.resumes_s(error)
        answer = jobs.pause(job, reason, even_cancelled=job.cancelled, resumes_s=resumes_s)
        if answer == "paused":
            jobs.set_facts(job.id, unreadable=REPORTED)
        return "feed" if answer == "cancelled" else None

    def _end_early(self) -> Next:
        """Seal a cancelled job whose input can no longer be read with what was cut of it."""
        log.warning(
            "a cancelled job ends before its input does", job=self.job.id, line=self._cursor.line
        )
        return self._seal(short=True)

    def _cuts(self, workers: Sequence[WorkerRow]) -> Iterator[Cut]:
        """The shards that the input has from the cursor on."""
        control = self._control
        refuse_changed(self.job.spec.input, control.inputs_of(self.job))
        source = Input(self.job, control.objects, control.settings)
        reads = source.reads(self._plain_uri(source), self._cursor)
        return cut(reads, self._cursor, self._shard_size(workers))

    def _plain_uri(self, source: Input) -> str:
        """Where the plain lines of the input are; its first step makes them and measures them."""
        if (uri := self.job.facts.get("plain_uri")) is not None:
            return uri
        uri = source.make_seekable()
        facts = {"plain_uri": uri, "input_tokens": str(source.tokens(uri))}
        store, objects = self._control.store, self._control.objects
        store.jobs.set_facts(self.job.id, **facts)
        if uri != self.job.spec.input.uri:
            store.ledger.set(self.job.id, "lines_bytes", objects.stat(uri).size)
        self.job = self.job.with_facts(facts)
        return uri

    def _seal(self, *, short: bool = False) -> Next:
        """End the cutting of the job, `short` of its input. Returns the step that is due next."""
        answer, open_shards = self._open([], low_water=0, sealed=True, short=short)
        return "finish" if answer == "opened" and not open_shards else None

    def _open(
        self, cuts: Sequence[Cut], *, low_water: int, sealed: bool = False, short: bool = False
    ) -> tuple[str, int]:
        """Write shard files, open the shards, hint them: in this order, so that no hint is early.
        Returns the answer of `open.lua` and how many shards of the job are open."""
        job, control = self.job, self._control
        after = cuts[-1].cursor if cuts else self._cursor
        shards = [OpenShard(c.start, c.end, self._write(c)) for c in cuts if c.slices]
        answer, open_shards = control.store.shards.open(
            job,
            (str(self._cursor), str(after)),
            shards,
            sealed=sealed,
            short=short,
            lines=after.requests - self._cursor.requests,
            low_water=low_water,
        )
        if answer == "opened":
            self._cursor = after
            if not job.cancelled:
                for shard in shards:
                    name = shard_name(shard.start, shard.end)
                    control.hints.shard(job.spec.model, job.spec.priority, job.id, name)
        return answer, open_shards

    def _write(self, shard: Cut) -> str:
        """Write a shard file under a name of this attempt. Returns the name."""
        objects, job = self._control.objects, self.job
        name = shard_file(job.round, shard.start, shard.end, uuid.uuid4().hex[:8])
        data = dump_slices(shard.slices)
        self._control.store.ledger.add(job.id, "work_bytes", len(data))
        try:
            objects.write(shard_uri(objects, job.id, name), data)
        except UsageError as error:
            if job.cancelled:  # it is not the input that is refused: nothing ends early
                raise StorageUnavailable(str(error)) from error
            raise
        return name

    def _shard_size(self, workers: Sequence[WorkerRow]) -> ShardSize:
        spec, settings = self.job.spec, self._control.settings
        rates = [w.tokens_per_s for w in workers if w.tokens_per_s > 0]
        catalog = spec.catalog
        per_query = catalog.queries.size / catalog.count / CHARACTERS_PER_TOKEN if catalog else 0.0
        return shard_size(
            shard_s=settings.shard_seconds,
            tokens_per_s=sum(rates) / len(rates) if rates else 0.0,
            pairs_max=settings.shard_pairs_max,
            input_tokens=float(self.job.facts.get("input_tokens", "inf")),
            workers=len(workers),
            images=spec.image_spec,
            text_max=spec.max_tokens_per_doc,
            per_query=per_query,
        )

    def _window_share(self, workers: Sequence[WorkerRow]) -> int:
        """How many open shards this job may have now."""
        slots = sum(worker.slots for worker in workers)
        window = max(self._control.settings.window_min, WINDOW_PER_SLOT * slots)
        jobs = self._control.store.jobs.active_count(self.job.spec.model)
        return max(window // max(jobs, 1), 1)
