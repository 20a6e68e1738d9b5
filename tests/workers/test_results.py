"""A shard's part is complete in storage before its commit, and the commit hints what comes next."""

from __future__ import annotations

import threading

import pytest
import redis

from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.formats.shard_files import load_part, parse_part, shard_uri
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.workers import results
from tests.support.fleet import MODEL, PROVENANCE

OUTCOMES = [SliceOutcome(line=1, results=[Scored(index=0, margin=1.0)])]
ONE = ShardSummary(scored=1)


@pytest.fixture
def lease(store) -> Lease:
    """The only shard of a job that still has input to be cut."""
    spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"))
    store.jobs.create("j", spec, "digest")
    shards = [OpenShard(0, 1, "0-0-1-x")]
    store.shards.open(store.jobs.get("j"), ("", "1"), shards, sealed=False, lines=1, low_water=2)
    return store.shards.claim(
        "j", MODEL, "0-1", token="t", worker="w", alone=False, fingerprint="f"
    )


def test_every_attempt_has_a_part_of_its_own(lease, objects, store):
    objects.write(shard_uri(objects, "j", lease.file), b"")
    parts = [results.write(OUTCOMES, PROVENANCE, lease, objects, store, 60) for _ in range(2)]

    assert parts[0] != parts[1]
    for part in parts:
        assert list(load_part(objects, "j", 0, part)) == [(OUTCOMES[0], PROVENANCE)]


def test_an_inline_part_stays_in_redis_for_its_time(store, objects):
    lease = Lease("j", MODEL, "0-1", "t", file="redis:j/0-0-1-inline")

    part = results.write(OUTCOMES, PROVENANCE, lease, objects, store, 60)

    assert part.startswith("redis:j/part-0-")
    assert parse_part(objects.read(part)) == (OUTCOMES, PROVENANCE)


def test_a_commit_below_low_water_hints_a_feed(lease, store, hints):
    assert results.commit(lease, "p", ONE, store, hints)
    assert hints.take() == [("feed", "j")]


def test_the_last_commit_hints_the_finish(lease, store, hints):
    store.shards.open(store.jobs.get("j"), ("1", "1"), [], sealed=True, lines=0, low_water=0)

    assert results.commit(lease, "p", ONE, store, hints)

    assert hints.take() == [("finish", "j")]


def test_a_late_commit_says_so(lease, store, hints):
    results.commit(lease, "p", ONE, store, hints)

    assert not results.commit(lease, "other", ONE, store, hints)


def test_a_commit_outlives_a_redis_that_is_away(lease, store, hints, monkeypatch):
    """Given a Redis that commits, loses its reply, and is away once more."""
    commit, calls = store.shards.commit, []

    def unreliable(*args):
        calls.append(args)
        if len(calls) == 1:
            commit(*args)
        if len(calls) < 3:
            raise redis.ConnectionError("away")
        return commit(*args)

    monkeypatch.setattr(store.shards, "commit", unreliable)
    monkeypatch.setattr(results, "REDIS_BACKOFF_S", 0)

    assert results.commit(lease, "p", ONE, store, hints, threading.Event())

    assert store.jobs.get("j").number("scored") == 1


def test_a_stopped_commit_stops_waiting(lease, store, hints, monkeypatch):
    def away(*_):
        raise redis.ConnectionError("away")

    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(store.shards, "commit", away)

    with pytest.raises(redis.ConnectionError):
        results.commit(lease, "p", ONE, store, hints, stop)
