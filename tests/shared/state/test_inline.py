"""Interactive requests: jobs whose payloads and results are in Redis."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from rerankfleet.shared.errors import (
    KeyConflict,
)
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import ALL, MODEL, claim, inline, open_shards, spec_of
from tests.support.wait import wait_until

pytestmark = pytest.mark.usefixtures("calm")


def test_a_job_with_its_shards_inline_is_born_sealed_and_open(store):
    file = store.inline.put("a", "0-0-10-inline", b"payload", 60)
    store.jobs.create(
        "a",
        spec_of(),
        "",
        deadline_ms=60_000,
        inline_ttl_ms=90_000,
        shards=[OpenShard(0, 10, file)],
    )

    job = store.jobs.get("a")
    assert job.sealed
    assert job.open_shards == 1
    assert job.progress.total == 10
    assert store.jobs.recent() == []
    lease = claim(store)
    assert store.inline.get(lease.file) == b"payload"


def make_inline(store: Store, job_id: str, digest: str = "digest") -> str:
    """A request with a key; the id of the job that it is."""
    return store.jobs.create(
        job_id,
        spec_of(key="mine"),
        digest,
        deadline_ms=60_000,
        inline_ttl_ms=90_000,
        shards=[OpenShard(0, 10, "redis:x")],
    )


def test_a_request_that_is_repeated_is_the_same_job_while_its_answer_lives(store, client):
    # given a request with a key
    assert make_inline(store, "a") == "a"
    # when it is repeated, then it is the same job, in progress or done
    assert make_inline(store, "b") == "a"
    assert open_shards(store, MODEL) == 1
    store.shards.commit(claim(store), "part", ALL)
    assert make_inline(store, "c") == "a"
    # and what makes it so has an end
    assert 0 < client.pttl(store.keys.job_key("mine")) <= 90_000
    # and another one with its key is refused
    with pytest.raises(KeyConflict):
        make_inline(store, "d", "other")


def test_a_request_that_had_no_answer_begins_anew_when_it_is_repeated(store):
    make_inline(store, "a")
    store.jobs.cancel(store.jobs.get("a"))
    assert make_inline(store, "b") == "b"
    # cancelling the first one again takes nothing from the second
    store.jobs.cancel(store.jobs.get("a"))
    assert make_inline(store, "c") == "b"


def test_an_inline_job_ends_with_its_last_commit(store):
    inline(store, "a", (0, 1), (1, 2))
    payloads = [f"redis:a/0-{start}-{start + 1}-inline" for start in (0, 1)]

    assert store.shards.commit(claim(store, shard="0-1"), "redis:a/p0", ALL)[1:] == (False, False)
    assert all(map(store.inline.get, payloads))  # halves of a shard that is split share theirs
    assert not store.jobs.get("a").finished
    assert store.shards.commit(claim(store, shard="1-2"), "redis:a/p1", ALL)[1:] == (False, False)

    assert store.jobs.get("a").finished
    assert not any(map(store.inline.get, payloads))
    assert store.jobs.unfinished() == []
    assert 0 < store.client.ttl(store.keys.job("a")) <= 90
    assert 0 < store.client.ttl(store.keys.job_parts("a")) <= 90


def test_a_small_request_that_is_there_already_leaves_no_second_payload(store):
    spec = spec_of(key="k")
    for job_id, digest in (("a", "same"), ("b", "same"), ("c", "other")):
        shards = [OpenShard(0, 1, store.inline.put(job_id, "0-0-1-inline", b"{}", 60))]
        with nullcontext() if digest == "same" else pytest.raises(KeyConflict):
            id_ = store.jobs.create(job_id, spec, digest, inline_ttl_ms=90_000, shards=shards)
            assert id_ == "a"

    assert store.inline.get("redis:a/0-0-1-inline") == b"{}"
    for job_id in ("b", "c"):
        assert store.inline.get(f"redis:{job_id}/0-0-1-inline") is None


def test_a_commit_does_not_move_the_deadline_of_an_inline_job(store):
    inline(store, "a", (0, 1), (1, 2), deadline_ms=60_000)
    deadline = store.client.zscore(store.keys.jobs, "a")

    store.shards.commit(claim(store, shard="0-1"), "redis:a/p0", ALL)

    assert store.client.zscore(store.keys.jobs, "a") == deadline


def test_a_cancelled_inline_job_is_over_at_once(store):
    inline(store, "a", (0, 1))

    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"

    assert store.jobs.get("a").finished
    assert store.inline.get("redis:a/0-0-1-inline") is None
    assert store.jobs.unfinished() == []
    assert store.client.ttl(store.keys.job("a")) > 0


def test_a_cancellation_whose_reply_was_lost_is_repeated_without_harm(store):
    inline(store, "a", (0, 1))
    job = store.jobs.get("a")

    assert store.jobs.cancel(job) == "cancelled"
    ended = store.client.hgetall(store.keys.job("a"))

    assert store.jobs.cancel(job) == "cancelled"
    assert store.client.hgetall(store.keys.job("a")) == ended


def test_an_inline_payload_ends_with_its_time(store):
    uri = store.inline.put("a", "p", "ü".encode(), 0.01)

    wait_until(lambda: store.inline.get(uri) is None)
