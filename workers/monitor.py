"""The monitor: resends hints that were lost, decides on the batch limits of workers, cleans up.

It alone guarantees progress: it compares the shards and jobs in Redis with the hints in the queues,
and sends the missing ones. In an undisturbed run it sends nothing. Ticks are a Celery task on the
coordinator, fired by a timer under a leader lease; any number of coordinators may run.
Started by the coordinator:  python -m rerankfleet.workers.monitor
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable

import structlog

from rerankfleet.shared.cli import configure_logs
from rerankfleet.shared.errors import RerankError, UnknownJob, UnreadableJob, WrongState
from rerankfleet.shared.formats.shard_files import job_uri
from rerankfleet.shared.heartbeat import heartbeat
from rerankfleet.shared.ids import is_id
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import (
    MONITOR_QUEUE,
    TICK,
    Hints,
    broker_keys,
    hint_id,
    make_app,
    model_queues,
    serve,
)
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.uploads import remove_upload, sweep_uploads
from rerankfleet.workers.batch_limits.decide import set_limits

REPUBLISHED = "republished"
REFUSED_MS = 600_000
"""For so long after a worker with other weights refused a job's shard, its hints do not count as
lost."""
SWEEP_RENEWED_S = 60.0
"""How often a removal that takes long asks whether it may go on."""
CORRECTED_S = 600.0
"""How often it looks for what is rarely left: in the ledger, in S3, in the broker."""
SWEEP_AGAIN_MS = 60_000
"""When the removal of files that failed is tried again."""
HINTS_AT_ONCE = 64
"""Most hints of one model that one tick sends."""
SHARDS_LOOKED_AT = 1024

log = structlog.get_logger()


class Monitor:
    """Checks shards and jobs once per tick."""

    def __init__(self, store: Store, objects: Objects, hints: Hints, settings: Settings) -> None:
        self._store = store
        self._objects = objects
        self._hints = hints
        self._settings = settings
        self._missing_since: dict[str, float] = {}
        self._corrected_s = -math.inf

    def tick(self) -> None:
        """Check the clock, the shards and the jobs."""
        if self._store.coordination.pulse():
            log.info("the coordinator was down: expired leases make no suspects")
            self._missing_since.clear()
        missing: dict[str, float] = {}
        for model in self._store.jobs.models():
            missing |= self._rehint_shards(model)
        self._missing_since = missing
        for job_id in self._store.jobs.due():
            try:
                self._check_job(job_id)
            except (RerankError, ValueError) as error:  # one bad job must not starve the others
                log.error("a job cannot be read", job=job_id, error=str(error))
                self._store.jobs.look_again(job_id)

    def _rehint_shards(self, model: str) -> dict[str, float]:
        """Resend the hints of shards that no worker holds and no message names, once they have been
        missing for a while: a message may have been taken just now. What a dead worker left is sent
        at once. Returns since when each is missing."""
        due = self._store.shards.due(model, SHARDS_LOOKED_AT)
        if not due:
            return {}
        waiting = self._store.broker.hint_ids(broker_keys(self._settings, model_queues(model)))
        due = [one for one in due if hint_id(*one) not in waiting]
        new = [one for one in due if hint_id(*one) not in self._missing_since]
        left = self._store.shards.abandoned(new)
        now = time.monotonic()
        missing, sent = {}, 0
        for job_id, shard in due:
            name = hint_id(job_id, shard)
            missing[name] = self._missing_since.get(name, now)
            is_lost = now - missing[name] >= self._settings.hint_grace_s
            if sent < HINTS_AT_ONCE and (is_lost or (job_id, shard) in left):
                self._rehint(model, job_id, shard)
                sent += 1
                missing[name] = now
        return missing

    def _rehint(self, model: str, job_id: str, shard: str) -> None:
        try:
            job = self._store.jobs.get(job_id)
            priority, refused_ms = job.spec.priority, job.number("newer_ms")
        except UnknownJob:
            priority, refused_ms = Priority.bulk, 0  # the claim says `done`, which removes it
        log.info("hint sent again", job=job_id, shard=shard)
        if self._store.now_ms() - refused_ms > REFUSED_MS:
            self._store.coordination.count_event(REPUBLISHED)
        self._hints.shard(model, priority, job_id, shard, first=True)

    def _check_job(self, job_id: str) -> None:
        """Hint the next step of a job that nothing touched for a while, computed from its facts."""
        try:
            job = self._store.jobs.get(job_id)
        except UnreadableJob:  # a newer coordinator will handle it
            self._store.jobs.look_again(job_id)
            return
        except UnknownJob:
            self._store.jobs.begin_step(job_id, uuid.uuid4().hex)  # removes it from the list
            return
        if "inline" in job.facts:
            self._store.jobs.cancel(job)  # past its deadline: no client waits for it
        elif "resumes_at" in job.facts:
            self._resume(job)
        elif step := next_step(job):
            log.info("step hinted again", job=job_id, step=step)
            self._store.coordination.count_event(REPUBLISHED)
            self._hints.finish(job_id) if step == "finish" else self._hints.feed(job_id)
        self._store.jobs.look_again(job_id)

    def _resume(self, job: Job) -> None:
        """Let a job that was paused for its storage look again, when that is due."""
        answer, shards = self._store.jobs.resume(job, by_itself=True)
        if answer != "resumed":
            return
        log.info("a paused job looks again by itself", job=job.id, was=job.paused)
        for shard in shards:
            self._hints.shard(job.spec.model, job.spec.priority, job.id, shard)
        if not shards or not job.sealed:  # finish, when nothing is left to cut
            self._hints.feed(job.id)

    def sweep(self) -> None:
        """Delete the shard and part files of jobs that ended a while ago, later all their files;
        and expired uploads.

        Apart from the tick: deleting the files of a large job may take minutes.
        """
        for job_id in self._store.jobs.sweepable():
            remaining_ms = self._store.jobs.begin_sweep(job_id)
            if remaining_ms < 0:
                continue
            again_ms = remaining_ms and remaining_ms + 60_000
            try:
                self._remove(job_id, all_files=not remaining_ms)
            except (RerankError, OSError) as error:  # one must not starve the others
                log.warning("files of a job are not removed yet", job=job_id, error=str(error))
                again_ms = SWEEP_AGAIN_MS
            self._store.jobs.end_sweep(job_id, again_ms=again_ms)
        thorough = time.monotonic() - self._corrected_s >= CORRECTED_S
        self._sweep_uploads(thorough=thorough)
        if thorough:
            self._store.ledger.correct()
            self._forget_hints()
            self._corrected_s = time.monotonic()

    def _forget_hints(self) -> None:
        """Remove hints of models that nobody serves and that have no shard: nobody reads them. One
        of a shard that is opened meanwhile is sent again."""
        fleet = self._store.snapshot()
        for queue in fleet.queues:
            if not queue.open_shards and not fleet.workers_of(queue.model):
                names = broker_keys(self._settings, model_queues(queue.model))
                self._store.broker.forget(names)

    def _sweep_uploads(self, *, thorough: bool) -> None:
        """Remove uploads whose writer died, and those that expired."""
        ledger = self._store.ledger
        for upload_id in ledger.lapsed_uploads():
            if not is_id(upload_id) or remove_upload(self._objects, upload_id):
                ledger.drop("uploads", upload_id)
        _, left_s = sweep_uploads(self._objects, unfinished=thorough)
        ledger.drop_expired_uploads(left_s)

    def _remove(self, job_id: str, *, all_files: bool) -> None:
        """Remove files of a job while it cannot be retried. Raises WrongState when it was."""
        asked_s = time.monotonic()

        def keep() -> None:
            nonlocal asked_s
            if time.monotonic() - asked_s < SWEEP_RENEWED_S:
                return
            asked_s = time.monotonic()
            if self._store.jobs.begin_sweep(job_id) < 0:
                raise WrongState("the job was retried", hint="its files stay")

        with heartbeat(keep):
            for names in [()] if all_files else [("shards",), ("parts",)]:
                keep()
                self._objects.delete_tree(job_uri(self._objects, job_id, *names))
        if not all_files:
            self._store.ledger.set(job_id, "work_bytes", 0)


def next_step(job: Job) -> str | None:
    """The step that a job needs from the coordinator now: feed, finish or none."""
    if job.finished or job.paused:
        return None
    if job.sealed:
        return None if job.open_shards else "finish"
    return "feed" if job.cancelled or job.open_shards <= job.number("low_water") else None


def main() -> int:
    """Entry point of the coordinator's monitor process."""
    settings = load_settings()
    configure_logs(settings.log_level)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    app = make_app(settings)
    store = Store(connect(settings), settings)
    hints = Hints(app)
    monitor = Monitor(store, Objects(settings), hints, settings)

    @app.task(name=TICK)  # type: ignore[untyped-decorator]
    def _tick() -> None:
        for step in (monitor.tick, lambda: set_limits(store.fleet)):
            try:
                step()
            except RerankError as error:
                log.warning("tick", error=str(error))

    token = uuid.uuid4().hex

    def every_tick(act: Callable[[], None]) -> None:
        while True:
            time.sleep(settings.tick_s)
            try:
                if store.coordination.lead("monitor", token, ttl_s=3 * settings.tick_s):
                    act()
            except Exception as error:
                log.warning("Redis or the storage is unreachable", error=str(error))

    for act in (lambda: hints.tick(expires_s=settings.tick_s), monitor.sweep):
        threading.Thread(target=every_tick, args=(act,), daemon=True).start()
    name = f"monitor-{os.getpid()}@{socket.gethostname()}"
    return serve(app, name=name, queues=[MONITOR_QUEUE], concurrency=1)


if __name__ == "__main__":
    sys.exit(main())
