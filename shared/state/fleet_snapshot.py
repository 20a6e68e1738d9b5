"""The fleet at one moment: its workers, what waits for each model, whether a coordinator lives.

`rerank top`, the gateway's routes and metrics, `rerank stats` and `doctor`, the status of a job and
the admission of a small request all take their figures from here: each is computed in one place,
and all of them come in two round trips.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from redis.client import Pipeline

from rerankfleet.shared.advice import silent_limit_s
from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import broker_keys, model_queue
from rerankfleet.shared.state.connection import Connection, as_ms
from rerankfleet.shared.state.coordination import seconds_since
from rerankfleet.shared.state.fleet import WorkerRow, worker_rows


class ModelQueue(Frozen):
    """What waits for a model's workers."""

    model: str
    waiting: Mapping[Priority, int]
    """Hints of shards in the broker that no worker has taken yet, by priority."""
    open_shards: int = 0
    """Shards without a result, leased or not."""
    leased_shards: int = 0
    """Those of them that a worker holds."""
    oldest_due_s: float = 0.0
    """How long the first shard has been waiting for a worker; 0: none waits."""

    @property
    def depth(self) -> int:
        """Hints of all priorities."""
        return sum(self.waiting.values())


@dataclass(frozen=True, slots=True)
class FleetSnapshot:
    """The fleet at one moment of the server's clock."""

    at_ms: int
    coordinator_silent_s: float
    """Seconds since a coordinator's last sign of life; infinite if there never was one."""
    workers: tuple[WorkerRow, ...]
    """All living workers, by id."""
    queues: tuple[ModelQueue, ...]
    """Of every model that is served or has had a job, or of those that were named; by name."""
    unfinished_jobs: tuple[str, ...] = ()
    """Ids, the most urgent first; only where they were requested."""
    silent_limit_s: float = 10.0
    """How long the coordinator may be silent before something is wrong."""

    @property
    def coordinator_lives(self) -> bool:
        """Whether a coordinator gave a sign of life lately."""
        return self.coordinator_silent_s < self.silent_limit_s

    def workers_of(self, model: str) -> list[WorkerRow]:
        """The workers of one model."""
        return [worker for worker in self.workers if worker.model == model]

    def queue(self, model: str) -> ModelQueue:
        """What waits for one model; nothing for a model without a queue."""
        of_model = (queue for queue in self.queues if queue.model == model)
        return next(of_model, ModelQueue(model=model, waiting=dict.fromkeys(Priority, 0)))

    @property
    def served_models(self) -> list[str]:
        """The models of all workers, by name."""
        return sorted({worker.model for worker in self.workers})

    @property
    def open_shards(self) -> dict[str, int]:
        """Open shards by model."""
        return {queue.model: queue.open_shards for queue in self.queues}

    @property
    def pairs_per_s(self) -> float:
        """Of all workers together."""
        return sum(worker.pairs_per_s for worker in self.workers)


def read_snapshot(
    connection: Connection, models: Collection[str] | None = None, *, unfinished_jobs: bool = False
) -> FleetSnapshot:
    """Read the fleet. With `models` only their queues are read, the workers of all."""
    keys, pipe = connection.keys, connection.redis.pipeline(transaction=False)
    pipe.time()
    pipe.get(keys.pulse)
    pipe.zrange(keys.workers, 0, -1)
    pipe.smembers(keys.models)
    if unfinished_jobs:
        pipe.zrange(keys.jobs, 0, -1)
    time, pulse, worker_ids, job_models, *unfinished = pipe.execute()
    at_ms = as_ms(time)
    workers, queues = _workers_and_queues(
        connection, worker_ids, job_models if models is None else models, at_ms
    )
    if models is None and (without_jobs := {w.model for w in workers} - set(job_models)):
        queues += _workers_and_queues(connection, (), without_jobs, at_ms)[1]
    return FleetSnapshot(
        at_ms=at_ms,
        coordinator_silent_s=seconds_since(pulse, at_ms),
        workers=tuple(workers),
        queues=tuple(sorted(queues, key=lambda queue: queue.model)),
        unfinished_jobs=tuple(*unfinished),
        silent_limit_s=silent_limit_s(connection.settings.tick_s),
    )


def _workers_and_queues(
    connection: Connection, worker_ids: Sequence[str], models: Collection[str], at_ms: int
) -> tuple[list[WorkerRow], list[ModelQueue]]:
    pipe = connection.redis.pipeline(transaction=False)
    for worker_id in sorted(worker_ids):
        pipe.hgetall(connection.keys.worker(worker_id))
    for model in models:
        _request_queue(pipe, connection, model, at_ms)
    replies = iter(pipe.execute())
    workers = worker_rows(islice(replies, len(worker_ids)))
    return workers, [_queue(model, replies, at_ms) for model in models]


def _request_queue(pipe: Pipeline, connection: Connection, model: str, at_ms: int) -> None:
    """Append the commands whose replies `_queue` reads."""
    names = [model_queue(model, priority) for priority in Priority]
    for key in broker_keys(connection.settings, names):
        pipe.llen(key)
    open_key = connection.keys.open(model)
    pipe.zcard(open_key)
    pipe.zcount(open_key, f"({at_ms}", "+inf")
    pipe.zrange(open_key, 0, 0, withscores=True)


def _queue(model: str, replies: Iterator[Any], at_ms: int) -> ModelQueue:
    waiting = {priority: next(replies) for priority in Priority}
    open_shards, leased_shards = next(replies), next(replies)
    return ModelQueue(
        model=model,
        waiting=waiting,
        open_shards=open_shards,
        leased_shards=leased_shards,
        oldest_due_s=_oldest_due_s(next(replies), at_ms),
    )


def _oldest_due_s(first: Iterable[Any], at_ms: int) -> float:
    """Seconds since the first of the open shards was due."""
    return max((max(at_ms - due_ms, 0.0) / 1000 for _, due_ms in first), default=0.0)
