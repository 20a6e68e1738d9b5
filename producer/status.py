"""What the recorded facts of a job mean: its state, its rate, and what limits it."""

from __future__ import annotations

from collections.abc import Sequence

from rerankfleet.shared.errors import ITEM_CODES
from rerankfleet.shared.job_status import JobState, JobStatus
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot, ModelQueue
from rerankfleet.shared.state.records import Job

STALE_S = 20.0
"""A rate is shown as 0 when nothing was committed for this long."""


def describe(job: Job, fleet: FleetSnapshot) -> JobStatus:
    """A job's status. It is derived from facts each time: a recorded status could be out of date.

    `fleet` holds the queue of the job's model.
    """
    now_s = fleet.at_ms / 1000
    state = state_of(job)
    rate = _rate(job, now_s)
    progress = job.progress
    left = progress.total - progress.done if progress.total is not None else None
    leased = fleet.queue(job.spec.model).leased_shards if state == "running" else 0
    reason, held_back = _reason(job, state, fleet)
    finished = job.facts.get("finished_ms")
    return JobStatus(
        id=job.id,
        state=state,
        reason=reason,
        held_back=held_back,
        nothing_scored=_nothing_scored(job, state),
        model=job.spec.model,
        priority=job.spec.priority,
        progress=progress,
        open_shards=job.open_shards,
        leased_shards=min(leased, job.open_shards),
        created_s=job.number("created_ms") / 1000,
        finished_s=int(finished) / 1000 if finished else None,
        pairs_per_s=rate,
        eta_s=left / rate if left is not None and rate > 0 and state == "running" else None,
        name=job.spec.name,
        owner=job.spec.owner,
        round=job.round,
        output=job.facts.get("output") or job.spec.output,
        passed_over=job.spec.input.passed_over,
        scores=job.scores,
    )


def state_of(job: Job) -> JobState:
    """Its state, from its own facts alone."""
    if job.finished:
        return "cancelled" if job.cancelled else "done"
    if job.paused:
        return "paused"
    return "finishing" if job.sealed and not job.open_shards else "running"


def _rate(job: Job, now_s: float) -> float:
    """Pairs per second: of the whole job once it is finished, before that of the last few seconds;
    0 while it is paused."""
    done = job.progress.done
    if job.finished:
        seconds = (job.number("finished_ms") - job.number("began_ms")) / 1000
        return max(job.number("scored") - job.number("base"), 0) / max(seconds, 1e-3)
    if job.paused:
        return 0.0
    since_s, before = job.number("t0") / 1000, job.number("d0")
    last_s = job.number("last_commit_ms") / 1000
    if done == before or now_s - last_s > STALE_S:
        return 0.0
    return (done - before) / max(now_s - since_s, 1e-3)


def _reason(job: Job, state: JobState, fleet: FleetSnapshot) -> tuple[str, bool]:
    """What limits a job in words, and whether nothing of it moves until that is gone; of a job that
    is over, why nothing could be scored."""
    if state in ("done", "cancelled"):
        return (_why_nothing(job) if _nothing_scored(job, state) else ""), False
    if state == "paused":
        return _why_paused(job, fleet.at_ms), True
    if "waiting_for" in job.facts:
        return _wait(job, fleet.at_ms), not fleet.queue(job.spec.model).leased_shards
    if not job.open_shards and not fleet.coordinator_lives:
        work = "writes the output" if state == "finishing" else "reads the input"
        return f"no coordinator runs, which {work}: one must be started", True
    if state == "finishing":
        return "finishing: the output is being written", False
    if job.cancelled:
        return "cancelling: the rest of the input is recorded as cancelled", False
    if unserved := _unserved(job, fleet.workers_of(job.spec.model)):
        return unserved, True
    if not job.open_shards:
        return "feeding: the input is being read", False
    if waits := _queue(job, fleet.queue(job.spec.model)):
        return waits, True
    return _device_or_preparing(_able(job, fleet.workers_of(job.spec.model))), False


def _why_paused(job: Job, now_ms: int) -> str:
    """Why a job is paused, and when it looks again where it does so by itself."""
    resumes_ms = job.number("resumes_at")
    again = f" (looks again by itself in {_span(resumes_ms - now_ms)})" if resumes_ms else ""
    return f"{job.paused}{again}"


def _wait(job: Job, now_ms: int) -> str:
    """What a job waits for, since when, and what comes of it. In spans of time: the clocks of the
    fleet and of who reads this may differ, and their zones too."""
    text = f"waiting for the storage: {job.facts['waiting_for']}"
    if not (since_ms := job.number("waiting_since")):
        return text
    spans = [f"for {_span(now_ms - since_ms)}"]
    spans.append(f"tries again in {_span(job.number('waiting_again') - now_ms)}")
    if until_ms := job.number("waiting_until"):
        spans.append(f"pauses in {_span(until_ms - now_ms)}")
    return f"{text} ({', '.join(spans)})"


def _span(ms: float) -> str:
    """A time in words: 42 s, 3 min."""
    seconds = max(round(ms / 1000), 0)
    return f"{seconds} s" if seconds < 120 else f"{round(seconds / 60)} min"


def _unserved(job: Job, workers: Sequence[WorkerRow]) -> str:
    """Why no worker of its model can score it now, or ""."""
    able = _able(job, workers)
    if not workers:
        return f"no worker serves {job.spec.model}: a worker must be started for it"
    if not able:
        return (
            "the job was begun with other weights or another number type "
            f"({job.facts['fingerprint']}) than any worker serves now"
        )
    return "workers are loading the model" if all(w.state == "loading" for w in able) else ""


def _queue(job: Job, queue: ModelQueue) -> str:
    """Why no worker has taken its shards, or "". The first claim of a job sets its fingerprint."""
    ahead = queue.open_shards - job.open_shards
    if ahead > 0 and "fingerprint" not in job.facts:
        return f"queue: its shards wait beside {ahead:,} of other jobs"
    return "" if queue.leased_shards else "queue: its shards wait for a worker"


def _nothing_scored(job: Job, state: JobState) -> bool:
    progress = job.progress
    return state == "done" and not progress.scored and progress.done > 0


def _why_nothing(job: Job) -> str:
    """The commonest reason why a job's items have no score."""
    progress = job.progress
    counts = job.error_codes | ({"low_quality": progress.rejected} if progress.rejected else {})
    if not counts:
        return f"nothing could be scored: `rerank results {job.id}` shows why"
    code = max(counts, key=lambda code: counts[code])
    means = f" ({ITEM_CODES[code]})" if code in ITEM_CODES else ""
    return (
        f"nothing could be scored, most often because of {code}{means}: {counts[code]:,} of "
        f"{progress.done:,}; `rerank results {job.id}` shows each"
    )


def is_unservable(job: Job, workers: Sequence[WorkerRow]) -> bool:
    """Whether its model is served, but no longer with the weights that it was begun with."""
    of_model = [worker for worker in workers if worker.model == job.spec.model]
    return bool(of_model) and not _able(job, of_model)


def _able(job: Job, workers: Sequence[WorkerRow]) -> list[WorkerRow]:
    """Those of its model's workers that can score it; one that is still loading may be able to."""
    pinned = job.facts.get("fingerprint")
    return [w for w in workers if not pinned or w.fingerprint in ("", pinned)]


def _device_or_preparing(workers: list[WorkerRow]) -> str:
    busy = sum(w.busy_share for w in workers) / len(workers)
    preparing = sum(w.preparing_share for w in workers) / len(workers)
    if preparing > busy:
        return f"preparing: devices wait for input {preparing:.0%} of the time"
    return f"device: {len(workers)} worker{'s' * (len(workers) > 1)}, {busy:.0%} busy"
