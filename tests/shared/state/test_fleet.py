"""Heartbeats: who works, and how long a silent worker counts. What workers observe, and limits."""

from __future__ import annotations

import pytest

from rerankfleet.shared.metrics import RETRIES
from rerankfleet.shared.observations import Observation
from rerankfleet.shared.state.fleet import (
    HEARTBEATS_MISSED,
    LIMITS_KEPT,
    PACKS_KEPT,
    BatchLimit,
)
from rerankfleet.shared.state.store import Store
from tests.support.fleet import MODEL, an_observation, worker_row
from tests.support.wait import wait_until


def test_a_worker_is_seen_as_it_described_itself(fleet):
    row = worker_row(pairs_per_s=12.5, state="loading")
    fleet.beat(row)

    (past,) = fleet.workers()

    assert past.model_copy(update={"seen_s": 0.0}) == row
    assert past.seen_s > 0


def test_workers_are_listed_by_model_and_in_order(fleet):
    for worker_id, model in (("w2", MODEL), ("w1", MODEL), ("w3", "other")):
        fleet.beat(worker_row(worker_id, model))

    assert [w.id for w in fleet.workers()] == ["w1", "w2", "w3"]
    assert [w.id for w in fleet.workers(MODEL)] == ["w1", "w2"]


def test_a_worker_that_deregisters_is_gone_at_once_and_its_model_stays_known(fleet):
    fleet.beat(worker_row())
    fleet.leave("w1")
    fleet.leave("w1")

    assert fleet.workers() == []
    assert fleet.knows(MODEL)
    assert not fleet.knows("other")


def test_a_worker_that_fell_silent_is_gone_after_three_heartbeats(client, change, store):
    settings = change(heartbeat_s=2.0)
    fleet = Store(client, settings).fleet
    fleet.beat(worker_row())

    left_ms = client.pttl(store.keys.worker("w1"))
    assert 2000 * HEARTBEATS_MISSED <= left_ms <= 2000 * HEARTBEATS_MISSED + 2000
    client.pexpire(store.keys.worker("w1"), 1)

    wait_until(lambda: fleet.workers() == [])


def test_the_list_of_workers_does_not_grow_for_ever(fleet, client, store):
    client.zadd(store.keys.workers, {"long-gone": 1.0})

    fleet.beat(worker_row())

    assert client.zrange(store.keys.workers, 0, -1) == ["w1"]


def test_a_heartbeat_of_another_version_hides_no_other(fleet, client, store):
    fleet.beat(worker_row("w1"))
    fleet.beat(worker_row("w2"))
    client.hset(store.keys.worker("w1"), "state", "dreaming")

    assert [worker.id for worker in fleet.workers()] == ["w2"]


def test_a_heartbeat_of_the_release_before_says_whether_images_are_supported(fleet, client, store):
    fleet.beat(worker_row("w1", supports_images=False))
    client.hdel(store.keys.worker("w1"), "supports_images")
    client.hset(store.keys.worker("w1"), "sees", "1")

    assert [worker.supports_images for worker in fleet.workers()] == [True]


def test_what_workers_count_comes_with_their_heartbeats(client, change, store):
    fleet = Store(client, change(heartbeat_s=2.0)).fleet
    counts = {RETRIES.name: {("fetch",): 7.0}}
    fleet.beat(worker_row("w1"))  # while it loads
    fleet.beat(worker_row("w2"), counts)

    first, second, third = fleet.counts(["w1", "w2", "nobody"])

    assert second[RETRIES.name] == counts[RETRIES.name]
    assert not any(first.values())
    assert not any(third.values())
    assert fleet.counts([]) == []
    # and they go when it falls silent
    assert 0 < client.pttl(store.keys.counts("w2")) <= 2000 * (HEARTBEATS_MISSED + 1)


# ---- batch limits -------------------------------------------------------------------------------


def observation(number: int = 1) -> Observation:
    return an_observation(at_s=1000.0 + number, pairs=number, cost=10.5 * number)


def test_what_a_worker_observed_is_read_once_and_in_order(fleet):
    fleet.push("w1", [observation(1), observation(2)])
    cursor, first = fleet.observations("w1")
    fleet.push("w1", [observation(3)])
    last, then = fleet.observations("w1", after=cursor)

    assert first == [observation(1), observation(2)]
    assert then == [observation(3)]
    assert fleet.observations("w1", after=last) == (last, [])
    assert fleet.observations("w2") == ("", [])


@pytest.mark.parametrize("entry", ["", "{", "[]", "null", '{"pairs": 1}', '{"at_s": "soon"}'])
def test_an_entry_that_is_no_observation_is_left_out(fleet, client, store, entry):
    fleet.push("w1", [observation(1)])
    client.xadd(store.keys.packs("w1"), {"pack": entry})
    client.xadd(store.keys.packs("w1"), {"other": entry})
    fleet.push("w1", [observation(2)])

    assert fleet.observations("w1")[1] == [observation(1), observation(2)]


def test_observations_that_nobody_reads_are_bounded(fleet):
    for _ in range(6):
        fleet.push("w1", [observation()] * 500)

    assert PACKS_KEPT <= len(fleet.observations("w1")[1]) < PACKS_KEPT + 200


def test_of_two_limits_with_the_same_ground_the_first_one_counts(fleet):
    assert fleet.limit("w1") is None
    first = BatchLimit(tokens=512, pairs=8, reason="latency: why", at_s=5.0, memory="{}")

    assert fleet.set_limit("w1", first)
    assert not fleet.set_limit("w1", first.model_copy(update={"tokens": 99}))

    assert fleet.limit("w1") == first
    second = first.model_copy(update={"tokens": 640, "version": 2, "at_s": 7.0})
    assert fleet.set_limit("w1", second)
    assert not fleet.set_limit("w1", second)
    assert fleet.push("w1") == second


def test_the_history_has_the_last_limits_that_differed(fleet):
    for version in range(1, LIMITS_KEPT + 50):
        tokens = 64 * (1 + version // 2)  # every other decision changes nothing
        limit = BatchLimit(tokens=tokens, pairs=8, reason="r", at_s=version, version=version)
        assert fleet.set_limit("w1", limit)

    history = fleet.limits("w1")

    assert [past.tokens for past in history] == sorted({past.tokens for past in history})
    assert len(history) == (LIMITS_KEPT + 50) // 2
    assert (history[-1].tokens, history[-1].reason) == (limit.tokens, "r")
    for version in range(limit.version + 1, limit.version + 2 * LIMITS_KEPT):
        fleet.set_limit("w1", BatchLimit(tokens=version, pairs=8, version=version))
    assert len(fleet.limits("w1")) == LIMITS_KEPT


def test_the_records_of_a_worker_end_with_it(fleet, client, store):
    keys = [store.keys.packs("w1"), store.keys.limit("w1"), store.keys.limits("w1")]
    fleet.set_limit("w1", BatchLimit(tokens=64, pairs=8))
    fleet.push("w1", [observation()])
    assert all(client.pttl(key) > 0 for key in keys)

    # a push keeps it alive
    for key in keys:
        client.pexpire(key, 500)
    fleet.push("w1")
    assert all(client.pttl(key) > 10_000 for key in keys)

    # a worker that leaves, or a new one of its name, ends it
    fleet.forget("w1")
    assert not client.exists(*keys)


def test_a_limit_that_cannot_be_read_is_none(fleet, client, store):
    client.hset(store.keys.limit("w1"), mapping={"tokens": "many", "pairs": 1})

    assert fleet.push("w1") is None
