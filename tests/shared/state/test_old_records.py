"""Records of shards that version 0.1 wrote, with one letter per field, are read by every script."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import ALL, MODEL, claim, open_, run_out

pytestmark = pytest.mark.usefixtures("calm")

FILE = "0-0-10-x"
LETTERS = {
    "file": "f",
    "token": "t",
    "worker": "w",
    "claimed_ms": "c",
    "queued_ms": "q",
    "suspect": "s",
    "alone": "a",
    "deaths": "d",
}


def record(store: Store, shard: str = "0-10") -> dict[str, Any] | None:
    text = store.client.hget(store.keys.job_open("a"), shard)
    return text and json.loads(text)


def make_old(store: Store, **changes: Any) -> None:
    """Write the shard's record as version 0.1 would have."""
    fields = {**(record(store) or {}), **changes}
    assert fields
    old = {LETTERS[name]: value for name, value in fields.items()}
    store.client.hset(store.keys.job_open("a"), "0-10", json.dumps(old))


@pytest.fixture
def held(store: Store, make) -> Lease:
    """A lease on the only shard of a job, whose record is an old one."""
    make("a", (0, 10))
    lease = claim(store)
    assert isinstance(lease, Lease)
    make_old(store)
    return lease


def test_an_old_record_is_claimed_and_becomes_a_new_one(store, make):
    make("a", (0, 10))
    make_old(store)

    lease = claim(store)

    assert isinstance(lease, Lease)
    assert lease.file == FILE
    written = record(store)
    assert written.keys() == {"file", "token", "worker", "claimed_ms", "queued_ms"}
    assert (written["file"], written["token"], written["worker"]) == (FILE, "t1", "w")


def test_the_holder_of_an_old_record_claims_it_again(store, held):
    claimed_ms = record(store)["c"]

    assert claim(store) == held
    assert claim(store, token="other") == "busy"
    assert record(store)["claimed_ms"] == claimed_ms


def test_an_old_lease_that_ran_out_blames_its_shard(store, held):
    run_out(store, held)

    assert claim(store, token="other") == "suspect"
    assert record(store) | {"queued_ms": 0, "claimed_ms": 0} == {
        "file": FILE,
        "suspect": 1,
        "queued_ms": 0,
        "claimed_ms": 0,
    }


def test_an_old_lease_is_renewed(store, held):
    stranger = Lease("a", MODEL, "0-10", "other", FILE)

    assert store.shards.renew([held, stranger]) == ["ok", "lost"]


def test_an_old_record_is_committed(store, held):
    stale = Lease("a", MODEL, "0-10", "t1", "another-file")

    assert store.shards.commit(stale, "p", ALL)[0] == "late"
    assert store.shards.commit(held, "p", ALL) == ("committed", False, True)
    assert store.jobs.get("a").progress.scored == 10
    assert record(store) is None


def test_an_old_lease_is_released(store, held):
    assert not store.shards.release(Lease("a", MODEL, "0-10", "other", FILE))
    assert store.shards.release(held)

    assert isinstance(claim(store, token="other"), Lease)


def test_an_old_suspect_is_split_into_new_records(store, make):
    make("a", (0, 10))
    make_old(store, suspect=1, deaths=1)

    assert claim(store, alone=True) == "split"
    assert store.shards.split("a", MODEL, "0-10") == ["0-5", "5-10"]
    assert record(store, "0-5") == record(store, "5-10") == {"file": FILE, "suspect": 1}


def test_an_old_lease_is_not_split(store, held):
    store.client.hset(store.keys.job_open("a"), "0-10", json.dumps(record(store) | {"s": 1}))

    assert store.shards.split("a", MODEL, "0-10") == []


def test_an_old_record_of_a_cancelled_job_keeps_its_file(store, held):
    assert store.jobs.cancel(store.jobs.get("a")) == "cancelled"

    assert store.jobs.parts("a") == [(0, 10, f"!{FILE}")]
    assert store.jobs.get("a").progress.cancelled == 10


def test_who_holds_an_old_record_may_pause_its_job(store, held):
    job, stranger = store.jobs.get("a"), Lease("a", MODEL, "0-10", "other", FILE)

    assert store.jobs.pause(job, "why", lease=stranger) == "lost"
    assert store.jobs.pause(job, "why", lease=held) == "paused"


def test_resuming_voids_an_old_lease(store, held):
    store.jobs.pause(store.jobs.get("a"), "why")

    assert store.jobs.resume(store.jobs.get("a")) == ("resumed", ["0-10"])
    assert record(store).keys() == {"file", "claimed_ms", "queued_ms"}
    assert store.shards.renew([held]) == ["lost"]
    assert isinstance(claim(store, token="other"), Lease)


def test_old_and_new_records_stand_side_by_side(store, make):
    make("a", (0, 10), sealed=False)
    make_old(store)
    open_(store, "a", "1", "2", [OpenShard(10, 20, "0-10-20-x")], sealed=True)

    for shard, token in (("0-10", "t1"), ("10-20", "t2")):
        assert (
            store.shards.commit(claim(store, shard=shard, token=token), "p", ALL)[0] == "committed"
        )
