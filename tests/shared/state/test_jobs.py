"""Jobs: created, stepped, finished, retried, looked at again."""

from __future__ import annotations

import json
import threading

import pytest

from rerankfleet.shared.errors import (
    KeyConflict,
    UnknownJob,
    UnreadableJob,
)
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.store import Store
from tests.support.records import ALL, MODEL, claim, end_job, spec_of
from tests.support.wait import patient, wait_until

pytestmark = pytest.mark.usefixtures("calm")


# ---- created -------------------------------------------------------------------------------------


def test_creating_a_job_twice_changes_nothing(store):
    first = store.jobs.create("a", spec_of(), "digest")
    before = store.client.hgetall(store.keys.job("a"))

    again = store.jobs.create("a", spec_of(top_n=3), "other")

    assert (first, again) == ("a", "a")
    assert store.client.hgetall(store.keys.job("a")) == before
    assert store.jobs.unfinished() == ["a"] == store.jobs.recent()


def test_the_same_key_and_input_give_the_job_that_exists(store):
    store.jobs.create("a", spec_of(key="mine"), "digest")

    assert store.jobs.create("b", spec_of(key="mine"), "digest") == "a"
    with pytest.raises(UnknownJob):
        store.jobs.get("b")


def test_the_same_key_with_another_input_is_refused(store):
    store.jobs.create("a", spec_of(key="mine"), "digest")

    with pytest.raises(KeyConflict, match=r"'mine' belongs to job a,.*choose another key"):
        store.jobs.create("b", spec_of(key="mine"), "differ")


def test_a_digest_that_begins_like_another_is_another(store):
    store.jobs.create("a", spec_of(key="mine"), "d" * 64)

    with pytest.raises(KeyConflict):
        store.jobs.create("b", spec_of(key="mine"), "d" * 63 + "e")


def test_the_list_of_recent_jobs_is_bounded(store):
    now = store.now_ms()
    store.client.zadd(store.keys.recent, {f"old{i}": now - 10_000 + i for i in range(1200)})

    store.jobs.create("a", spec_of(), "digest")

    assert store.client.zcard(store.keys.recent) == 1000
    assert store.client.zrevrange(store.keys.recent, 0, 1) == ["a", "old1199"]


# ---- steps of the coordinator --------------------------------------------------------------------


def test_a_step_is_leased_to_one_and_comes_back_when_its_time_is_over(store, make, client, change):
    hasty = Store(client, change(lease_s=0.03))
    make("a", (0, 10))

    assert store.jobs.begin_step("a", "one") == "yes"
    assert store.jobs.begin_step("a", "two") == "busy"
    assert hasty.jobs.begin_step("a", "one") == "yes"
    assert wait_until(lambda: store.jobs.begin_step("a", "two") == "yes")
    store.jobs.end_step("a", "one")
    assert store.jobs.begin_step("a", "three") == "busy"
    store.jobs.end_step("a", "two")
    assert store.jobs.begin_step("a", "three") == "yes"


def test_a_job_of_another_version_hides_no_other_one(store, capsys):
    for job_id in ("a", "b", "c"):
        store.jobs.create(job_id, spec_of(), "digest")
    # given one whose spec has a field that this version does not know
    spec = json.loads(store.client.hget(store.keys.job("b"), "spec"))
    store.client.hset(store.keys.job("b"), "spec", json.dumps({**spec, "from_later": 1}))
    # then it is left out, and logged once
    for _ in range(3):
        assert [job.id for job in store.jobs.get_many(["a", "b", "c"])] == ["a", "c"]
    assert capsys.readouterr().err.count("a job that cannot be read") == 1
    with pytest.raises(UnreadableJob, match="job b was made by another version"):
        store.jobs.get("b")


WRONG_FACTS = {
    "no spec": ("spec", "{}"),
    "no JSON": ("spec", "{{"),
    "no count": ("scored", "many"),
    "no time": ("created_ms", "today"),
    "no round": ("round", b"\xff"),
    "no distribution": ("score_sum", "1.5"),
    "an endless number": ("scores", "9" * 400),
}


@pytest.mark.parametrize("kind", ["another type", "no id", *WRONG_FACTS])
def test_a_record_that_is_none_hides_no_job(store, kind):
    # given records that somebody else wrote among those of jobs
    for job_id in ("a", "b", "c"):
        store.jobs.create(job_id, spec_of(), "digest")
    key = store.keys.job("b")
    ids = ["a", "b" if kind != "no id" else "a:open", "c"]
    if kind == "another type":
        store.client.delete(key)
        store.client.set(key, "text")
    elif kind in WRONG_FACTS:
        store.client.hset(key, *WRONG_FACTS[kind])
    # then the others are read
    assert [job.id for job in store.jobs.get_many(ids)] == ["a", "c"]
    with pytest.raises(UnknownJob):
        store.jobs.get(ids[1])


def test_a_part_that_is_none_is_said_of_its_job(store):
    store.jobs.create("a", spec_of(), "digest")
    store.client.hset(store.keys.job_parts("a"), "0", "5 p1")
    assert store.jobs.parts("a") == [(0, 5, "p1")]
    store.client.hset(store.keys.job_parts("a"), "five", b"\xff p2")

    with pytest.raises(UnreadableJob, match="a record of job a is damaged: its part 'five'"):
        store.jobs.parts("a")


def test_a_step_of_no_job_takes_it_off_the_list(store):
    store.client.zadd(store.keys.jobs, {"ghost": 0})

    assert store.jobs.begin_step("ghost", "t") == "gone"
    assert store.jobs.unfinished() == []


def test_only_the_holder_of_the_step_can_finish(store, make):
    make("a", (0, 10))
    store.shards.commit(claim(store), "p", ALL)
    store.jobs.begin_step("a", "mine")

    assert not store.jobs.finish(store.jobs.get("a"), "stranger", "file:///out")
    assert not store.jobs.get("a").finished
    assert store.jobs.finish(store.jobs.get("a"), "mine", "file:///out")
    assert store.jobs.finish(store.jobs.get("a"), "mine", "file:///out")


def test_a_job_with_open_shards_or_unread_input_cannot_be_finished(store, make):
    make("a", (0, 10))
    make("b", sealed=False)
    for job_id in "ab":
        store.jobs.begin_step(job_id, "t")
        assert not store.jobs.finish(store.jobs.get(job_id), "t", "file:///out")


def test_what_a_finished_job_leaves_has_an_end(store, make, settings):
    make("a", (0, 10), key="mine")
    store.shards.commit(claim(store), "p", ALL)

    end_job(store, "a")

    k, ttl = store.keys, store.client.ttl
    assert store.jobs.unfinished() == []
    assert settings.result_ttl_s - 5 <= ttl(k.job("a")) <= settings.result_ttl_s
    assert settings.result_ttl_s - 5 <= ttl(k.job_key("mine")) <= settings.result_ttl_s
    assert settings.parts_ttl_s - 5 <= ttl(k.job_parts("a")) <= settings.parts_ttl_s + 1
    assert store.client.exists(k.job_open("a")) == 0
    assert store.jobs.sweepable() == []
    assert store.jobs.begin_step("a", "t") == "finished"
    for verb in (store.jobs.cancel, lambda job: store.jobs.pause(job, "")):
        assert verb(store.jobs.get("a")) == "finished"
    assert store.jobs.resume(store.jobs.get("a"))[0] == "finished"


def test_the_end_of_a_job_is_announced(store, make):
    make("a", (0, 10))
    store.shards.commit(claim(store), "p", ALL)
    assert not store.jobs.wait_done("a", 0.01)

    end_job(store, "a")

    assert store.jobs.wait_done("a", 5)


def test_a_waiter_is_notified_of_the_end_before_the_next_poll(store, make, client, settings):
    make("a", (0, 10))
    store.shards.commit(claim(store), "p", ALL)
    heard = []
    waiter = threading.Thread(
        target=lambda: heard.append(Store(connect(settings), settings).jobs.wait_done("a", 20))
    )
    waiter.start()
    channel = store.keys.done_channel("a")
    wait_until(lambda: client.pubsub_numsub(channel)[0][1])

    end_job(store, "a")

    waiter.join(patient(5))
    assert heard == [True]


# ---- retried -------------------------------------------------------------------------------------


def failed_job(store, make, **counts) -> None:
    make("a", (0, 10), key="mine")
    store.shards.commit(claim(store), "p", ShardSummary(**counts))
    end_job(store, "a")


def test_a_retry_opens_the_job_again_for_what_failed(store, make):
    failed_job(store, make, scored=6, errors=4)

    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"

    job = store.jobs.get("a")
    assert (job.sealed, job.finished, job.round, job.facts["cursor"]) == (False, False, 1, "")
    assert (job.progress.scored, job.progress.errors, job.progress.fed) == (6, 0, 6)
    assert job.facts["previous"] == "file:///out"
    assert store.jobs.unfinished() == ["a"]
    assert store.jobs.parts("a") == []
    assert store.client.ttl(store.keys.job("a")) == -1
    assert store.client.ttl(store.keys.job_key("mine")) == -1
    assert store.jobs.retry(store.jobs.get("a"), "all") == "unfinished"


def test_a_retry_whose_reply_was_lost_is_repeated_without_harm(store, make):
    failed_job(store, make, scored=6, errors=4)
    job = store.jobs.get("a")

    assert store.jobs.retry(job, "all") == "reopened"
    reopened = store.client.hgetall(store.keys.job("a"))

    assert store.jobs.retry(job, "all") == "reopened"
    assert store.client.hgetall(store.keys.job("a")) == reopened


def test_a_job_without_failures_has_nothing_to_retry(store, make):
    failed_job(store, make, scored=10)
    assert store.jobs.retry(store.jobs.get("a"), "all") == "nothing"


def test_a_retry_of_errors_alone_leaves_what_was_cancelled(store, make):
    failed_job(store, make, scored=5, errors=2, cancelled=3)

    store.jobs.retry(store.jobs.get("a"), "errors")

    progress = store.jobs.get("a").progress
    assert (progress.scored, progress.errors, progress.cancelled, progress.fed) == (5, 0, 3, 8)


def test_a_job_that_was_only_cancelled_has_no_errors_to_retry(store, make):
    failed_job(store, make, scored=5, cancelled=5)
    assert store.jobs.retry(store.jobs.get("a"), "errors") == "nothing"


def test_a_pause_that_came_too_late_does_not_hold_the_retry(store, make):
    make("a", (0, 10))
    store.shards.commit(claim(store), "p", ShardSummary(errors=10))
    store.jobs.begin_step("a", "t")
    store.jobs.pause(store.jobs.get("a"), "why")
    store.jobs.finish(store.jobs.get("a"), "t", "file:///out")

    store.jobs.retry(store.jobs.get("a"), "all")

    assert store.jobs.get("a").paused is None


# ---- looked at again -----------------------------------------------------------------------------


def test_jobs_are_looked_at_again_when_nobody_touched_them(store, make):
    make("a", (0, 10))
    assert store.jobs.due() == []

    store.jobs.look_again("a", after_ms=-1)

    assert store.jobs.due() == ["a"]
    store.jobs.look_again("ghost", after_ms=-1)
    assert store.jobs.due() == ["a"]


def test_jobs_with_input_to_be_cut_share_the_window(store, make):
    make("a", sealed=False)
    make("b", sealed=False)
    make("c", (0, 1), sealed=True)
    store.jobs.pause(store.jobs.get("b"), "why")

    assert store.jobs.active_count(MODEL) == 1
    assert store.jobs.active_count("other") == 0
    assert store.jobs.models() == [MODEL]


# ---- owned --------------------------------------------------------------------------------------


def test_an_owner_sees_its_own_jobs_only(store):
    for job_id, owner in (("a", "x"), ("b", "y"), ("c", "x"), ("d", "")):
        store.jobs.create(job_id, spec_of(owner=owner), "digest")

    assert store.jobs.recent() == ["d", "c", "b", "a"]
    assert store.jobs.recent(owner="x") == ["c", "a"]
    assert store.jobs.recent(1, "x") == ["c"]
    assert store.jobs.recent(owner="z") == []
    store.jobs.refuse_foreign("a", "x")
    refused = []
    for job_id, owner in (("a", "y"), ("d", "x"), ("d", ""), ("none", "x"), ("../a", "x")):
        with pytest.raises(UnknownJob) as error:
            store.jobs.refuse_foreign(job_id, owner)
        refused.append(str(error.value).replace(job_id, "JOB"))
    assert len(set(refused)) == 1  # a foreign job is as one that never was
    with pytest.raises(UnknownJob) as error:
        store.jobs.get("none")
    assert str(error.value).replace("none", "JOB") == refused[0]


def test_a_list_passes_over_what_is_gone_and_changes_nothing(store):
    store.jobs.create("a", spec_of(owner="x"), "digest")
    store.jobs.create("b", spec_of(owner="x"), "digest")
    between = {f"gone{n}": 2 + n for n in range(500)}
    store.client.zadd(store.keys.recent_of("x"), {"a": 1, **between, "b": 1000})

    assert store.jobs.recent(2, "x") == ["b", "a"]
    assert store.client.zcard(store.keys.recent_of("x")) == 502


def test_the_list_of_an_owner_is_bounded(store):
    now = store.now_ms()
    old = {f"old{n}": now - 10_000 + n for n in range(1200)}
    store.client.zadd(store.keys.recent_of("x"), old)
    store.jobs.create("a", spec_of(owner="x"), "digest")
    assert store.client.zcard(store.keys.recent_of("x")) == 1000


def test_the_same_key_of_two_owners_makes_two_jobs(store):
    for job_id, owner in (("a", "x"), ("b", "y"), ("c", "")):
        assert store.jobs.create(job_id, spec_of(owner=owner, key="mine"), "digest") == job_id
    assert store.jobs.create("d", spec_of(owner="y", key="mine"), "digest") == "b"
    assert store.jobs.with_key("mine", "x").id == "a"
    assert store.jobs.with_key("mine").id == "c"


def test_a_retried_job_is_among_its_owners_newest_again(store, make):
    make("a", (0, 10), owner="x", key="mine")
    store.shards.commit(claim(store), "p", ShardSummary(scored=9, errors=1))
    end_job(store, "a")
    store.client.zadd(store.keys.recent_of("x"), {"a": 1})
    store.jobs.create("A", spec_of(owner="x"), "digest")
    assert store.jobs.recent(owner="x") == ["A", "a"]
    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"
    assert store.jobs.recent(owner="x") == ["a", "A"]
    assert store.client.ttl(store.keys.job_key("mine", "x")) == -1


def test_a_job_without_an_owner_is_written_as_before(store):
    store.jobs.create("a", spec_of(), "digest")
    record = store.client.hgetall(store.keys.job("a"))
    assert "owner" not in record
    assert "own" not in record["spec"]
