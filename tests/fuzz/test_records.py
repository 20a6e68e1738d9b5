"""Records in Redis: a damaged one costs its own job only, and whoever reads it goes on."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.process import _task
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.ids import is_id
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.queue import is_hint
from rerankfleet.workers import tasks
from rerankfleet.workers.leases import Leases
from rerankfleet.workers.monitor import Monitor
from rerankfleet.workers.recorder import Recorder
from rerankfleet.workers.runtime import Runtime
from rerankfleet.workers.storage_health import StorageHealth
from tests.support.fleet import FINGERPRINT, MODEL, PROVENANCE, Worker, worker_row
from tests.support.mutations import Mutations, case, cases
from tests.support.outputs import check, output

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", "b", f"c{n}"]} for n in range(6)]
TURNS = 12
"""More than a job of these lines takes: what waits longer waits for a person."""


@pytest.fixture
def control(store, fleet, objects, hints, change) -> Control:
    """Shards of three pairs, three open at the most."""
    return Control(store, objects, hints, change(shard_pairs_max=3, window_min=3, hint_grace_s=0))


@pytest.fixture
def runtime(control, monkeypatch) -> Runtime:
    """A worker process whose scores need no model."""
    worker = Worker(control)
    made = object.__new__(Runtime)
    made.settings, made.store, made.objects = control.settings, control.store, control.objects
    made.hints, made.draining, made.recorder = control.hints, False, Recorder()
    made.provenance, made.supports_images = PROVENANCE, True
    made.leases = Leases(
        control.store, control.hints, model=MODEL, worker="w1", fingerprint=FINGERPRINT
    )

    def score(slices, *_: Any) -> Any:
        return [worker._score(piece) for piece in slices], 0

    made.storage = StorageHealth()
    made.scorer = SimpleNamespace(score=score)
    made.batcher = SimpleNamespace(alive=True)
    monkeypatch.setattr(tasks, "BACKOFF_S", 0)
    monkeypatch.setattr(os, "_exit", lambda status: pytest.fail("the worker ended itself"))
    return made


def submit(control: Control, job_id: str) -> None:
    """A job of LINES, its first shards open."""
    uri = control.objects.at("jobs", job_id, "input.jsonl")
    data = b"".join(f'{{"id": {line["id"]}, '.encode() + _rest(line) for line in LINES)
    control.objects.write(uri, data)
    stat = control.objects.stat(uri)
    ref = InputRef(uri=uri, size=stat.size, tag=stat.tag)
    control.store.jobs.create(job_id, make_spec(model=MODEL, input=ref), "")
    feed(job_id, control)


def _rest(line: dict[str, Any]) -> bytes:
    documents = ", ".join(f'"{text}"' for text in line["documents"])
    return f'"query": "{line["query"]}", "documents": [{documents}]}}\n'.encode()


def damage(mutations: Mutations, client: redis.Redis, keys: list[str], control: Control) -> str:
    """Change one of the victim's records, or add to those that all share. Returns what was done."""
    random, fields = mutations.random, control.store.keys
    key = mutations.pick(keys)
    nasty = mutations.of_bytes(mutations.pick([b"7", b"victim/0-3", b'{"token":"t"}', b"\x00"]))
    kind = random.random()
    if kind < 0.1:
        client.delete(key)
        client.set(key, nasty)
    elif kind < 0.15:
        client.delete(key)
    elif kind < 0.3:
        shared = mutations.pick([fields.jobs, fields.recent, fields.open(MODEL), fields.sweep])
        client.zadd(shared, {nasty: random.choice([0, -1, 1e300, float("inf")])})
        return f"{shared} has {nasty!r}"
    elif kind < 0.4:
        client.sadd(fields.models, nasty)
        return f"models has {nasty!r}"
    elif kind < 0.5:
        client.zadd(fields.workers, {"victim": client.time()[0] * 1000})
        row = {name: str(value) for name, value in worker_row("victim").model_dump().items()}
        row[mutations.pick(sorted(row))] = nasty
        client.hset(fields.worker("victim"), mapping=row)
        return f"a worker is {row}"
    elif client.type(key) == "hash" and client.hlen(key):
        name = mutations.pick(sorted(client.hkeys(key)))
        value = client.hget(key, name).encode()
        if random.random() < 0.2:
            client.hdel(key, name)
        elif random.random() < 0.2:
            client.hset(key, nasty, value)
        else:
            client.hset(key, name, mutations.of_bytes(value, 2))
        return f"{name} of {key}: {client.hgetall(key)}"
    else:
        client.rename(key, f"{key}:gone")
    return f"{key} is {client.type(key)}"


def carry_on(control: Control, runtime: Runtime, monitor: Monitor) -> None:
    """One turn of a monitor, a coordinator and a worker, as their processes carry out tasks."""
    steps = {"feed": _task(feed, control), "finish": _task(finish, control)}
    monitor.tick()
    monitor.sweep()
    for kind, *arguments in control.hints.take():
        if kind == "shard":
            if is_hint("rerank.score_shard", arguments):  # others are dropped by the transport
                with suppress(RerankError, redis.RedisError):  # logged by Celery, hinted again
                    tasks.score_shard(runtime, *arguments)
        elif is_id(arguments[0]):
            steps[kind](arguments[0])


def look(client: Client, job_id: str) -> None:
    """What people ask of a fleet; of a damaged job they may be told that it cannot be read."""
    for ask in (client.jobs, client.workers, client.store.snapshot):
        assert ask() is not None
    for of_job in (client.status, client.files, lambda j: list(client.results(j, partial=True))):
        with suppress(RerankError, redis.ResponseError):  # a key of another type
            of_job(job_id)


def test_a_damaged_record_costs_its_own_job_only(control, runtime, client, hints):
    results: Counter[str] = Counter()
    for mutations in cases("records", 15):
        # given two jobs, some of whose shards are scored, and a record of one that is damaged
        client.flushdb()
        control.store.fleet.beat(worker_row())
        client.set(control.store.keys.amnesty, 0)
        monitor = Monitor(control.store, control.objects, hints, control.settings)
        for job_id in ("victim", "good"):
            submit(control, job_id)
        hints.take()
        keys = [key for key in client.keys("*") if ":job:victim" in key]
        for _ in range(mutations.random.randrange(3)):
            carry_on(control, runtime, monitor)
        keys = [key for key in client.keys("*") if ":job:victim" in key]
        done = damage(mutations, client, keys, control)
        with case(mutations, done):
            # when all go on, then the other job ends well
            for _ in range(TURNS):
                carry_on(control, runtime, monitor)
            check(LINES, output(control, "good"))
            # and everything can be asked
            look(Client(control.settings), "victim")
            # and the damaged one has its whole output, or none
            results[state_of(control)] += 1
    client.flushdb()
    assert results["done"] > 1, results


def state_of(control: Control) -> str:
    """What became of the damaged job."""
    try:
        job = control.store.jobs.get("victim")
    except RerankError as error:
        return error.code
    if job.finished:
        written = output(control, "victim")
        assert len(written) == len(LINES)
        outcomes = sum(len(line["results"]) + len(line["errors"]) for line in written)
        assert outcomes == sum(len(line["documents"]) for line in LINES)
        return "done"
    return "a bug" if "bug" in (job.paused or "") else "paused" if job.paused else "waits"
