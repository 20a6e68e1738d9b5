"""Shards: opened, claimed, renewed, committed, released."""

from __future__ import annotations

import time

import pytest

from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import (
    ALL,
    MODEL,
    claim,
    end_job,
    leased_shards,
    open_,
    open_shards,
    run_out,
    spec_of,
)
from tests.support.wait import patient, wait_until

pytestmark = pytest.mark.usefixtures("calm")


# ---- opened --------------------------------------------------------------------------------------


def test_of_two_feeders_exactly_one_wins(store):
    store.jobs.create("a", spec_of(), "digest")

    first = open_(store, "a", "", "1", [OpenShard(0, 10, "0-0-10-x")])
    second = open_(store, "a", "", "1", [OpenShard(0, 10, "0-0-10-y")])

    assert (first, second) == ("opened", "stale")
    assert store.jobs.get("a").number("fed") == 10
    assert claim(store).file == "0-0-10-x"


@pytest.mark.parametrize("sealed", [False, True], ids=["shards", "the end"])
def test_a_feeder_that_froze_before_a_retry_opens_nothing_after_it(store, make, sealed):
    """The next round reads the same input, so its cursor comes by the same places."""
    make("a", (0, 10), sealed=False)
    old = store.jobs.get("a")
    store.jobs.cancel(old)
    open_(store, "a", "1", "2", sealed=True)
    end_job(store, "a")
    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"
    open_(store, "a", "", "1", [OpenShard(0, 10, "1-0-10-x")])

    late = [] if sealed else [OpenShard(10, 20, "0-10-20-x")]
    answer = store.shards.open(old, ("1", "2"), late, sealed=sealed, lines=1, low_water=1)

    assert answer == ("stale", 0)
    assert not store.jobs.get("a").sealed
    assert store.jobs.get("a").number("fed") == 10


def test_sealing_sets_the_total(store, make):
    make("a", (0, 10), sealed=False)
    assert store.jobs.get("a").progress.total is None

    assert open_(store, "a", "1", "2", [OpenShard(10, 25, "f")], sealed=True) == "opened"

    assert store.jobs.get("a").progress.total == 25
    assert store.jobs.get("a").progress.lines == 2


def test_nothing_is_opened_while_a_job_is_paused(store, make):
    make("a", (0, 10), sealed=False)
    store.jobs.pause(store.jobs.get("a"), "why")

    assert open_(store, "a", "1", "2", [OpenShard(10, 20, "f")]) == "paused"
    assert store.jobs.get("a").facts["cursor"] == "1"


def test_what_is_cut_of_a_cancelled_job_is_cancelled_at_once(store, make):
    make("a", (0, 10), sealed=False)
    store.jobs.cancel(store.jobs.get("a"))

    assert open_(store, "a", "1", "2", [OpenShard(10, 25, "0-10-25-x")], sealed=True) == "opened"

    assert store.jobs.get("a").open_shards == 0
    assert store.jobs.get("a").progress.cancelled == 25
    assert store.jobs.parts("a") == [(0, 10, "!0-0-10-x"), (10, 25, "!0-10-25-x")]


# ---- claimed, renewed, committed, released -------------------------------------------------------


def test_a_claim_is_granted_once_and_its_repetition_gets_the_same_answer(store, make):
    make("a", (0, 10))

    mine = claim(store, token="mine")
    again = claim(store, token="mine")
    other = claim(store, token="other")

    assert mine == again == Lease("a", MODEL, "0-10", "mine", "0-0-10-x", worker="w")
    assert other == "busy"
    assert leased_shards(store, MODEL) == 1
    assert store.shards.due(MODEL, 9) == []


def test_a_claim_reports_how_long_its_shard_waited(store, make, client):
    # given a shard that was put into the queue 40 s ago
    make("a", (0, 10))
    client.zadd(store.keys.open(MODEL), {"a/0-10": store.now_ms() - 40_000})
    # when it is claimed, and the answer is lost
    mine = claim(store, token="mine")
    again = claim(store, token="mine")
    # then both answers report its wait
    assert 40 <= mine.waited_s == again.waited_s < 60
    # and of one that was released, only the wait since then
    store.shards.release(mine)
    assert claim(store, token="next").waited_s < 20


def test_a_shard_of_no_job_is_done(store):
    assert claim(store, "nobody") == "done"


@pytest.mark.parametrize("record", ["", "no record", "[1]", "null", "7", "{}", '{"file": 3'])
def test_a_record_that_is_none_is_claimed_without_a_file(store, make, record):
    # given a shard whose record somebody else wrote
    make("a", (0, 10), (10, 20))
    store.client.hset(store.keys.job_open("a"), "0-10", record)
    # then its worker finds no file, and can say so; the other one is not disturbed
    assert claim(store, shard="0-10").file == ""
    assert claim(store, shard="10-20", token="t2").file
    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"


def test_what_is_no_shard_does_not_wait_for_ever(store, make):
    make("a", (0, 10))
    store.client.zadd(store.keys.open(MODEL), {"none": 0, "../x/0-1": 0, "a/x-y": 0, "/": 0})
    assert store.shards.due(MODEL, 10) == [("a", "0-10")]
    assert store.client.zrange(store.keys.open(MODEL), 0, -1) == ["a/0-10"]


def test_a_job_goes_on_only_with_the_weights_that_began_it(store, make):
    make("a", (0, 10), (10, 20))
    claim(store, shard="0-10", fingerprint="one")

    assert claim(store, shard="10-20", fingerprint="two") == "newer"
    assert isinstance(claim(store, shard="10-20", fingerprint="one"), Lease)


def test_renewal_prolongs_a_lease_and_reports_what_became_of_others(store, make):
    for job_id in "abcd":
        make(job_id, (0, 10))
    leases = [claim(store, job_id) for job_id in "abcd"]
    store.jobs.cancel(store.jobs.get("b"))
    store.jobs.pause(store.jobs.get("c"), "why")
    store.shards.commit(leases[3], "part", ALL)
    before = store.client.zscore(store.keys.open(MODEL), "a/0-10")
    store.client.zadd(store.keys.open(MODEL), {"a/0-10": before - 2000})

    assert store.shards.renew(leases) == ["ok", "cancelled", "paused", "lost"]
    assert store.client.zscore(store.keys.open(MODEL), "a/0-10") >= before
    assert store.shards.renew([]) == []


def test_a_lease_that_another_worker_took_over_is_lost(store, make):
    make("a", (0, 10))
    first = claim(store, token="first")
    run_out(store, first)
    second = claim(store, token="second", alone=True)

    assert store.shards.renew([first, second]) == ["lost", "ok"]


def test_a_lease_runs_out_by_the_servers_clock(client, change, make):
    store = Store(client, change(lease_s=0.1))
    make("a", (0, 10))
    claim(store, token="first")
    assert claim(store, token="second", alone=True) == "busy"

    lease = wait_until(lambda: isinstance(claim(store, token="second", alone=True), Lease))

    assert lease


@pytest.mark.parametrize("off_s", [-86_400, 86_400], ids=["slow", "fast"])
def test_no_clock_but_the_servers_is_asked(store, make, monkeypatch, off_s):
    # given a process whose clock is a day off
    make("a", (0, 10))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + off_s)
    # when it claims, renews and asks for what is due
    lease = claim(store, token="first")
    assert store.shards.renew([lease]) == ["ok"]
    # then its lease is as long as anybody's
    assert store.shards.due(MODEL, 9) == []
    assert claim(store, token="second") == "busy"
    left_ms = store.client.zscore(store.keys.open(MODEL), "a/0-10") - store.now_ms()
    assert 0 < left_ms <= patient(5) * 1000
    # and the coordinator's step too
    assert store.jobs.begin_step("a", "one") == "yes"
    assert store.jobs.begin_step("a", "two") == "busy"


def test_a_commit_removes_the_shard_and_adds_its_counts(store, make):
    make("a", (0, 10), (10, 20))
    lease = claim(store)

    answer = store.shards.commit(
        lease, "part1", ShardSummary(scored=7, errors=3, tokens=99, truncated=2)
    )

    assert answer == ("committed", False, False)
    job = store.jobs.get("a")
    assert (job.progress.scored, job.progress.errors, job.progress.done) == (7, 3, 10)
    assert (job.progress.tokens, job.progress.truncated) == (99, 2)
    assert store.jobs.parts("a") == [(0, 10, "part1")]
    assert open_shards(store, MODEL) == 1
    assert claim(store) == "done"


def test_the_last_commit_of_a_sealed_job_asks_for_its_finish(store, make):
    make("a", (0, 10), (10, 20))

    assert store.shards.commit(claim(store, shard="10-20"), "p", ALL) == ("committed", False, False)
    assert store.shards.commit(claim(store, shard="0-10"), "p", ALL) == ("committed", False, True)


def test_a_commit_below_low_water_asks_for_more(store):
    store.jobs.create("a", spec_of(), "digest")
    shards = [OpenShard(i, i + 1, "f") for i in range(3)]
    open_(store, "a", "", "1", shards, low_water=1)

    assert store.shards.commit(claim(store, shard="0-1"), "p", ALL)[1] is False
    assert store.shards.commit(claim(store, shard="1-2"), "p", ALL)[1] is True


def test_a_repeated_commit_is_committed_and_counted_once(store, make):
    make("a", (0, 10), (10, 20))
    lease = claim(store)

    first, again = (
        store.shards.commit(lease, "part1", ALL),
        store.shards.commit(lease, "part1", ALL),
    )

    assert first[0] == again[0] == "committed"
    assert store.jobs.get("a").progress.scored == 10


def test_the_first_commit_wins_even_when_its_lease_was_lost(store, make):
    """Given a worker that was thought dead, and its shard with another one."""
    make("a", (0, 10), (10, 20))
    zombie = claim(store, token="zombie")
    run_out(store, zombie)
    heir = claim(store, token="heir", alone=True)

    assert store.shards.commit(zombie, "of-zombie", ALL)[0] == "committed"
    assert store.shards.commit(heir, "of-heir", ALL)[0] == "late"
    assert store.jobs.parts("a") == [(0, 10, "of-zombie")]
    assert store.jobs.get("a").progress.scored == 10


def test_a_commit_from_before_a_retry_does_not_touch_the_new_round(store, make):
    """The same range names other items then."""
    make("a", (0, 10))
    zombie = claim(store, token="zombie")
    run_out(store, zombie)
    store.shards.commit(
        claim(store, token="heir", alone=True), "p", ShardSummary(scored=5, errors=5)
    )
    end_job(store, "a")
    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"
    open_(store, "a", "", "1", [OpenShard(0, 10, "1-0-10-y")])

    assert store.shards.commit(zombie, "of-zombie", ALL)[0] == "late"
    assert store.jobs.get("a").open_shards == 1


def test_a_released_shard_is_free_at_once_and_blames_nobody(store, make):
    make("a", (0, 10))
    lease = claim(store, token="first")

    assert store.shards.release(lease)
    assert not store.shards.release(lease)
    assert store.shards.due(MODEL, 9) == [("a", "0-10")]
    assert isinstance(claim(store, token="second"), Lease)


def test_only_the_holder_can_release(store, make):
    make("a", (0, 10))
    lease = claim(store, token="first")

    stranger = Lease("a", MODEL, "0-10", "stranger", lease.file)

    assert not store.shards.release(stranger)
    assert claim(store, token="other") == "busy"


def test_what_a_job_waited_for_is_forgotten_once_it_goes_on(store, make):
    make("a", (0, 10), sealed=False)
    store.jobs.set_facts("a", waiting_for="the disk is full")
    store.shards.commit(claim(store), "p", ALL)
    assert "waiting_for" not in store.jobs.get("a").facts

    store.jobs.set_facts("a", waiting_for="the disk is full")
    open_(store, "a", "1", "2", sealed=True)
    assert "waiting_for" not in store.jobs.get("a").facts

    store.jobs.set_facts("a", waiting_for="the disk is full")
    end_job(store, "a")
    assert "waiting_for" not in store.jobs.get("a").facts
