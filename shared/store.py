"""Job state in Redis: leases, commits, progress. One method, one round trip, one atomic step.

Celery messages are only hints; what is written here is the truth. Each script says in its head
which keys it touches and what it answers; each gives the same answer when it is repeated, so a
lost reply does no harm. Knows nothing of storage, Celery, models or devices.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis
import structlog
from pydantic import ValidationError
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from shared.errors import KeyConflict, QueueUnavailable, UnknownJob, UnreadableJob, UsageError
from shared.keys import Keys, shard_name
from shared.models import JobSpec, Progress, ShardSummary
from shared.scores import ScoreDistribution
from shared.settings import Settings, mask
from shared.statistics import KINDS, TTL_MS, Kind, Statistics, TemperatureChange, statistics_of

OUTAGE_MS = 10_000
"""A coordinator silent for this long means an outage: leases that ran out in it blame nobody."""
SWEEP_MS = 600_000
"""How long the removal of a job's files may take, at the most."""
CHANGES_KEPT = 100
"""Changes of a profile's temperature that are remembered."""
CHANGES_TTL_MS = 90 * 86_400_000
"""How long a profile's temperature stands after its last change."""
LOOK_AGAIN_MS = 10_000
"""A job in motion is looked at by the monitor when nothing touched it for this long."""

CONNECTIONS_MAX = 64
"""Connections of one process. More threads than that wait for one another, for so long at the most:
the pool of redis-py itself refuses the hundred-and-first."""
CONNECTION_WAIT_S = 30.0

LEFT = "left"
"""What is counted where a shard's lease ran out, since its worker died or hung."""

REDIS_ERRORS = (redis.RedisError,)
"""What a call raises while Redis is away: worth trying again, nobody's fault."""

log = structlog.get_logger()

_SCRIPTS = Path(__file__).with_name("scripts")


def connect(settings: Settings) -> redis.Redis:
    """Connect and check that the server answers. Raises QueueUnavailable saying where it looked."""
    address = settings.redis_address
    try:
        pool = redis.BlockingConnectionPool.from_url(
            address,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECTION_WAIT_S,
            decode_responses=True,
            socket_timeout=30,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=25,
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
        client = redis.Redis.from_pool(pool)
        client.ping()
    except ValueError as error:
        raise UsageError(
            f"RERANK_REDIS_URL is wrong: {mask(address)} is no address of a Redis",
            hint="write redis://host:6379/0, or rediss:// for TLS",
        ) from error
    except redis.RedisError as error:
        raise QueueUnavailable(
            f"Redis at {mask(address)} does not answer ({type(error).__name__})",
            hint="start it, or set RERANK_REDIS_URL; `rerank up` starts one of its own",
        ) from error
    return client


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that one feed step cut: items [start, end) described in `file`."""

    start: int
    end: int
    file: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed shard."""

    job_id: str
    model: str
    shard: str
    token: str
    file: str
    poison: bool = False
    worker: str = ""
    waited_s: float = field(default=0.0, compare=False)
    """From when it was due until it was claimed."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Redis has it: the spec and the raw facts."""

    id: str
    spec: JobSpec
    facts: dict[str, str]
    open_shards: int

    def number(self, name: str) -> int:
        """A count among the facts; 0 when absent."""
        return int(self.facts.get(name) or 0)

    @property
    def sealed(self) -> bool:
        """Whether the whole input was cut."""
        return self.facts.get("sealed") == "1"

    @property
    def cancelled(self) -> bool:
        """Whether someone cancelled it."""
        return "cancel" in self.facts

    @property
    def paused(self) -> str | None:
        """Why it stands still, or None."""
        return self.facts.get("paused")

    @property
    def finished(self) -> bool:
        """Whether its output is published."""
        return "finished_ms" in self.facts

    @property
    def round(self) -> int:
        """How many times it was retried."""
        return self.number("round")

    @property
    def progress(self) -> Progress:
        """Its counts."""
        names = (
            "lines",
            "fed",
            "scored",
            "errors",
            "rejected",
            "cancelled",
            "tokens",
            "truncated",
            "crowded",
        )
        total = self.facts.get("total")
        return Progress(
            total=int(total) if total is not None else None,
            **{name: self.number(name) for name in names},
        )

    @property
    def scores(self) -> ScoreDistribution:
        """How its scores are spread."""
        return ScoreDistribution.from_fields(self.facts)


class Store:
    """The state machine of jobs and shards over one Redis."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self.client = client
        self.keys = Keys(settings.key_prefix)
        self._settings = settings
        self._unreadable: set[str] = set()
        self._scripts = {p.stem: client.register_script(p.read_text()) for p in _SCRIPTS.iterdir()}

    def _run(self, script: str, keys: Sequence[str], args: Iterable[str | int | float]) -> Any:
        return self._scripts[script](keys=list(keys), args=list(args))

    # ---- jobs -----------------------------------------------------------------------------------

    def create(
        self,
        job_id: str,
        spec: JobSpec,
        digest: str,
        *,
        deadline_ms: int = 0,
        inline_ttl_ms: int = 0,
        shards: Sequence[OpenShard] = (),
    ) -> str:
        """Make a job; an inline one is born sealed, with its shards open and a deadline.

        Returns its id, or that of the job which already has this key, input and options.
        Raises KeyConflict when the key stands for another input or other options.
        """
        keys = self.keys
        inline: list[str | int] = [shards[-1].end] if shards else []
        for shard in shards:
            inline += [shard_name(shard.start, shard.end), shard.file]
        answer, found = self._run(
            "create",
            [
                keys.job(job_id),
                keys.jobs,
                keys.recent,
                keys.models,
                keys.job_key(spec.key) if spec.key else "",
                keys.open(spec.model),
                keys.job_open(job_id),
            ],
            [
                job_id,
                spec.model_dump_json(exclude_defaults=True),  # an older reader knows no new field
                digest,
                spec.model,
                deadline_ms or LOOK_AGAIN_MS,
                inline_ttl_ms,
                *inline,
            ],
        )
        if answer != "made":
            self._drop_inline([shard.file for shard in shards])
        if answer == "conflict":
            raise KeyConflict(
                f"the key {spec.key!r} belongs to job {found}, made from another input or options",
                hint="choose another key, or submit the same input and options",
            )
        return cast(str, found)

    def keyed(self, key: str) -> Job | None:
        """The job that has this key."""
        found = cast("str | None", self.client.get(self.keys.job_key(key)))
        try:
            return self.job(found.rpartition(" ")[2]) if found else None
        except UnknownJob:
            return None

    def settle(self) -> None:
        """Wait until the append-only file has what was written, where the server can tell."""
        with suppress(redis.ResponseError):
            self.client.execute_command("WAITAOF", 1, 0, 2000)  # type: ignore[no-untyped-call]

    def job(self, job_id: str) -> Job:
        """Read a job. Raises UnknownJob, or UnreadableJob, which is one."""
        found = self.jobs([job_id])
        if found:
            return found[0]
        if self.client.exists(self.keys.job(job_id)):
            raise UnreadableJob(
                f"job {job_id} was made by another version of rerankfleet", hint="update this one"
            )
        raise UnknownJob(f"there is no job {job_id}", hint="`rerank jobs` lists them")

    def jobs(self, job_ids: Sequence[str]) -> list[Job]:
        """Read many jobs at once; those that are gone are left out, and those that another version
        wrote, so that one of them hides no other job."""
        pipe = self.client.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(self.keys.job(job_id))
            pipe.hlen(self.keys.job_open(job_id))
        found = iter(pipe.execute())
        return [
            Job(job_id, spec, facts, waiting)
            for job_id, facts, waiting in zip(job_ids, found, found, strict=True)
            if (spec := self._spec(job_id, facts))
        ]

    def _spec(self, job_id: str, facts: dict[str, str]) -> JobSpec | None:
        """A job's spec; None for one that cannot be read, which is told once."""
        if "spec" not in facts:
            return None
        try:
            return JobSpec.model_validate_json(facts["spec"])
        except (ValidationError, UsageError):
            if job_id not in self._unreadable:
                self._unreadable.add(job_id)
                log.warning("a job of another version is left out", job=job_id)
            return None

    def recent(self, count: int = 50) -> list[str]:
        """The newest jobs' ids, newest first."""
        return cast("list[str]", self.client.zrevrange(self.keys.recent, 0, count - 1))

    def pause(
        self,
        job_id: str,
        reason: str,
        *,
        even_cancelled: bool = False,
        lease: Lease | None = None,
    ) -> str:
        """Take a job's shards out of the open set; for what went wrong under a `lease` only while
        that is held. Answers as `pause.lua` says."""
        job = self.job(job_id)
        keys = [self.keys.job(job_id), self.keys.job_open(job_id), self.keys.open(job.spec.model)]
        holder = [lease.shard, lease.token] if lease else ["", ""]
        return cast(str, self._run("pause", keys, [job_id, reason, int(even_cancelled), *holder]))

    def resume(self, job_id: str) -> tuple[str, list[str]]:
        """Put a paused job's shards back. Returns the answer and the shards to hint."""
        job = self.job(job_id)
        k = self.keys
        keys = [k.job(job_id), k.job_open(job_id), k.open(job.spec.model), k.jobs]
        answer, *shards = self._run("resume", keys, [job_id])
        return answer, shards

    def cancel(self, job_id: str) -> str:
        """Stop a job and keep what was scored. Answers as `cancel.lua` says."""
        job = self.job(job_id)
        k = self.keys
        keys = [
            k.job(job_id),
            k.job_open(job_id),
            k.open(job.spec.model),
            k.job_parts(job_id),
            k.jobs,
            job.facts.get("key", ""),
        ]
        answer, _, payloads = self._run("cancel", keys, [job_id])
        self._drop_inline(payloads.split())
        return cast(str, answer)

    def retry(self, job_id: str, only: str) -> str:
        """Open a finished job again for what failed. Answers as `retry.lua` says."""
        k = self.keys
        key = self.job(job_id).facts.get("key", "")
        keys = [k.job(job_id), k.jobs, k.job_parts(job_id), k.sweep, k.recent, key]
        return cast(str, self._run("retry", keys, [job_id, only]))

    # ---- the coordinator's steps ----------------------------------------------------------------

    def begin(self, job_id: str, token: str) -> str:
        """Lease a job for a feed or finish step, or renew that lease."""
        keys = [self.keys.job(job_id), self.keys.jobs]
        return cast(str, self._run("begin", keys, [job_id, token, self._lease_ms]))

    def end(self, job_id: str, token: str, due_ms: int = LOOK_AGAIN_MS) -> None:
        """Give a step's lease back."""
        self._run("end", [self.keys.job(job_id), self.keys.jobs], [job_id, token, due_ms])

    def open(
        self,
        job: Job,
        cursor: tuple[str, str],
        shards: Sequence[OpenShard],
        *,
        sealed: bool,
        lines: int,
        low_water: int,
    ) -> str:
        """Open shards and move the cursor from cursor[0] to cursor[1], if it still stands there."""
        k = self.keys
        flat: list[str | int] = [
            x for shard in shards for x in (shard.start, shard.end, shard.file)
        ]
        return cast(
            str,
            self._run(
                "open",
                [
                    k.job(job.id),
                    k.job_open(job.id),
                    k.open(job.spec.model),
                    k.job_parts(job.id),
                    k.jobs,
                ],
                [job.id, *cursor, int(sealed), lines, LOOK_AGAIN_MS, low_water, *flat],
            ),
        )

    def active_jobs(self, model: str) -> int:
        """How many jobs of a model still have input to be cut: they share its window."""
        pipe = self.client.pipeline(transaction=False)
        for job_id in self.unfinished():
            pipe.hmget(self.keys.job(job_id), "model", "sealed", "paused")
        return sum(found == [model, "0", None] for found in pipe.execute())

    def set_facts(self, job_id: str, **facts: str | int) -> None:
        """Write facts that no script guards (timings, what is being waited for)."""
        self.client.hset(self.keys.job(job_id), mapping=cast("dict[Any, Any]", facts))

    def parts(self, job_id: str) -> list[tuple[int, int, str]]:
        """Committed ranges in order: (start, end, part); a part beginning with ! is cancelled."""
        found = []
        for start, record in self.client.hscan_iter(self.keys.job_parts(job_id), count=1000):
            end, _, part = record.partition(" ")
            found.append((int(start), int(end), part))
        return sorted(set(found))

    def finish(self, job_id: str, token: str, output: str) -> bool:
        """End a job whose output is published."""
        k, settings = self.keys, self._settings
        key = self.job(job_id).facts.get("key", "")
        keys = [k.job(job_id), k.jobs, k.job_open(job_id), k.job_parts(job_id), k.sweep, key]
        result_ms, parts_ms = settings.result_ttl_s * 1000, settings.parts_ttl_s * 1000
        channel = k.done_channel(job_id)
        args: list[str | int] = [job_id, token, output, int(result_ms), int(parts_ms), channel]
        return bool(self._run("finish", keys, args))

    # ---- shards ---------------------------------------------------------------------------------

    def claim(
        self,
        job_id: str,
        model: str,
        shard: str,
        *,
        token: str,
        worker: str,
        alone: bool,
        fingerprint: str,
    ) -> Lease | str:
        """Lease a shard, or say why not: done, busy, paused, cancelled, newer, suspect, split."""
        k = self.keys
        answer, *rest = self._run(
            "claim",
            [k.job(job_id), k.job_open(job_id), k.open(model), k.pulse, k.amnesty, k.seen(LEFT)],
            [job_id, shard, token, worker, int(alone), self._lease_ms, fingerprint, OUTAGE_MS],
        )
        if answer in ("yes", "poison"):
            poison, (file, waited_ms) = answer == "poison", rest
            return Lease(
                job_id, model, shard, token, file, poison, worker, waited_s=waited_ms / 1000
            )
        return cast(str, answer)

    def renew(self, leases: Sequence[Lease]) -> list[str]:
        """Prolong leases in one call; per lease ok, lost, cancelled or paused."""
        if not leases:
            return []
        k = self.keys
        keys = [
            key
            for lease in leases
            for key in (k.job(lease.job_id), k.job_open(lease.job_id), k.open(lease.model))
        ]
        args = [x for lease in leases for x in (lease.job_id, lease.shard, lease.token)]
        return cast("list[str]", self._run("renew", keys, [self._lease_ms, *args]))

    def commit(self, lease: Lease, part: str, summary: ShardSummary) -> tuple[str, bool, bool]:
        """Record a shard's part. Returns (committed or late, feed wanted, finish wanted)."""
        k = self.keys
        start, _, end = lease.shard.partition("-")
        job_id = lease.job_id
        names = (lease.worker, lease.model, summary.profile, summary.priority.value)
        counts = [x for count in summary.counts.items() for x in count]
        answer, feed, finish, payloads = self._run(
            "commit",
            [
                k.job(job_id),
                k.job_open(job_id),
                k.open(lease.model),
                k.job_parts(job_id),
                k.jobs,
                k.stats,
                *(k.stats_of(kind, name) for kind, name in zip(KINDS, names, strict=True)),
            ],
            [
                job_id,
                start,
                end,
                part,
                lease.file,
                LOOK_AGAIN_MS,
                k.done_channel(job_id),
                lease.token,
                TTL_MS,
                *counts,
            ],
        )
        self._drop_inline(payloads.split())
        return answer, bool(feed), bool(finish)

    def release(self, lease: Lease) -> bool:
        """Give a shard back at once, blaming nobody. Returns whether it is free again."""
        keys = [self.keys.job_open(lease.job_id), self.keys.open(lease.model)]
        return bool(self._run("release", keys, [lease.job_id, lease.shard, lease.token]))

    def split(self, job_id: str, model: str, shard: str) -> list[str]:
        """Replace a shard that killed its worker by its two halves. Returns them, or nothing."""
        start, end = (int(x) for x in shard.split("-"))
        middle = (start + end) // 2
        keys = [self.keys.job_open(job_id), self.keys.open(model)]
        if not self._run("split", keys, [job_id, start, middle, end]):
            return []
        return [shard_name(start, middle), shard_name(middle, end)]

    @property
    def _lease_ms(self) -> int:
        return int(self._settings.lease_s * 1000)

    # ---- what the monitor looks at --------------------------------------------------------------

    def now_ms(self) -> int:
        """The server's clock, which all leases go by."""
        seconds, micros = self.client.time()
        return seconds * 1000 + micros // 1000

    def models(self) -> list[str]:
        """Every model that a job was made for."""
        return sorted(cast("set[str]", self.client.smembers(self.keys.models)))

    def backlog(self, model: str) -> int:
        """How many shards of a model are open, claimed or not: what an autoscaler reads."""
        return self.client.zcard(self.keys.open(model))

    def due_shards(self, model: str, count: int) -> list[tuple[str, str]]:
        """Shards that nobody holds: (job, range), longest waiting first."""
        due = self.client.zrange(
            self.keys.open(model), 0, self.now_ms(), byscore=True, offset=0, num=count
        )
        return [cast("tuple[str, str]", tuple(m.rsplit("/", 1))) for m in cast("list[str]", due)]

    def oldest_due_s(self, model: str) -> float:
        """For how long the shard that waits longest has been waiting for a worker; 0: none does."""
        key = self.keys.open(model)
        first = cast("list[tuple[str, float]]", self.client.zrange(key, 0, 0, withscores=True))
        return max(0.0, (self.now_ms() - first[0][1]) / 1000) if first else 0.0

    def leased_shards(self, model: str) -> int:
        """How many shards of a model are leased now."""
        key = self.keys.open(model)
        return self.client.zcount(key, f"({self.now_ms()}", "+inf")

    def unfinished(self) -> list[str]:
        """All unfinished jobs, the most urgent first."""
        return cast("list[str]", self.client.zrange(self.keys.jobs, 0, -1))

    def due_jobs(self, count: int = 100) -> list[str]:
        """Unfinished jobs that nobody touched for a while."""
        due = self.client.zrange(
            self.keys.jobs, 0, self.now_ms(), byscore=True, offset=0, num=count
        )
        return cast("list[str]", due)

    def look_again(self, job_id: str, after_ms: int = LOOK_AGAIN_MS) -> None:
        """Say when to look at an unfinished job again."""
        self.client.zadd(self.keys.jobs, {job_id: self.now_ms() + after_ms}, xx=True)

    def pulse(self) -> bool:
        """Note that the coordinator lives. Returns whether it had been silent."""
        keys = [self.keys.pulse, self.keys.amnesty]
        return bool(self._run("pulse", keys, [OUTAGE_MS, self._lease_ms]))

    def silent_s(self) -> float:
        """How long ago the coordinator last gave a sign of life."""
        last = cast("str | None", self.client.get(self.keys.pulse))
        return (self.now_ms() - int(last)) / 1000 if last else float("inf")

    def lead(self, role: str, token: str, ttl_s: float) -> bool:
        """Take or keep a role."""
        return bool(self._run("lead", [self.keys.leader(role)], [token, int(ttl_s * 1000)]))

    def saw(self, kind: str, count: int = 1) -> None:
        """Count something that the monitor had to do, for an hour from the first on."""
        key = self.keys.seen(kind)
        pipe = self.client.pipeline()
        pipe.incrby(key, count)
        pipe.expire(key, 3600, nx=True)
        pipe.execute()

    def seen(self, kind: str) -> int:
        """How often it happened, within the last hour."""
        return int(cast("str | None", self.client.get(self.keys.seen(kind))) or 0)

    def sweepable(self) -> list[str]:
        """Finished jobs whose files may go."""
        return cast(
            "list[str]",
            self.client.zrange(self.keys.sweep, 0, self.now_ms(), byscore=True, offset=0, num=10),
        )

    def sweep(self, job_id: str) -> int:
        """Begin to remove a finished job's files, during which it cannot be retried. Returns the
        ms that the job is still kept; 0 when it is gone, -1 when it was opened again."""
        keys = [self.keys.job(job_id), self.keys.sweep]
        return cast(int, self._run("sweep", keys, [job_id, SWEEP_MS]))

    def swept(self, job_id: str, again_ms: int = 0) -> None:
        """End it, and say after how long to come again; 0: never."""
        self._run("swept", [self.keys.job(job_id), self.keys.sweep], [job_id, again_ms])

    def hints(self, list_keys: Sequence[str]) -> set[str]:
        """The ids of the messages that wait in the broker's lists."""
        pipe = self.client.pipeline(transaction=False)
        for key in list_keys:
            pipe.lrange(key, 0, -1)
        return {
            json.loads(message)["headers"]["id"]
            for waiting in pipe.execute()
            for message in waiting
        }

    def hint_places(self, list_key: str) -> tuple[int, dict[str, int]]:
        """How many messages wait in a broker's list, and how many of them are taken before the
        first hint of each job."""
        waiting = self.client.lrange(list_key, 0, -1)  # the next one to be taken stands last
        places: dict[str, int] = {}
        for place, message in enumerate(reversed(waiting)):
            job_id = json.loads(message)["headers"]["id"].partition("/")[0]
            places.setdefault(job_id, place)
        return len(waiting), places

    def hints_waiting(self, list_keys: Sequence[str]) -> int:
        """How many messages wait in the broker's lists."""
        pipe = self.client.pipeline(transaction=False)
        for key in list_keys:
            pipe.llen(key)
        return sum(pipe.execute())

    def server(self) -> dict[str, Any]:
        """What the server says of itself (INFO)."""
        return self.client.info()

    # ---- statistics -----------------------------------------------------------------------------

    def statistics(self, hours: int) -> list[Statistics]:
        """What each worker, model, profile and priority did in the last full hours and this one."""
        now = self.now_ms() // 3_600_000
        known = cast("list[str]", self.client.zrange(self.keys.stats, 0, -1))
        pipe = self.client.pipeline(transaction=False)
        for key in known:
            for hour in range(now - hours + 1, now + 1):
                pipe.hgetall(f"{key}{hour}")
        found = pipe.execute()
        rows = []
        for number, key in enumerate(known):
            kind, _, name = key.removeprefix(f"{self.keys.stats}:").partition(":")
            of_hours = found[number * hours : (number + 1) * hours]
            if any(of_hours):
                rows.append(statistics_of(cast(Kind, kind), name.removesuffix(":"), of_hours))
        return sorted(rows, key=lambda row: (KINDS.index(row.kind), row.name))

    def adapt_temperature(self, job: Job, to: float) -> bool:
        """Let a job's scores change the temperature of its profile's later jobs. Once per job, and
        only from the temperature that the profile has now. Returns whether it changed."""
        change = TemperatureChange(
            at_s=self.now_ms() / 1000,
            job=job.id,
            mean=job.scores.mean,
            base=job.spec.profile_temperature,
            before=job.spec.temperature,
            to=to,
        )
        keys = [self.keys.job(job.id), self.keys.profile(job.spec.profile or "")]
        args = (change.model_dump_json(), CHANGES_KEPT, CHANGES_TTL_MS)
        return bool(self._run("adapt", keys, args))

    def profile_temperature(self, profile: str, base: float) -> float:
        """The temperature that a profile has now: what earlier jobs gave it, or its own, `base`,
        when there is nothing, or only from when it was another one."""
        newest = self.temperature_changes(profile, 1)
        return newest[0].to if newest and newest[0].base == base else base

    def temperature_changes(
        self, profile: str, count: int = CHANGES_KEPT
    ) -> list[TemperatureChange]:
        """How a profile's temperature was changed, newest first."""
        found = cast("list[str]", self.client.lrange(self.keys.profile(profile), 0, count - 1))
        return [TemperatureChange.model_validate_json(change) for change in found]

    def forget_temperature(self, profile: str) -> None:
        """Let a profile have its own temperature again."""
        self.client.delete(self.keys.profile(profile))

    # ---- inline payloads and waiting ------------------------------------------------------------

    def put_inline(self, job_id: str, name: str, payload: bytes, ttl_s: float) -> str:
        """Keep a small payload or result. Returns its redis: URI."""
        self.client.set(self.keys.inline(job_id, name), payload, px=int(ttl_s * 1000))
        return f"redis:{job_id}/{name}"

    def get_inline(self, uri: str) -> bytes | None:
        """Read what `put_inline` kept; None when its time is over."""
        job_id, _, name = uri.removeprefix("redis:").partition("/")
        found = cast("str | None", self.client.get(self.keys.inline(job_id, name)))
        return None if found is None else found.encode()

    def _drop_inline(self, uris: Sequence[str]) -> None:
        """Forget payloads that nobody reads again; should this be lost, their time ends."""
        if names := [uri.removeprefix("redis:").partition("/") for uri in uris]:
            self.client.delete(*(self.keys.inline(job_id, name) for job_id, _, name in names))

    def ended(self, job_id: str) -> bool:
        """Whether a job has ended."""
        return bool(self.client.hexists(self.keys.job(job_id), "finished_ms"))

    def wait_done(self, job_id: str, timeout_s: float) -> bool:
        """Wait until a job's end is told, polling slowly beside. Returns whether it ended."""
        deadline = time.monotonic() + timeout_s
        with self.client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
            channel.subscribe(self.keys.done_channel(job_id))
            while True:
                if self.ended(job_id):
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                channel.get_message(timeout=min(left, 1.0))
