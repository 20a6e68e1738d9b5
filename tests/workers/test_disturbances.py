"""Faults leave nothing behind in a worker's process: no thread, no connection, no open file."""

from __future__ import annotations

import threading

import psutil
import pytest
import redis

from rerankfleet.shared.job_spec import InputRef, Priority, make_spec
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store
from rerankfleet.workers.leases import Leases
from tests.support.fleet import FINGERPRINT, MODEL
from tests.support.wait import wait_until

ROUNDS = 40


@pytest.fixture
def job(store: Store, client: redis.Redis) -> str:
    """A job with one shard, over a coordinator that ticks."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"))
    store.jobs.create("j", spec, "digest")
    shards = [OpenShard(0, 1, "0-0-1-x")]
    store.shards.open(store.jobs.get("j"), ("", "1"), shards, sealed=True, lines=1, low_water=0)
    return "j"


def of_this_process() -> tuple[int, int]:
    """Its threads, and its open files, connections among them."""
    return threading.active_count(), psutil.Process().num_fds()


def close_connections(settings: Settings) -> None:
    """The server closes every connection but the one that asks."""
    with redis.Redis.from_url(settings.redis_address) as other:
        other.client_kill_filter(_type="normal", skipme=True)


def test_rounds_of_claims_hints_and_closed_connections_leave_nothing(
    store: Store, settings: Settings, job: str
) -> None:
    hints = Hints(make_app(settings))
    leases = Leases(store, hints, model=MODEL, worker="w1", fingerprint=FINGERPRINT)

    def round_() -> None:
        with leases.claim(job, "0-1") as held:
            assert held is not None
            leases.renew()
            assert isinstance(held.lease, Lease)
            close_connections(settings)
            hints.shard(MODEL, Priority.normal, job, "0-1")
            store.shards.release(held.lease)

    for _ in range(3):
        round_()
    before = of_this_process()
    for _ in range(ROUNDS):
        round_()
    wait_until(lambda: of_this_process()[0] <= before[0], 10, "no thread is left")
    wait_until(lambda: of_this_process()[1] <= before[1] + 1, 10, "no file is left")
    assert len(leases) == 0
