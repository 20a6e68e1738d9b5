"""Jobs that are paused, resumed and cancelled, and their shards."""

from __future__ import annotations

import pytest

from rerankfleet.shared.errors import (
    UnknownJob,
)
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease
from tests.support.records import ALL, MODEL, claim, die_with, open_shards

pytestmark = pytest.mark.usefixtures("calm")


def test_a_paused_job_waits_and_shards_in_progress_may_still_be_committed(store, make):
    make("a", (0, 10), (10, 20))
    lease = claim(store)

    assert store.jobs.pause(store.jobs.get("a"), "lunch") == "paused"

    assert store.jobs.get("a").paused == "lunch"
    assert open_shards(store, MODEL) == 0
    assert claim(store, shard="10-20") == "paused"
    assert store.shards.commit(lease, "p", ALL)[0] == "committed"
    assert store.jobs.resume(store.jobs.get("a")) == ("resumed", ["10-20"])
    assert store.shards.due(MODEL, 9) == [("a", "10-20")]
    assert store.jobs.resume(store.jobs.get("a")) == ("running", [])


def test_a_lease_from_before_a_pause_is_void_and_blames_nobody(store, make):
    make("a", (0, 10))
    old = claim(store, token="old")
    store.jobs.pause(store.jobs.get("a"), "why")

    store.jobs.resume(store.jobs.get("a"))

    assert store.shards.renew([old]) == ["lost"]
    assert isinstance(claim(store, token="new"), Lease)


def test_only_who_holds_a_shard_may_pause_the_job_for_it(store, make):
    make("a", (0, 10))
    old = claim(store, token="old")
    assert (
        store.jobs.pause(store.jobs.get("a"), "the credentials are refused", lease=old) == "paused"
    )
    store.jobs.resume(store.jobs.get("a"))
    # what failed before the resume is no reason any more
    assert store.jobs.pause(store.jobs.get("a"), "the credentials are refused", lease=old) == "lost"
    assert store.jobs.get("a").paused is None

    assert store.jobs.pause(store.jobs.get("a"), "why", lease=claim(store, token="new")) == "paused"


def test_a_shard_released_during_a_pause_comes_back_with_the_resume(store, make):
    make("a", (0, 10))
    lease = claim(store)
    store.jobs.pause(store.jobs.get("a"), "why")

    assert store.shards.release(lease)
    assert store.shards.due(MODEL, 9) == []

    store.jobs.resume(store.jobs.get("a"))
    assert store.shards.due(MODEL, 9) == [("a", "0-10")]


def test_a_shard_that_is_split_during_a_pause_waits_for_the_resume(store, make):
    # given a worker that was told to split a shard, and a pause before it does
    make("a", (0, 10))
    die_with(store, "a", "0-10", alone=False)
    die_with(store, "a", "0-10", alone=True)
    assert claim(store, alone=True) == "split"
    store.jobs.pause(store.jobs.get("a"), "why")

    assert store.shards.split("a", MODEL, "0-10") == ["0-5", "5-10"]

    assert open_shards(store, MODEL) == 0
    assert store.jobs.resume(store.jobs.get("a"))[0] == "resumed"
    assert sorted(store.shards.due(MODEL, 9)) == [("a", "0-5"), ("a", "5-10")]


def test_a_resume_whose_reply_was_lost_is_repeated_without_harm(store, make):
    make("a", (0, 10))
    store.jobs.pause(store.jobs.get("a"), "why")
    paused = store.jobs.get("a")

    assert store.jobs.resume(paused) == ("resumed", ["0-10"])
    assert store.jobs.resume(paused) == ("resumed", [])


def test_cancelling_keeps_what_was_scored_and_counts_the_rest(store, make):
    make("a", (0, 10), (10, 25))
    lease = claim(store)
    store.shards.commit(claim(store, shard="10-25"), "p", ShardSummary(scored=15))

    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"
    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"

    assert claim(store) == "done"
    assert store.shards.commit(lease, "late", ALL)[0] == "late"
    progress = store.jobs.get("a").progress
    assert (progress.scored, progress.cancelled, progress.done) == (15, 10, 25)
    assert open_shards(store, MODEL) == 0
    assert store.jobs.due() == ["a"]


def test_a_paused_job_can_be_cancelled_and_a_cancelled_one_not_paused(store, make):
    make("a", (0, 10))
    store.jobs.pause(store.jobs.get("a"), "why")

    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"
    assert store.jobs.get("a").paused is None
    assert store.jobs.pause(store.jobs.get("a"), "why") == "cancelled"
    assert store.jobs.resume(store.jobs.get("a")) == ("running", [])


def test_verbs_on_a_job_that_is_gone_say_so(store, make):
    with pytest.raises(UnknownJob, match="there is no job x"):
        store.jobs.get("x")
    # given a job that was read before it was removed
    make("a", (0, 10))
    job = store.jobs.get("a")
    store.client.delete(store.keys.job("a"))
    assert store.jobs.cancel(job) == "gone"
    assert store.jobs.pause(job, "") == "gone"
    assert store.jobs.resume(job) == ("gone", [])
    assert store.jobs.retry(job, "all") == "gone"
