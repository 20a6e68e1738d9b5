"""The fleet at one moment, read in a few round trips."""

from __future__ import annotations

import pytest
import redis

from rerankfleet.shared.job_spec import InputRef, JobSpec, Priority
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.fleet import FINGERPRINT, MODEL, worker_row
from tests.support.wait import wait_until


def make_job(store: Store, job_id: str, model: str = MODEL, shards: int = 1) -> None:
    """A job with shards that wait."""
    spec = JobSpec(model=model, input=InputRef(uri="", size=0, tag=""))
    opened = [OpenShard(n, n + 1, f"redis:{job_id}/{n}") for n in range(shards)]
    store.jobs.create(job_id, spec, "", deadline_ms=60_000, inline_ttl_ms=60_000, shards=opened)


@pytest.fixture
def round_trips(monkeypatch) -> list[int]:
    """Grows by one with each pipeline that is sent."""
    sent: list[int] = []
    execute = redis.client.Pipeline.execute

    def counted(self: redis.client.Pipeline, **options: bool) -> list[object]:
        sent.append(len(self.command_stack))
        return execute(self, **options)

    monkeypatch.setattr(redis.client.Pipeline, "execute", counted)
    return sent


def test_all_figures_are_of_one_moment(store, fleet, real_hints, round_trips):
    # given two workers, two jobs of which one has a leased shard, and a hint
    fleet.beat(worker_row("w1", pairs_per_s=2.0))
    fleet.beat(worker_row("w2", pairs_per_s=0.5))
    make_job(store, "j1", shards=3)
    make_job(store, "j2", "org/other")
    store.shards.claim(
        "j1", MODEL, "0-1", token="t", worker="w1", alone=False, fingerprint=FINGERPRINT
    )
    real_hints.shard(MODEL, Priority.bulk, "j1", "1-2")
    store.coordination.pulse()
    round_trips.clear()
    # when the fleet is read
    snapshot = store.snapshot(unfinished_jobs=True)
    # then it took two round trips
    assert len(round_trips) == 2
    assert [worker.id for worker in snapshot.workers] == ["w1", "w2"]
    assert snapshot.served_models == [MODEL]
    assert snapshot.pairs_per_s == 2.5
    assert snapshot.coordinator_silent_s < 10
    assert set(snapshot.unfinished_jobs) == {"j1", "j2"}
    assert snapshot.open_shards == {MODEL: 3, "org/other": 1}
    queue = snapshot.queue(MODEL)
    assert (queue.open_shards, queue.leased_shards, queue.depth) == (3, 1, 1)
    assert queue.waiting == {Priority.interactive: 0, Priority.normal: 0, Priority.bulk: 1}
    wait_until(lambda: store.snapshot().queue(MODEL).oldest_due_s > 0, what="time passes")
    for job_id in ("j1", "j2"):
        store.jobs.cancel(store.jobs.get(job_id))


def test_only_the_named_models_queues_are_read(store, fleet, round_trips):
    fleet.beat(worker_row())
    make_job(store, "j1")
    make_job(store, "j2", "org/other")
    round_trips.clear()
    snapshot = store.snapshot(["org/other"])
    assert len(round_trips) == 2
    assert [queue.model for queue in snapshot.queues] == ["org/other"]
    assert [worker.id for worker in snapshot.workers] == ["w1"]
    assert snapshot.unfinished_jobs == ()
    assert snapshot.queue(MODEL).open_shards == 0
    for job_id in ("j1", "j2"):
        store.jobs.cancel(store.jobs.get(job_id))


def test_a_model_that_had_no_job_yet_has_a_queue(store, fleet):
    fleet.beat(worker_row(model="org/new"))
    assert [queue.model for queue in store.snapshot().queues] == ["org/new"]


def test_an_empty_fleet_never_had_a_coordinator(store):
    snapshot = store.snapshot(unfinished_jobs=True)
    assert snapshot.coordinator_silent_s == float("inf")
    assert (snapshot.workers, snapshot.queues, snapshot.unfinished_jobs) == ((), (), ())
