"""The Celery task score_shard: a shard from its claim to its commit.

A hint only says that a shard may be waiting; the claim in Redis decides. A shard that is not
committed is hinted again by the monitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import structlog

from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import (
    DeviceBroken,
    RerankError,
    StorageRefused,
    Unavailable,
    UnreadableJob,
    UsageError,
)
from rerankfleet.shared.formats.shard_files import count_requests, load_slices
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.metrics import QUEUE_WAIT, RETRIES
from rerankfleet.shared.outages import as_outage
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.records import Job, Lease
from rerankfleet.workers import results
from rerankfleet.workers.leases import HeldShard
from rerankfleet.workers.pipeline import Stopped, poisoned, refused, summarize
from rerankfleet.workers.prepare import provenance_of
from rerankfleet.workers.runtime import Runtime

BACKOFF_S = 5.0

log = structlog.get_logger()


def score_shard(runtime: Runtime, job_id: str, shard: str) -> None:
    """Claim, load, score, write, commit.

    On any error the shard is released or its job is paused, and nothing is raised after the
    claim; only a process that dies lets its leases expire, which makes its shards suspects.
    After an error of the storage this thread, which is one of the worker's slots, rests.
    """
    with runtime.leases.claim(job_id, shard) as held:
        if held is None:
            return
        _carry_out_or_release(runtime, held)
    runtime.storage.rest()


def _carry_out_or_release(runtime: Runtime, held: HeldShard) -> None:
    """Carry out a claimed shard; whatever goes wrong, it is committed, released or paused."""
    job_id, shard = held.lease.job_id, held.lease.shard
    try:
        _carry_out(runtime, held)
    except REDIS_ERRORS as error:
        log.warning("Redis is unreachable", job=job_id, shard=shard, error=str(error))
        runtime.recorder.add(RETRIES, "redis")
        held.stop.wait(BACKOFF_S)
        _try_release(runtime, held)
    except Exception as error:
        log.exception("internal error, the job is paused", job=job_id, shard=shard)
        what = f"{type(error).__name__}: {error}"
        with suppress(Exception):
            runtime.store.jobs.pause(
                runtime.store.jobs.get(job_id),
                f"shard {shard} failed: {what}. This is a bug; resume tries again",
            )
        _try_release(runtime, held)


def _carry_out(runtime: Runtime, held: HeldShard) -> None:
    """Load, score, write and commit a claimed shard; handles all errors that can be expected."""
    lease = held.lease
    job_id, shard = lease.job_id, lease.shard
    try:
        job = runtime.job(job_id)
        runtime.recorder.observe(QUEUE_WAIT, job.spec.priority.value, value=lease.waited_s)
        with runtime.recorder.timed("load"):
            slices = _load(runtime, lease)
        outcomes, tokens = _score(runtime, held, job, slices)
        summary = summarize(outcomes, job.spec, tokens=tokens, requests=count_requests(slices))
        with runtime.recorder.timed("store"):
            committed = _store(runtime, held, job, outcomes, summary)
        runtime.storage.works()
        if committed:
            runtime.recorder.pairs(slices, outcomes)
        else:
            log.info("another commit was first", job=job_id, shard=shard)
    except Stopped:
        _release_stopped(runtime, held)
    except DeviceBroken as error:
        runtime.give_up(str(error))
    except (Unavailable, StorageRefused) as error:
        _wait_for_storage(runtime, held, error)
    except UnreadableJob as error:  # a worker of its version will take it
        log.warning("the shard is left to a newer worker", job=job_id, shard=shard, why=str(error))
        held.stop.wait(BACKOFF_S)
        runtime.store.shards.release(lease)
    except UsageError as error:  # a person must act
        _pause(runtime, lease, error)
    except RerankError as error:
        log.error("the shard is released", job=job_id, shard=shard, error=str(error))
        _release_stopped(runtime, held)
    except Exception as error:
        outage = as_outage(error)
        if outage is None or isinstance(error, REDIS_ERRORS):
            raise
        log.warning("a library failed", job=job_id, shard=shard, exc_info=True)
        _wait_for_storage(runtime, held, outage)


def _load(runtime: Runtime, lease: Lease) -> list[Slice]:
    slices = load_slices(runtime.objects, lease.job_id, lease.file, lease.shard)
    first, last = shard_range(lease.shard)
    if sum(piece.items for piece in slices) != last - first:
        raise UsageError(f"shard {lease.shard} of job {lease.job_id} does not match its file")
    return slices


def _score(
    runtime: Runtime, held: HeldShard, job: Job, slices: Sequence[Slice]
) -> tuple[list[SliceOutcome], int]:
    if held.lease.poison:
        return [poisoned(piece) for piece in slices], 0
    try:
        return runtime.scorer.score(slices, job.spec, held.stop, job.id)
    except UsageError as error:
        if job.spec.priority is not Priority.interactive:
            raise
        return [refused(piece, error) for piece in slices], 0  # a client waits for the answer


def _store(
    runtime: Runtime,
    held: HeldShard,
    job: Job,
    outcomes: Sequence[SliceOutcome],
    summary: ShardSummary,
) -> bool:
    """Write the part, then commit it. False when another commit was first."""
    lease = held.lease
    part = results.write(
        outcomes,
        provenance_of(runtime.provenance, job.spec, supports_images=runtime.supports_images),
        lease,
        runtime.objects,
        runtime.store,
        inline_ttl_s=job.number("inline") / 1000,
    )
    return results.commit(lease, part, summary, runtime.store, runtime.hints, held.stop)


def _pause(runtime: Runtime, lease: Lease, error: RerankError, *, resumes_s: float = 0) -> None:
    """Pause the job with the reason, unless it was resumed since: then the lease is lost."""
    job_id, shard, jobs = lease.job_id, lease.shard, runtime.store.jobs
    reason = f"shard {shard} cannot be done: {error}"
    with suppress(UsageError):
        answer = jobs.pause(jobs.get(job_id), reason, lease=lease, resumes_s=resumes_s)
        if answer == "lost":
            log.info(
                "failed before the job was resumed, ignored",
                job=job_id,
                shard=shard,
                error=str(error),
            )
        else:
            log.error("the job is paused", job=job_id, shard=shard, error=str(error))


def _release_stopped(runtime: Runtime, held: HeldShard) -> None:
    """Release a shard that was stopped; when this worker drains, hint it to the others."""
    if runtime.store.shards.release(held.lease) and runtime.draining:
        _hint(runtime, held.lease)


def _hint(runtime: Runtime, lease: Lease) -> None:
    """Hint a shard to whoever is free."""
    priority = runtime.job(lease.job_id).spec.priority
    runtime.hints.shard(lease.model, priority, lease.job_id, lease.shard, first=True)


def _wait_for_storage(runtime: Runtime, held: HeldShard, error: RerankError) -> None:
    """Release the shard to the others, uncounted, and say in the job what it waits for. What the
    storage refuses may be there again in a moment: only when that took too long is it paused."""
    lease, settings = held.lease, runtime.settings
    log.warning("the storage fails", job=lease.job_id, shard=lease.shard, error=str(error))
    runtime.recorder.add(RETRIES, "storage")
    patience_s = None if isinstance(error, Unavailable) else settings.storage_wait_s
    waits = runtime.store.jobs.wait(
        lease.job_id,
        str(error),
        patience_s=patience_s,
        worker=runtime.id,
        of=_able_workers(runtime),
    )
    runtime.storage.failed(str(error))
    if waits.over:
        _pause(runtime, lease, error, resumes_s=settings.storage_wait_s)
    elif runtime.store.shards.release(lease):
        _hint(runtime, lease)


def _able_workers(runtime: Runtime) -> int:
    """How many workers could score what this one does, itself included."""
    rows = runtime.store.fleet.workers(runtime.model)
    others = (row for row in rows if row.id != runtime.id and row.state == "ready")
    return 1 + sum(row.fingerprint == runtime.fingerprint for row in others)


def _try_release(runtime: Runtime, held: HeldShard) -> None:
    """Release a shard if possible; otherwise its lease expires."""
    with suppress(Exception):
        runtime.store.shards.release(held.lease)
