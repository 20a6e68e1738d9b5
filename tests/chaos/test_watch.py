"""Recovery times: from a worker's death to the commits after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from rerankfleet.chaos.report import summary
from rerankfleet.chaos.watch import Watch
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import ALL, MODEL, open_, run_out, spec_of

PID = 4711


@pytest.fixture
def watch(client: redis.Redis, store: Store) -> Iterator[Watch]:
    """One that looks when it is told to, at a job of three shards."""
    store.jobs.create("a", spec_of(), "digest")
    shards = [OpenShard(n, n + 10, f"0-{n}-{n + 10}-x") for n in (0, 10, 20)]
    assert open_(store, "a", "", "1", shards, sealed=True) == "opened"
    yield Watch(client, store.keys)
    client.delete(*client.scan_iter(match=f"{store.keys.prefix}:*"))


def claim(store: Store, shard: str, pid: int, token: str) -> Lease:
    lease = store.shards.claim(
        "a", MODEL, shard, token=token, worker=f"h:cpu:{pid}", alone=True, fingerprint="f"
    )
    assert isinstance(lease, Lease)
    return lease


def test_the_next_commit_and_that_of_the_lost_shard_are_told_apart(
    watch: Watch, store: Store
) -> None:
    # given a worker with one shard, and another worker with another
    lost, other = claim(store, "0-10", PID, "t1"), claim(store, "10-20", 1, "t2")
    watch.look()
    # when the first is killed and the other one commits
    watch.killed(PID)
    store.shards.commit(other, "part", ALL)
    watch.look()
    # then somebody's next commit was seen, and not that of the lost shard
    assert len(watch.times.next_commit) == 1
    assert watch.times.lost_shard == []
    # and when a third one commits that, it was seen too
    run_out(store, lost)
    store.shards.commit(claim(store, "0-10", 2, "t3"), "part", ALL)
    watch.look()
    assert len(watch.times.lost_shard) == 1
    assert watch.times.lost_shard[0] >= watch.times.next_commit[0]


def test_a_shard_that_somebody_cancelled_has_not_recovered(watch: Watch, store: Store) -> None:
    claim(store, "0-10", PID, "t1")
    watch.look()
    watch.killed(PID)
    store.jobs.cancel(store.jobs.get("a"))
    watch.look()
    assert watch.times.lost_shard == watch.times.next_commit == []


def test_how_often_each_shard_was_begun_is_counted(watch: Watch, store: Store) -> None:
    first = claim(store, "0-10", PID, "t1")
    watch.look()
    run_out(store, first)
    store.shards.commit(claim(store, "0-10", 1, "t2"), "part", ALL)
    claim(store, "10-20", 1, "t3")
    watch.look()
    watch.close()
    # the first was begun twice, of which one was seen; one is begun; one is not
    assert dict(watch.claims) == {1: 2}


def test_times_are_summed_up() -> None:
    assert summary([]) == {"count": 0}
    assert summary([3.0, 1.0, 2.0]) == {"count": 3, "median_s": 2.0, "p95_s": 3.0, "max_s": 3.0}
