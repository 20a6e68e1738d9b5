"""Which shard is to blame when a worker dies, and when none is."""

from __future__ import annotations

import pytest

from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease
from rerankfleet.shared.state.shards import LEFT, OUTAGE_MS
from tests.support.records import MODEL, claim, die_with, open_shards, run_out

pytestmark = pytest.mark.usefixtures("calm")


def test_a_shard_whose_lease_ran_out_is_for_a_worker_that_holds_nothing_else(store, make):
    make("a", (0, 10))
    die_with(store, "a", "0-10", alone=False)

    assert store.coordination.event_count(LEFT) == 0
    assert claim(store, token="second") == "suspect"
    assert store.coordination.event_count(LEFT) == 1
    assert isinstance(claim(store, token="second", alone=True), Lease)


def test_a_worker_that_is_known_to_be_gone_leaves_suspects_at_once(store, make):
    # given two workers
    make("a", (0, 10), (10, 20), (20, 30))
    kept = claim(store, shard="20-30", token="kept")
    store.client.hset(
        store.keys.job_open("a"), "20-30", '{"file":"f","token":"kept","worker":"other"}'
    )
    for shard in ("0-10", "10-20"):
        claim(store, shard=shard, token=shard)
    # when it is told that one is gone, twice
    assert store.shards.end_leases(MODEL, "w") == 2
    assert store.shards.end_leases(MODEL, "nobody") == 0
    # then its shards are as if their leases had run out, those of the other are its own
    due = store.shards.due(MODEL, 9)
    assert set(due) == {("a", "0-10"), ("a", "10-20")}
    assert store.shards.abandoned(due) == set(due)
    assert claim(store, token="second") == "suspect"
    assert store.coordination.event_count(LEFT) == 1
    assert store.shards.renew([kept]) == ["ok"]
    assert claim(store, shard="20-30", token="second") == "busy"


def test_dying_alone_with_a_suspect_splits_it(store, make):
    make("a", (0, 10))
    die_with(store, "a", "0-10", alone=False)
    die_with(store, "a", "0-10", alone=True)

    assert claim(store, token="third", alone=True) == "split"
    assert store.shards.split("a", MODEL, "0-10") == ["0-5", "5-10"]

    assert store.shards.split("a", MODEL, "0-10") == []
    assert claim(store, token="third") == "done"
    assert claim(store, shard="0-5") == "suspect"
    half = claim(store, shard="5-10", alone=True)
    assert half.file == "0-0-10-x"
    assert open_shards(store, MODEL) == 2


def test_a_shard_that_nobody_blames_is_never_split(store, make):
    make("a", (0, 10))
    assert store.shards.split("a", MODEL, "0-10") == []
    claim(store)
    assert store.shards.split("a", MODEL, "0-10") == []
    assert store.shards.split("a", MODEL, "90-99") == []


def test_a_suspect_is_not_split_before_a_worker_died_with_it_alone(store, make):
    """Whoever was told to split it may be late, and mean an older shard of that name."""
    make("a", (0, 10))
    die_with(store, "a", "0-10", alone=False)
    assert claim(store, token="second") == "suspect"

    assert store.shards.split("a", MODEL, "0-10") == []
    assert isinstance(claim(store, token="second", alone=True), Lease)


def test_a_single_pair_that_kills_its_worker_twice_alone_is_poison(store, make):
    make("a", (3, 4))
    die_with(store, "a", "3-4", alone=False)
    die_with(store, "a", "3-4", alone=True)
    die_with(store, "a", "3-4", alone=True)

    lease = claim(store, shard="3-4", token="last")

    assert lease.poison
    assert store.shards.commit(lease, "p", ShardSummary(errors=1)) == ("committed", False, True)


def test_of_a_large_shard_only_the_poisonous_pair_is_lost(store, make):
    """Whatever holds item 5 kills its worker; all others are committed."""
    make("a", (0, 8))
    todo, poisoned = ["0-8"], []
    for turn in range(100):
        if not todo:
            break
        shard = todo.pop(0)
        first, last = map(int, shard.split("-"))
        lease = claim(store, shard=shard, token=f"t{turn}")
        if lease == "suspect":
            lease = claim(store, shard=shard, token=f"t{turn}", alone=True)
        if lease == "split":
            todo += store.shards.split("a", MODEL, shard)
        elif lease.poison:
            poisoned.append(shard)
            store.shards.commit(lease, "p", ShardSummary(errors=1))
        elif first <= 5 < last:
            run_out(store, lease)
            todo.append(shard)
        else:
            store.shards.commit(lease, "p", ShardSummary(scored=last - first))

    assert poisoned == ["5-6"]
    assert store.jobs.get("a").progress.scored == 7
    assert store.jobs.get("a").progress.errors == 1
    assert [end for _, end, _ in store.jobs.parts("a")][-1] == 8


def test_a_lease_that_ran_out_while_the_coordinator_was_away_blames_nobody(store, make):
    make("a", (0, 10))
    lease = claim(store, token="first")
    run_out(store, lease)
    store.client.set(store.keys.pulse, store.now_ms() - OUTAGE_MS - 1)

    assert isinstance(claim(store, token="second"), Lease)


def test_after_an_outage_leases_get_time_to_be_renewed(store, make):
    make("a", (0, 10))
    lease = claim(store, token="first")
    store.client.set(store.keys.pulse, store.now_ms() - OUTAGE_MS - 1)

    assert store.coordination.pulse()
    assert not store.coordination.pulse()
    run_out(store, lease)

    assert isinstance(claim(store, token="second"), Lease)


def test_a_worker_with_other_weights_does_not_make_an_outage_a_death(store, make):
    # given a lease that ran out in an outage
    make("a", (0, 10))
    lease = claim(store, token="first")
    store.client.set(store.keys.pulse, store.now_ms() - OUTAGE_MS - 1)
    run_out(store, lease)
    # when a worker looks at its shard that cannot serve it, and the outage is over
    assert claim(store, token="second", fingerprint="other") == "newer"
    store.coordination.pulse()
    store.client.set(store.keys.amnesty, 0)
    # then it is free for all that can
    assert isinstance(claim(store, token="third"), Lease)


def test_a_worker_with_other_weights_does_not_prolong_a_lease_that_ran_out(store, make):
    make("a", (0, 10))
    lease = claim(store, token="first")
    run_out(store, lease)

    assert claim(store, token="second", fingerprint="other") == "newer"

    assert claim(store, token="third") == "suspect"
    assert isinstance(claim(store, token="third", alone=True), Lease)
