"""Heartbeats: who works, and how long a silent worker counts."""

from __future__ import annotations

from shared.fleet import HEARTBEATS_MISSED, Fleet
from tests.support.fleet import MODEL, worker_row
from tests.support.wait import wait_until


def test_a_worker_is_seen_as_it_described_itself(fleet):
    row = worker_row(pairs_per_s=12.5, state="loading")
    fleet.beat(row)

    (found,) = fleet.workers()

    assert found.model_copy(update={"seen_s": 0.0}) == row
    assert found.seen_s > 0


def test_workers_are_listed_by_model_and_in_order(fleet):
    for worker_id, model in (("w2", MODEL), ("w1", MODEL), ("w3", "other")):
        fleet.beat(worker_row(worker_id, model))

    assert [w.id for w in fleet.workers()] == ["w1", "w2", "w3"]
    assert [w.id for w in fleet.workers(MODEL)] == ["w1", "w2"]


def test_a_worker_that_says_goodbye_is_gone_at_once_and_its_model_known(fleet):
    fleet.beat(worker_row())
    fleet.leave("w1")
    fleet.leave("w1")

    assert fleet.workers() == []
    assert fleet.knows(MODEL)
    assert not fleet.knows("other")


def test_a_worker_that_fell_silent_is_gone_after_three_heartbeats(client, change, store):
    settings = change(heartbeat_s=2.0)
    fleet = Fleet(client, settings)
    fleet.beat(worker_row())

    left_ms = client.pttl(store.keys.worker("w1"))
    assert 2000 * HEARTBEATS_MISSED <= left_ms <= 2000 * HEARTBEATS_MISSED + 2000
    client.pexpire(store.keys.worker("w1"), 1)

    wait_until(lambda: fleet.workers() == [])


def test_the_list_of_workers_does_not_grow_for_ever(fleet, client, store):
    client.zadd(store.keys.workers, {"long-gone": 1.0})

    fleet.beat(worker_row())

    assert client.zrange(store.keys.workers, 0, -1) == ["w1"]
