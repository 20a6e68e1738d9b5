"""The fleet: heartbeats of workers, what they observe, and their batch limits."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rerankfleet.shared.metrics import Counts, dump_counts, load_counts
from rerankfleet.shared.observations import Observation
from rerankfleet.shared.state.connection import Connection

HEARTBEATS_MISSED = 3
"""A worker that missed this many heartbeats no longer counts."""

HEARTBEATS_REMEMBERED = 30
"""For so many heartbeats, what was observed and decided of a worker is kept: longer than an outage
of Redis or of the monitor lasts."""

PACKS_KEPT = 2048
"""About how many observations of a worker are kept for the monitor."""

LIMITS_KEPT = 200
"""How many limits the history of a worker holds."""

SERVED_TTL_S = 30 * 86_400
"""How long the fleet counts as serving a model after its last worker stopped."""

_OBSERVATION = TypeAdapter(Observation)

WorkerState = Literal["loading", "ready", "draining"]


def worker_id(device: str, pid: int) -> str:
    """The id of a worker process on this host."""
    return f"{socket.gethostname()}:{device}:{pid}"


class WorkerRow(BaseModel):
    """One worker process, as it last described itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    host: str
    pid: int
    device: str
    model: str
    state: WorkerState
    fingerprint: str = ""
    revision: str = ""
    """Of its weights, as results name it."""
    dtype: str = ""
    attention: str = ""
    supports_images: bool = Field(
        default=False, validation_alias=AliasChoices("supports_images", "sees")
    )
    """Whether its model reads images. Workers of the release before this one write `sees`."""
    batch_tokens: int = 0
    batch_pairs: int = 0
    batch_reason: str = ""
    """Why the limit is what it is, in words."""
    batch_at_s: float = 0.0
    """When the limit was set (time.time)."""
    batch_policy: str = ""
    """JSON of its policy with bounds and thresholds; empty while it loads."""
    oom_ceiling: int = 0
    """Token-equivalents above which it ran out of memory; 0: it did not, or recovered since."""
    ooms: int = 0
    """How many packs ran out of memory."""
    memory_bytes: int = 0
    """Peak device memory of its last packs; resident memory on a CPU; 0 unknown."""
    pack_overhead_s: float = 0.0
    """Fixed seconds of a pack, by the self-test."""
    pack_s_per_token: float = 0.0
    """Seconds of a token-equivalent, by the self-test."""
    waiting_for: str = ""
    """What it waits for, when the storage fails here; it claims little meanwhile."""
    shards: int = 0
    slots: int = 0
    pairs_per_s: float = 0.0
    tokens_per_s: float = 0.0
    """Measured rate of the device, for cutting shards; from the self-test until packs have run."""
    busy_share: float = 0.0
    """Share of the last seconds in which the device computed."""
    preparing_share: float = 0.0
    """Share of the last seconds in which it held shards but the device had nothing to compute."""
    pairs: int = 0
    latency_s: float = 0.0
    """Mean device seconds of its last packs."""
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0
    waiting_share: float = 0.0
    """Of the time from prepared to scored of its packs' oldest pairs, the share spent waiting for
    the device. Near 1 where the device is the bottleneck."""
    version: str = ""
    seen_s: float = 0.0


class BatchLimit(BaseModel):
    """A worker's batch limit as decided. Of two with the same version the first one wins."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tokens: int
    pairs: int
    reason: str = ""
    at_s: float = 0.0
    """When tokens or pairs last changed (time.time)."""
    version: int = 1
    cursor: str = ""
    """The last observation it is based on."""
    memory: str = ""
    """The state of the policy, as JSON."""


class PastLimit(BaseModel):
    """One entry of the history of a worker's limits."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    at_s: float
    tokens: int
    pairs: int
    reason: str = ""


class Fleet:
    """Heartbeats and observations: written by workers; limits: written by monitors."""

    def __init__(self, connection: Connection) -> None:
        settings = connection.settings
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts
        self._ttl_s = HEARTBEATS_MISSED * settings.heartbeat_s + 2
        self._remembered_ms = int(HEARTBEATS_REMEMBERED * settings.heartbeat_s * 1000)

    def beat(self, row: WorkerRow, counts: Counts | None = None) -> None:
        """Write a worker's heartbeat: what it does, and what it has counted so far."""
        now = time.time()
        fields = row.model_dump() | {"supports_images": int(row.supports_images), "seen_s": now}
        key = self._keys.worker(row.id)
        pipe = self._redis.pipeline()
        pipe.hset(key, mapping=cast("Mapping[Any, Any]", fields))
        pipe.pexpire(key, int(self._ttl_s * 1000))
        if counts is not None:
            pipe.set(self._keys.counts(row.id), dump_counts(counts), px=int(self._ttl_s * 1000))
        pipe.zadd(self._keys.workers, {row.id: now})
        pipe.set(self._keys.served(row.model), row.fingerprint, ex=SERVED_TTL_S)
        pipe.zremrangebyscore(self._keys.workers, "-inf", now - 3600)
        pipe.execute()

    def leave(self, worker_id: str) -> None:
        """Deregister a worker that stops on purpose."""
        pipe = self._redis.pipeline()
        keys = self._keys
        pipe.delete(keys.worker(worker_id), keys.counts(worker_id), *self._learned(worker_id))
        pipe.zrem(keys.workers, worker_id)
        pipe.execute()

    def knows(self, model: str) -> bool:
        """Whether this model is served, or was recently (a fleet may be scaled down to nothing)."""
        return bool(self._redis.exists(self._keys.served(model)))

    def workers(self, model: str | None = None) -> list[WorkerRow]:
        """All workers whose heartbeat is fresh, by id; of one model if named."""
        ids = sorted(cast("list[str]", self._redis.zrange(self._keys.workers, 0, -1)))
        pipe = self._redis.pipeline(transaction=False)
        for worker_id in ids:
            pipe.hgetall(self._keys.worker(worker_id))
        return [row for row in worker_rows(pipe.execute()) if model in (None, row.model)]

    def counts(self, worker_ids: Sequence[str]) -> list[Counts]:
        """What each of these workers counted; empty for one that wrote nothing readable."""
        if not worker_ids:
            return []
        texts = self._redis.mget([self._keys.counts(worker_id) for worker_id in worker_ids])
        return [load_counts(text) for text in cast("list[str | None]", texts)]

    # ---- batch limits ---------------------------------------------------------------------------

    def forget(self, worker_id: str) -> None:
        """Drop what was learned of a worker whose name a new process has taken."""
        self._redis.delete(*self._learned(worker_id))

    def push(self, worker_id: str, observations: Sequence[Observation] = ()) -> BatchLimit | None:
        """Add what a worker observed, extend the life of what was learned of it, and return its
        limit, if there is one. One round trip, however many packs."""
        pipe = self._redis.pipeline()  # a transaction: no stream without its TTL
        packs = self._keys.packs(worker_id)
        for observation in observations:
            fields = {"pack": _OBSERVATION.dump_json(observation)}
            pipe.xadd(packs, cast("Any", fields), maxlen=PACKS_KEPT, approximate=True)
        for key in self._learned(worker_id):
            pipe.pexpire(key, self._remembered_ms)
        pipe.hgetall(self._keys.limit(worker_id))
        return _limit(pipe.execute()[-1])

    def observations(self, worker_id: str, after: str = "") -> tuple[str, list[Observation]]:
        """What a worker observed after a cursor ("" for the beginning), and the new cursor.

        Entries that are not observations are left out; implausible numbers are not judged here.
        """
        least = f"({after}" if after else "-"
        entries = cast("list[Any]", self._redis.xrange(self._keys.packs(worker_id), min=least))
        cursor = entries[-1][0] if entries else after
        return cursor, list(_observations(fields for _, fields in entries))

    def last_packs(self, worker_id: str, count: int, since_ms: int = 0) -> list[Observation]:
        """What a worker observed of its last packs, the oldest first; with `since_ms`, in the
        server's time, only what was added from then on."""
        packs = self._keys.packs(worker_id)
        entries = cast("list[Any]", self._redis.xrevrange(packs, min=since_ms, count=count))
        return list(_observations(fields for _, fields in reversed(entries)))

    def limit(self, worker_id: str) -> BatchLimit | None:
        """A worker's limit as last decided; None before the first decision."""
        return _limit(self._redis.hgetall(self._keys.limit(worker_id)))

    def set_limit(self, worker_id: str, limit: BatchLimit) -> bool:
        """Write a limit that is based on the previous version.

        False when another monitor was first; then nothing is changed.
        """
        entry = PastLimit(**limit.model_dump())
        fields = limit.model_dump(exclude={"version", "tokens", "pairs"})
        arguments: list[str | int | float] = [
            limit.version,
            self._remembered_ms,
            entry.model_dump_json(),
            LIMITS_KEPT,
            limit.tokens,
            limit.pairs,
            *(part for field in fields.items() for part in field),
        ]
        keys = [self._keys.limit(worker_id), self._keys.limits(worker_id)]
        return bool(self._scripts.run("limit", keys, arguments))

    def limits(self, worker_id: str) -> list[PastLimit]:
        """The last limits of a worker, the oldest first."""
        entries = cast("list[str]", self._redis.lrange(self._keys.limits(worker_id), 0, -1))
        return [PastLimit.model_validate_json(entry) for entry in reversed(entries)]

    def _learned(self, worker_id: str) -> tuple[str, str, str]:
        keys = self._keys
        return keys.packs(worker_id), keys.limit(worker_id), keys.limits(worker_id)


def worker_rows(heartbeats: Iterable[Mapping[str, str]]) -> list[WorkerRow]:
    """The workers whose heartbeats these are. Left out: those that have expired, and those of
    another version that cannot be read."""
    return [row for fields in heartbeats if fields and (row := _row(fields))]


def _row(fields: Mapping[str, str]) -> WorkerRow | None:
    try:
        return WorkerRow.model_validate(fields)
    except ValidationError:
        return None


def _limit(fields: Any) -> BatchLimit | None:
    try:
        return BatchLimit.model_validate(fields) if fields else None
    except ValidationError:
        return None


def _observations(entries: Iterable[Mapping[str, str]]) -> Iterator[Observation]:
    for fields in entries:
        try:
            yield _OBSERVATION.validate_json(fields.get("pack", ""), strict=True)
        except ValidationError:
            continue
