"""Jobs in Redis: created, paused, resumed, cancelled, retried, finished, and when to look again.

The head of each script says which keys it uses and what it answers. Each gives the same answer when
it is repeated, so that a lost reply does no harm.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import redis
import structlog

from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import KeyConflict, UnknownJob, UnreadableJob, UsageError, WrongState
from rerankfleet.shared.ids import is_id
from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.state.connection import Connection, now_ms
from rerankfleet.shared.state.inline import Inline
from rerankfleet.shared.state.records import LOOK_AGAIN_MS, Job, Lease, OpenShard, damaged

SWEEP_MS = 600_000
"""How long the removal of a job's files may take at most."""

TRY_AGAIN_MIN_MS, TRY_AGAIN_MAX_MS = 5_000, 30_000
"""How soon a storage that cannot be used is tried again: as long as it has been away, in these
bounds."""
WITNESSES = 3
"""So many different workers must meet a storage that refuses before it pauses a job: credentials
that ran out in one worker are no reason to stop the others."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StorageWait:
    """How a wait for the storage goes on."""

    over: bool
    """Whether it took as long as it may: a person must look."""
    delay_ms: int
    """Until the next try."""


def _refuse(answer: str, job_id: str, spec: JobSpec) -> None:
    """Raise what a job was not made for."""
    if answer == "conflict":
        raise KeyConflict(
            f"the key {spec.key!r} belongs to job {job_id}, made from another input or options",
            hint="choose another key, or submit the same input and options",
        )
    if answer == "lapsed":
        raise WrongState(
            "the submission gave no sign of life for too long, and its files may be gone",
            hint="submit it again",
        )


class Jobs:
    """The life of jobs, one atomic operation per method."""

    def __init__(self, connection: Connection, inline: Inline) -> None:
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts
        self._settings = connection.settings
        self._inline = inline
        self._unreadable: set[str] = set()

    def create(
        self,
        job_id: str,
        spec: JobSpec,
        digest: str,
        *,
        deadline_ms: int = 0,
        inline_ttl_ms: int = 0,
        shards: Sequence[OpenShard] = (),
        stored_bytes: int | None = None,
    ) -> str:
        """Create a job; an inline one is sealed from the start, with open shards and a deadline.
        `stored_bytes`: of the files that it has already, for which bytes were reserved.

        Returns its id, or that of the job which already has this key, input and options.
        Raises KeyConflict when the key belongs to another input or other options, and WrongState
        when the reservation lapsed.
        """
        keys = self._keys
        inline: list[str | int] = [shards[-1].end] if shards else []
        for shard in shards:
            inline += [shard_name(shard.start, shard.end), shard.file]
        answer, id_ = self._scripts.run(
            "create",
            [
                keys.job(job_id),
                keys.jobs,
                keys.recent,
                keys.models,
                keys.open(spec.model),
                keys.job_open(job_id),
                keys.sweep,
                keys.recent_of(spec.owner),
                keys.stored("jobs"),
                *([keys.job_key(spec.key, spec.owner)] if spec.key else []),
            ],
            [
                job_id,
                spec.model_dump_json(exclude_defaults=True),  # an older version rejects new fields
                digest,
                spec.model,
                deadline_ms or LOOK_AGAIN_MS,
                spec.owner,
                inline_ttl_ms,
                "" if stored_bytes is None else stored_bytes,
                *inline,
            ],
        )
        if answer != "made":
            self._inline.drop([shard.file for shard in shards])
        _refuse(answer, id_, spec)
        return cast(str, id_)

    def with_key(self, key: str, owner: str = "") -> Job | None:
        """The job of an owner that has this key."""
        record = cast("str | None", self._redis.get(self._keys.job_key(key, owner)))
        try:
            return self.get(record.rpartition(" ")[2]) if record else None
        except UnknownJob:
            return None

    def wait_persisted(self) -> None:
        """Wait until what was written is in the append-only file, where the server has one."""
        with suppress(redis.ResponseError):
            self._redis.execute_command("WAITAOF", 1, 0, 2000)  # type: ignore[no-untyped-call]

    def get(self, job_id: str) -> Job:
        """Read a job. Raises UnknownJob, or its subclass UnreadableJob."""
        if jobs := self.get_many([job_id]):
            return jobs[0]
        if is_id(job_id) and self._redis.exists(self._keys.job(job_id)):
            raise UnreadableJob(
                f"job {job_id} was made by another version of rerankfleet", hint="update this one"
            )
        raise _unknown(job_id)

    def refuse_foreign(self, job_id: str, owner: str) -> None:
        """Raise UnknownJob for a job that is not this owner's, as for one that is not there."""
        if not is_id(job_id) or self._redis.hget(self._keys.job(job_id), "owner") != owner:
            raise _unknown(job_id)

    def get_many(self, job_ids: Sequence[str]) -> list[Job]:
        """Read many jobs at once, without those that are gone or that cannot be read: one of them
        must not hide the others."""
        ids = [job_id for job_id in job_ids if is_id(job_id)]
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(self._keys.job(job_id))
            pipe.hlen(self._keys.job_open(job_id))
        replies = iter(pipe.execute(raise_on_error=False))
        return [
            job
            for job_id, facts, waiting in zip(ids, replies, replies, strict=True)
            if (job := self._job(job_id, facts, waiting))
        ]

    def _job(self, job_id: str, facts: Any, waiting: Any) -> Job | None:
        """A job from what Redis replied; None for one that cannot be read, which is logged once."""
        try:
            for reply in (facts, waiting):
                if isinstance(reply, redis.ResponseError):  # a key of another type
                    raise ValueError(str(reply))
                if isinstance(reply, Exception):
                    raise reply
            if "spec" not in facts:
                return None
            spec = JobSpec.model_validate_json(facts["spec"])
            job = Job(job_id, spec, facts, waiting)
            job.check()
            return job
        except (ValueError, UsageError):
            if job_id not in self._unreadable:
                self._unreadable.add(job_id)
                log.warning("a job that cannot be read is left out", job=job_id)
            return None

    def recent(self, count: int = 50, owner: str = "") -> list[str]:
        """The newest jobs' ids, newest first; with an `owner` only those of that."""
        keys = [self._keys.recent_of(owner)]
        return cast("list[str]", self._scripts.run("recent", keys, [count, self._keys.job("")]))

    def pause(
        self,
        job: Job,
        reason: str,
        *,
        even_cancelled: bool = False,
        lease: Lease | None = None,
        resumes_s: float = 0,
    ) -> str:
        """Take a job's shards out of the open set; with a `lease`, under which something failed,
        only while that is held. With `resumes_s` it looks again by itself after that time.
        Returns the answer of `pause.lua`."""
        keys = [
            self._keys.job(job.id),
            self._keys.job_open(job.id),
            self._keys.open(job.spec.model),
        ]
        holder = [lease.shard, lease.token] if lease else ["", ""]
        args: list[str | int] = [job.id, reason, int(even_cancelled), *holder]
        args.append(int(resumes_s * 1000))
        return cast(str, self._scripts.run("pause", keys, args))

    def resume(self, job: Job, *, by_itself: bool = False) -> tuple[str, list[str]]:
        """Put a paused job's shards back, by itself only when that is due. Returns the answer and
        the shards to hint. A job that was paused when it was read, and runs by now, is resumed: the
        reply to this call was lost, or another one came first. The monitor hints its shards."""
        k = self._keys
        keys = [k.job(job.id), k.job_open(job.id), k.open(job.spec.model), k.jobs]
        answer, *shards = self._scripts.run("resume", keys, [job.id, int(by_itself)])
        if answer == "running" and job.paused is not None:
            answer = "resumed"
        return answer, shards

    def cancel(self, job: Job) -> str:
        """Stop a job and keep what was scored. Returns the answer of `cancel.lua`."""
        k = self._keys
        keys = [
            k.job(job.id),
            k.job_open(job.id),
            k.open(job.spec.model),
            k.job_parts(job.id),
            k.jobs,
            *_own_key(job),
        ]
        answer, _, payloads = self._scripts.run("cancel", keys, [job.id])
        self._inline.drop(payloads.split())
        return cast(str, answer)

    def retry(self, job: Job, only: str) -> str:
        """Reopen a finished job for what failed. Returns the answer of `retry.lua`."""
        k = self._keys
        keys = [
            k.job(job.id),
            k.jobs,
            k.job_parts(job.id),
            k.sweep,
            k.recent,
            k.recent_of(job.spec.owner),
            *_own_key(job),
        ]
        return cast(str, self._scripts.run("retry", keys, [job.id, only, job.round]))

    def begin_step(self, job_id: str, token: str) -> str:
        """Lease a job for a feed or finish step."""
        keys = [self._keys.job(job_id), self._keys.jobs]
        return cast(str, self._scripts.run("begin", keys, [job_id, token, self._settings.lease_ms]))

    def hold_step(self, job_id: str, token: str) -> str:
        """Renew a step's lease. Returns the answer of `hold.lua`."""
        keys = [self._keys.job(job_id), self._keys.jobs]
        return cast(str, self._scripts.run("hold", keys, [job_id, token, self._settings.lease_ms]))

    def end_step(self, job_id: str, token: str, due_ms: int = LOOK_AGAIN_MS) -> bool:
        """Release a step's lease. Returns whether it was held."""
        keys = [self._keys.job(job_id), self._keys.jobs]
        return bool(self._scripts.run("end", keys, [job_id, token, due_ms]))

    def active_count(self, model: str) -> int:
        """How many jobs of a model still have input to cut: they share its window."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id in self.unfinished():
            pipe.hmget(self._keys.job(job_id), "model", "sealed", "paused")
        return sum(facts == [model, "0", None] for facts in pipe.execute())

    def wait(
        self, job_id: str, reason: str, *, patience_s: float | None, worker: str = "", of: int = 1
    ) -> StorageWait:
        """Record that a job waits for the storage, and say for how long its user waits before the
        next try. `patience_s` None: without end. A `worker` decides alone only if `of` is 1: the
        patience of a job ends when a few different ones met the same."""
        patience_ms = 0 if patience_s is None else max(int(patience_s * 1000), 1)
        witnesses = min(of, WITNESSES) if worker else 0
        over, delay_ms = self._scripts.run(
            "wait",
            [self._keys.job(job_id)],
            [reason, patience_ms, TRY_AGAIN_MIN_MS, TRY_AGAIN_MAX_MS, worker, witnesses],
        )
        return StorageWait(over=bool(over), delay_ms=delay_ms)

    def set_facts(self, job_id: str, **facts: str | int) -> None:
        """Write facts that no script guards (timings, what is being waited for)."""
        fields = [x for fact in facts.items() for x in fact]
        self._scripts.run("facts", [self._keys.job(job_id)], fields)

    def parts(self, job_id: str) -> list[tuple[int, int, str]]:
        """Committed ranges in order: (start, end, part); a cancelled one has a part with a !.
        Raises UnreadableJob for what is no range."""
        ranges = set()
        for start, record in self._redis.hscan_iter(self._keys.job_parts(job_id), count=1000):
            end, _, part = record.partition(" ")
            try:
                ranges.add((int(start), int(end), part))
            except ValueError as error:
                raise damaged(job_id, f"its part {start[:100]!a}") from error
        return sorted(ranges)

    def decide(self, job_id: str, token: str) -> str:
        """Decide which attempt publishes a job's output. Returns it, or nothing when the caller
        does not hold the step."""
        keys = [self._keys.job(job_id), self._keys.job_open(job_id)]
        return cast(str, self._scripts.run("decide", keys, [token]))

    def undecide(self, job_id: str, token: str, attempt: str) -> None:
        """Let another attempt publish than the one that was decided."""
        self._scripts.run("undecide", [self._keys.job(job_id)], [token, attempt])

    def finish(self, job: Job, token: str, output: str, stored_bytes: int = 0) -> bool:
        """End a job whose output is published, of which so many bytes are in the storage."""
        k, settings = self._keys, self._settings
        keys = [k.job(job.id), k.jobs, k.job_open(job.id), k.job_parts(job.id), k.sweep]
        keys += [k.stored("jobs")]
        keys += _own_key(job)
        result_ms, parts_ms = settings.result_ttl_s * 1000, settings.parts_ttl_s * 1000
        channel = k.done_channel(job.id)
        args: list[str | int] = [job.id, token, output, int(result_ms), int(parts_ms), channel]
        args.append(stored_bytes)
        return bool(self._scripts.run("finish", keys, args))

    def unfinished(self) -> list[str]:
        """All unfinished jobs, the most urgent first."""
        return cast("list[str]", self._redis.zrange(self._keys.jobs, 0, -1))

    def due(self, count: int = 100) -> list[str]:
        """Unfinished jobs that the monitor must look at now."""
        due = self._redis.zrange(
            self._keys.jobs, 0, now_ms(self._redis), byscore=True, offset=0, num=count
        )
        return cast("list[str]", due)

    def look_again(self, job_id: str, after_ms: int = LOOK_AGAIN_MS) -> None:
        """Set when the monitor looks at an unfinished job again."""
        self._redis.zadd(self._keys.jobs, {job_id: now_ms(self._redis) + after_ms}, xx=True)

    def models(self) -> list[str]:
        """Every model that a job was made for."""
        return sorted(cast("set[str]", self._redis.smembers(self._keys.models)))

    def sweepable(self) -> list[str]:
        """Finished jobs whose files may be removed."""
        return cast(
            "list[str]",
            self._redis.zrange(
                self._keys.sweep, 0, now_ms(self._redis), byscore=True, offset=0, num=10
            ),
        )

    def begin_sweep(self, job_id: str) -> int:
        """Begin to remove a finished job's files; meanwhile it cannot be retried. Returns for how
        many ms the job is still kept; 0 when it is gone, -1 when it was reopened or is no job."""
        if not is_id(job_id):
            log.warning("what is no job was to be removed", job=job_id)
            self._redis.zrem(self._keys.sweep, job_id)
            return -1
        keys = [self._keys.job(job_id), self._keys.sweep]
        return cast(int, self._scripts.run("sweep", keys, [job_id, SWEEP_MS]))

    def end_sweep(self, job_id: str, again_ms: int = 0) -> None:
        """End the removal, and set after how long it is repeated; 0: never."""
        k = self._keys
        self._scripts.run(
            "swept", [k.job(job_id), k.sweep, k.recent, k.stored("jobs")], [job_id, again_ms]
        )

    def has_ended(self, job_id: str) -> bool:
        """Whether a job has ended."""
        return bool(self._redis.hexists(self._keys.job(job_id), "finished_ms"))

    def wait_done(self, job_id: str, timeout_s: float) -> bool:
        """Wait until a job's end is announced, and poll slowly too. Returns whether it ended."""
        deadline = time.monotonic() + timeout_s
        with self._redis.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self._keys.done_channel(job_id))
            while True:
                if self.has_ended(job_id):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                channel.get_message(timeout=min(left, 1.0))


def _unknown(job_id: str) -> UnknownJob:
    return UnknownJob(f"there is no job {job_id}", hint="list the jobs", command="rerank jobs")


def _own_key(job: Job) -> list[str]:
    """The Redis key of the user's key of a job, if it has one."""
    return [key] if (key := job.facts.get("key")) else []
