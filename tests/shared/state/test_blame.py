"""Which shard is to blame when a worker dies, and when none is."""

from __future__ import annotations

import uuid

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.shards import LEFT, OUTAGE_MS
from rerankfleet.shared.state.store import Store
from tests.support.poison import deaths_max
from tests.support.records import (
    MODEL,
    claim,
    die_with,
    open_,
    open_shards,
    run_out,
    spec_of,
)

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


def isolate(store: Store, items: int, poison: set[int]) -> tuple[int, set[int]]:
    """Workers try a shard until all is done, and whoever has a poison pair in hand dies. Returns
    how many died, and which items were given up."""
    todo, given_up, deaths = [f"0-{items}"], set(), 0
    while todo:
        shard = todo.pop(0)
        first, last = shard_range(shard)
        lease = claim(store, shard=shard, token=uuid.uuid4().hex)
        if lease == "suspect":
            lease = claim(store, shard=shard, token=uuid.uuid4().hex, alone=True)
        if lease == "split":
            todo += store.shards.split("a", MODEL, shard)
        elif lease.poison:
            given_up.add(first)
            store.shards.commit(lease, "p", ShardSummary(errors=1))
        elif poison & set(range(first, last)):
            run_out(store, lease)
            todo.append(shard)
            deaths += 1
        else:
            store.shards.commit(lease, "p", ShardSummary(scored=last - first))
    return deaths, given_up


@pytest.mark.parametrize(
    ("items", "poison"),
    [(1, {0}), (8, {5}), (100, {99}), (8, {0, 7}), (8, {3, 4}), (9, set(range(9)))],
    ids=["alone", "one", "in a hundred", "at both ends", "two together", "all"],
)
def test_only_poison_pairs_are_given_up_after_few_deaths(store, make, items, poison):
    make("a", (0, items))

    deaths, given_up = isolate(store, items, poison)

    assert given_up == poison
    progress = store.jobs.get("a").progress
    assert (progress.scored, progress.errors) == (items - len(poison), len(poison))
    assert deaths <= deaths_max(items, len(poison))
    if len(poison) in (1, items):
        assert deaths == deaths_max(items, len(poison))


@given(data=st.data(), items=st.integers(1, 40))
def test_the_deaths_are_bounded_wherever_poison_is(settings, client, data, items):
    client.flushall()
    store = Store(client, settings)
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    poison = data.draw(st.sets(st.integers(0, items - 1)))
    store.jobs.create("a", spec_of(), "digest")
    open_(store, "a", "", "1", [OpenShard(0, items, "f")], sealed=True)

    deaths, given_up = isolate(store, items, poison)

    assert given_up == poison
    assert deaths <= deaths_max(items, len(poison))


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
