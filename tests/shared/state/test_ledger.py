"""The ledger of the storage: what is reserved, kept, counted, and what lapses."""

from __future__ import annotations

import threading

import pytest

from rerankfleet.shared.errors import WrongState
from rerankfleet.shared.state.ledger import EXPIRE_TOGETHER_S
from tests.support.records import end_job, open_, spec_of

LEASE_MS = 60_000


@pytest.fixture
def reserve(store):
    """`reserve("id", 10)`: the answer, with a quota of 100 bytes."""

    def ask(id_, size, kind="uploads", *, begins=True, bytes_max=100, lease_ms=LEASE_MS) -> str:
        return store.ledger.reserve(
            kind, id_, size, lease_ms=lease_ms, bytes_max=bytes_max, begins=begins
        )[0]

    return ask


def test_nobody_passes_the_quota(store, reserve):
    assert [reserve("a", 60), reserve("b", 41), reserve("b", 40)] == [
        "reserved",
        "full",
        "reserved",
    ]
    assert store.ledger.used("uploads") == 100
    # what is full admits nothing, however small, and lets nothing grow
    assert reserve("c", 0) == "full"
    assert reserve("a", 61, begins=False) == "full"
    # but goes on with what it has, and makes room again
    assert reserve("a", 60, begins=False) == "reserved"
    store.ledger.drop("uploads", "b")
    assert [reserve("c", 0), reserve("a", 100, begins=False)] == ["reserved", "reserved"]


def test_without_a_quota_there_is_room(store, reserve):
    assert reserve("a", 1 << 50, bytes_max=0) == "reserved"
    assert store.ledger.used("uploads") == 1 << 50


def test_writers_at_once_do_not_pass_the_quota_together(store, reserve):
    answers: list[str] = []
    start = threading.Barrier(8)

    def write(name: int) -> None:
        start.wait()
        answers.extend(reserve(f"{name}-{n}", 7) for n in range(10))

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count("reserved") == 14  # of 100 bytes
    assert store.ledger.used("uploads") == 98


def test_the_same_call_again_reserves_once(store, reserve):
    assert [reserve("a", 60), reserve("a", 60)] == ["reserved", "reserved"]
    assert store.ledger.used("uploads") == 60


def test_what_a_dead_writer_reserved_lapses_for_good(store, reserve):
    reserve("a", 60, lease_ms=0)
    assert store.ledger.lapsed_uploads() == ["a"]
    # it counts until it is removed, and its writer cannot come back
    assert store.ledger.used("uploads") == 60
    assert reserve("a", 60, begins=False) == "lapsed"
    assert reserve("a", 60) == "lapsed"
    assert store.ledger.keep_upload("a", 10_000, 60) == "lapsed"
    store.ledger.drop("uploads", "a")
    assert (store.ledger.used("uploads"), store.ledger.lapsed_uploads()) == (0, [])
    assert reserve("a", 60, begins=False) == "lapsed"


def test_uploads_are_summed_up_by_when_they_expire(store, reserve):
    for number in range(50):
        assert reserve(f"u{number}", 2) == "reserved"
        expires_s = 60_000 + number % 2 * EXPIRE_TOGETHER_S
        assert store.ledger.keep_upload(f"u{number}", expires_s, 1) == "kept"
    assert store.client.hlen(store.keys.stored("uploads")) == 2
    assert store.ledger.used("uploads") == 50
    # those of a time are forgotten together, once all of them are over
    store.ledger.drop_expired_uploads(60_000 + EXPIRE_TOGETHER_S - 1)
    assert store.ledger.used("uploads") == 50
    store.ledger.drop_expired_uploads(60_000 + EXPIRE_TOGETHER_S)
    assert store.ledger.used("uploads") == 25


def test_what_is_no_record_costs_itself_only(store, reserve):
    store.client.hset(store.keys.stored("uploads"), mapping={"x": "many", "..": "1 1", "y": "-5"})
    assert store.ledger.used("uploads") == 1
    assert store.ledger.lapsed_uploads() == [".."]
    assert reserve("a", 99) == "reserved"


# ---- jobs ---------------------------------------------------------------------------------------


def test_a_job_counts_what_it_keeps(store, reserve):
    # given a job that is made of what was reserved
    assert reserve("j", 50, "jobs") == "reserved"
    store.jobs.create("j", spec_of(), "digest", stored_bytes=40)
    assert store.ledger.used("jobs") == 40
    # when it is cut and scored, and its output is written
    store.ledger.set("j", "lines_bytes", 7)
    store.ledger.add("j", "work_bytes", 20)
    store.ledger.add("j", "work_bytes", 30)
    assert store.ledger.used("jobs") == 97
    open_(store, "j", "", "1", sealed=True)
    store.jobs.begin_step("j", "finisher")
    for _ in range(2):  # the reply may be lost
        assert store.jobs.finish(store.jobs.get("j"), "finisher", "file:///out", 3)
    assert store.ledger.used("jobs") == 100
    # then a job that needs a byte is refused, until files are removed
    assert reserve("k", 1, "jobs") == "full"
    store.ledger.set("j", "work_bytes", 0)
    assert reserve("k", 1, "jobs") == "reserved"
    assert store.ledger.used("jobs") == 51


def test_a_job_is_not_made_of_files_that_may_be_gone(store, reserve):
    reserve("j", 50, "jobs", lease_ms=0)
    for job_id in ("j", "unknown"):
        with pytest.raises(WrongState, match=r"gave no sign of life .* submit it again"):
            store.jobs.create(job_id, spec_of(key="k"), "digest", stored_bytes=40)
    assert store.jobs.with_key("k") is None
    assert store.jobs.sweepable() == ["j"]


def test_a_ledger_that_went_astray_is_corrected(store, client):
    # given a job that is at work, one that ended, and what is neither
    for job_id in ("at-work", "ended"):
        store.ledger.reserve("jobs", job_id, 0, lease_ms=LEASE_MS, bytes_max=0, begins=True)
        store.jobs.create(job_id, spec_of(), "digest", stored_bytes=10)
    open_(store, "ended", "", "1", sealed=True)
    end_job(store, "ended")
    store.ledger.reserve("jobs", "begun", 5, lease_ms=LEASE_MS, bytes_max=0, begins=True)
    ledger = store.keys.stored("jobs")
    client.hset(ledger, mapping={"at-work": 9999, "gone": 777})
    client.hdel(ledger, "ended")
    # when it is corrected
    store.ledger.correct()
    assert client.hgetall(ledger).keys() == {"at-work", "ended", "begun"}
    assert store.ledger.used("jobs") == 25
