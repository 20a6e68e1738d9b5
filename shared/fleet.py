"""Who works: heartbeats of workers in Redis. What they do with their shards is in `store.py`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, cast

import redis
from pydantic import BaseModel, ConfigDict

from shared.keys import Keys
from shared.settings import Settings

HEARTBEATS_MISSED = 3
"""A worker that missed this many heartbeats is gone."""

SERVED_TTL_S = 30 * 86_400
"""How long a model counts as one of this fleet's after its last worker stopped."""

WorkerState = Literal["loading", "ready", "draining"]


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
    dtype: str = ""
    attention: str = ""
    batch_tokens: int = 0
    batch_pairs: int = 0
    batch_reason: str = ""
    """Why the limit is what it is, in words."""
    batch_at_s: float = 0.0
    """When the limit was set (time.time)."""
    ooms: int = 0
    """How many packs ran out of memory."""
    memory_bytes: int = 0
    """Peak device memory of its last packs; resident memory on a CPU; 0 unknown."""
    shards: int = 0
    slots: int = 0
    pairs_per_s: float = 0.0
    tokens_per_s: float = 0.0
    """Measured rate of the device, for cutting shards; from the self-test until packs ran."""
    busy_share: float = 0.0
    """Share of the last seconds in which the device computed."""
    preparing_share: float = 0.0
    """Share of the last seconds in which shards were in hand but the device had nothing."""
    pairs: int = 0
    latency_s: float = 0.0
    """Device seconds of a pack, lately."""
    latency_p50_s: float = 0.0
    latency_p95_s: float = 0.0
    version: str = ""
    seen_s: float = 0.0


class Fleet:
    """Heartbeats: written by workers, read by everyone."""

    def __init__(self, client: redis.Redis, settings: Settings) -> None:
        self._client = client
        self._keys = Keys(settings.key_prefix)
        self._ttl_s = HEARTBEATS_MISSED * settings.heartbeat_s + 2

    def beat(self, row: WorkerRow) -> None:
        """Say that a worker lives and what it does."""
        now = time.time()
        fields = {**row.model_dump(), "seen_s": now}
        key = self._keys.worker(row.id)
        pipe = self._client.pipeline()
        pipe.hset(key, mapping=cast("Mapping[Any, Any]", fields))
        pipe.pexpire(key, int(self._ttl_s * 1000))
        pipe.zadd(self._keys.workers, {row.id: now})
        pipe.set(self._keys.served(row.model), row.fingerprint, ex=SERVED_TTL_S)
        pipe.zremrangebyscore(self._keys.workers, "-inf", now - 3600)
        pipe.execute()

    def leave(self, worker_id: str) -> None:
        """Say that a worker stopped on purpose."""
        pipe = self._client.pipeline()
        pipe.delete(self._keys.worker(worker_id))
        pipe.zrem(self._keys.workers, worker_id)
        pipe.execute()

    def knows(self, model: str) -> bool:
        """Whether this model is served, or was lately (a fleet may be scaled down to nothing)."""
        return bool(self._client.exists(self._keys.served(model)))

    def workers(self, model: str | None = None) -> list[WorkerRow]:
        """All workers whose heartbeat is fresh, by id; of one model if named."""
        ids = sorted(cast("list[str]", self._client.zrange(self._keys.workers, 0, -1)))
        pipe = self._client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.hgetall(self._keys.worker(worker_id))
        rows = [WorkerRow.model_validate(found) for found in pipe.execute() if found]
        return [row for row in rows if model is None or row.model == model]
