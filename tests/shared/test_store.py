"""The state machine of jobs and shards, script by script, over a real server."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from rerankfleet.shared.errors import (
    KeyConflict,
    QueueUnavailable,
    UnknownJob,
    UnreadableJob,
    UsageError,
)
from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import CONNECTIONS_MAX, connect
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.shards import LEFT, OUTAGE_MS
from rerankfleet.shared.state.store import Store
from tests.support.server import free_port
from tests.support.wait import wait_until

MODEL = "org/model"
ALL = ShardSummary(scored=10)


def spec_of(**options) -> JobSpec:
    return make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"), **options)


@pytest.fixture(autouse=True)
def _calm(store: Store, client) -> None:
    """The coordinator ticks, and no amnesty is under way."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)


@pytest.fixture
def make(store: Store):
    """`make("a", (0, 10), ...)`: a job with these shards open."""

    def job(job_id: str, *ranges: tuple[int, int], sealed: bool = True, **options) -> str:
        store.jobs.create(job_id, spec_of(**options), "digest")
        shards = [OpenShard(start, end, f"0-{start}-{end}-x") for start, end in ranges]
        assert open_(store, job_id, "", "1", shards, sealed=sealed) == "opened"
        return job_id

    return job


def open_(store: Store, job_id, old, new, shards=(), *, sealed=False, lines=1, low_water=1) -> str:
    return store.shards.open(
        store.jobs.get(job_id), (old, new), shards, sealed=sealed, lines=lines, low_water=low_water
    )


def claim(store: Store, job_id="a", shard="0-10", token="t1", *, alone=False, fingerprint="fp"):
    return store.shards.claim(
        job_id, MODEL, shard, token=token, worker="w", alone=alone, fingerprint=fingerprint
    )


def run_out(store: Store, lease: Lease) -> None:
    """Let a lease expire now."""
    member = f"{lease.job_id}/{lease.shard}"
    store.client.zadd(store.keys.open(MODEL), {member: store.now_ms() - 1}, xx=True)


def die_with(store: Store, job_id: str, shard: str, *, alone: bool) -> None:
    """A worker claims a shard and is never heard of again."""
    lease = claim(store, job_id, shard, uuid.uuid4().hex, alone=alone)
    assert isinstance(lease, Lease), lease
    run_out(store, lease)


# ---- create -------------------------------------------------------------------------------------


def test_more_threads_than_connections_wait_for_one_another(settings):
    # given one process with twice as many threads as it may have connections
    client = connect(settings)
    begin = threading.Barrier(2 * CONNECTIONS_MAX)

    def hold(number: int) -> None:
        begin.wait(30)
        assert client.blpop([f"nothing:{number}"], timeout=0.1) is None

    # when all of them ask at once, then all are answered
    with ThreadPoolExecutor(2 * CONNECTIONS_MAX) as threads:
        list(threads.map(hold, range(2 * CONNECTIONS_MAX)))


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
    assert store.jobs.recent(2) == ["a", "old1199"]


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
    # when it is repeated, then it is the same job, in hand or done
    assert make_inline(store, "b") == "a"
    assert store.shards.backlog(MODEL) == 1
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
    # whoever cancels the first one once more takes nothing from the second
    store.jobs.cancel(store.jobs.get("a"))
    assert make_inline(store, "c") == "b"


# ---- open ---------------------------------------------------------------------------------------


def test_of_two_feeders_exactly_one_wins(store):
    store.jobs.create("a", spec_of(), "digest")

    first = open_(store, "a", "", "1", [OpenShard(0, 10, "0-0-10-x")])
    second = open_(store, "a", "", "1", [OpenShard(0, 10, "0-0-10-y")])

    assert (first, second) == ("opened", "stale")
    assert store.jobs.get("a").number("fed") == 10
    assert claim(store).file == "0-0-10-x"


def test_sealing_tells_the_total(store, make):
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


# ---- claim, renew, commit, release --------------------------------------------------------------


def test_a_claim_is_granted_once_and_its_repetition_gets_the_same_answer(store, make):
    make("a", (0, 10))

    mine = claim(store, token="mine")
    again = claim(store, token="mine")
    other = claim(store, token="other")

    assert mine == again == Lease("a", MODEL, "0-10", "mine", "0-0-10-x", worker="w")
    assert other == "busy"
    assert store.shards.leased_count(MODEL) == 1
    assert store.shards.due(MODEL, 9) == []


def test_a_claim_tells_how_long_its_shard_waited(store, make, client):
    # given a shard that was put into the queue 40 s ago
    make("a", (0, 10))
    client.zadd(store.keys.open(MODEL), {"a/0-10": store.now_ms() - 40_000})
    # when it is claimed, and the answer is lost
    mine = claim(store, token="mine")
    again = claim(store, token="mine")
    # then both answers tell it
    assert 40 <= mine.waited_s == again.waited_s < 60
    # and of one that was given back, only what it waited since
    store.shards.release(mine)
    assert claim(store, token="next").waited_s < 20


def test_a_shard_of_no_job_is_done(store):
    assert claim(store, "nobody") == "done"


def test_a_job_goes_on_only_with_the_weights_that_began_it(store, make):
    make("a", (0, 10), (10, 20))
    claim(store, shard="0-10", fingerprint="one")

    assert claim(store, shard="10-20", fingerprint="two") == "newer"
    assert isinstance(claim(store, shard="10-20", fingerprint="one"), Lease)


def test_renewal_prolongs_a_lease_and_says_what_became_of_others(store, make):
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
    assert store.shards.backlog(MODEL) == 1
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


# ---- blame --------------------------------------------------------------------------------------


def test_a_shard_whose_lease_ran_out_is_for_a_worker_that_holds_nothing_else(store, make):
    make("a", (0, 10))
    die_with(store, "a", "0-10", alone=False)

    assert store.coordination.event_count(LEFT) == 0
    assert claim(store, token="second") == "suspect"
    assert store.coordination.event_count(LEFT) == 1
    assert isinstance(claim(store, token="second", alone=True), Lease)


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
    assert store.shards.backlog(MODEL) == 2


def test_a_shard_that_nobody_blames_is_never_split(store, make):
    make("a", (0, 10))
    assert store.shards.split("a", MODEL, "0-10") == []
    claim(store)
    assert store.shards.split("a", MODEL, "0-10") == []
    assert store.shards.split("a", MODEL, "90-99") == []


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


# ---- pause, resume, cancel ----------------------------------------------------------------------


def test_a_paused_job_waits_and_what_is_in_hand_may_still_be_committed(store, make):
    make("a", (0, 10), (10, 20))
    lease = claim(store)

    assert store.jobs.pause(store.jobs.get("a"), "lunch") == "paused"

    assert store.jobs.get("a").paused == "lunch"
    assert store.shards.backlog(MODEL) == 0
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
    assert store.shards.backlog(MODEL) == 0
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


# ---- the steps of the coordinator ---------------------------------------------------------------


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
    # given one whose spec says what this version does not know
    spec = json.loads(store.client.hget(store.keys.job("b"), "spec"))
    store.client.hset(store.keys.job("b"), "spec", json.dumps({**spec, "from_later": 1}))
    # then it is left out, and told once
    for _ in range(3):
        assert [job.id for job in store.jobs.get_many(["a", "b", "c"])] == ["a", "c"]
    assert capsys.readouterr().err.count("a job of another version") == 1
    with pytest.raises(UnreadableJob, match="job b was made by another version"):
        store.jobs.get("b")


def test_a_step_of_no_job_takes_it_off_the_list(store):
    store.client.zadd(store.keys.jobs, {"ghost": 0})

    assert store.jobs.begin_step("ghost", "t") == "gone"
    assert store.jobs.unfinished() == []


def end_job(store: Store, job_id: str) -> None:
    """Finish a job as the coordinator does."""
    assert store.jobs.begin_step(job_id, "finisher") == "yes"
    assert store.jobs.finish(store.jobs.get(job_id), "finisher", "file:///out")


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


def test_the_end_of_a_job_is_told(store, make):
    make("a", (0, 10))
    store.shards.commit(claim(store), "p", ALL)
    assert not store.jobs.wait_done("a", 0.01)

    end_job(store, "a")

    assert store.jobs.wait_done("a", 5)


def test_whoever_waits_hears_of_the_end_before_the_next_poll(store, make, client, settings):
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

    waiter.join(5)
    assert heard == [True]


# ---- retry --------------------------------------------------------------------------------------


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


# ---- inline jobs --------------------------------------------------------------------------------


def inline(store: Store, job_id: str, *ranges: tuple[int, int], deadline_ms=60_000) -> None:
    shards = [
        OpenShard(a, b, store.inline.put(job_id, f"0-{a}-{b}-inline", b"{}", 60)) for a, b in ranges
    ]
    store.jobs.create(
        job_id, spec_of(), "", deadline_ms=deadline_ms, inline_ttl_ms=90_000, shards=shards
    )


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
            found = store.jobs.create(job_id, spec, digest, inline_ttl_ms=90_000, shards=shards)
            assert found == "a"

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


def test_an_inline_payload_ends_with_its_time(store):
    uri = store.inline.put("a", "p", "ü".encode(), 0.01)

    wait_until(lambda: store.inline.get(uri) is None)


# ---- what the monitor looks at ------------------------------------------------------------------


def test_only_one_leads_and_only_for_a_while(store):
    assert store.coordination.lead("role", "one", 30)
    assert store.coordination.lead("role", "one", 0.03)
    wait_until(lambda: store.coordination.lead("role", "two", 30))
    assert not store.coordination.lead("role", "one", 30)


def test_counters_of_the_monitor_go_after_an_hour(store):
    assert store.coordination.event_count("kind") == 0
    store.coordination.count_event("kind")
    store.coordination.count_event("kind", 2)
    assert store.coordination.event_count("kind") == 3
    assert 3500 < store.client.ttl(store.keys.seen("kind")) <= 3600


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


# ---- the connection -----------------------------------------------------------------------------


def test_a_server_that_does_not_answer_is_named_without_its_password():
    port = free_port()
    settings = Settings(redis_url=f"redis://me:hunter2@127.0.0.1:{port}/0")

    with pytest.raises(QueueUnavailable) as caught:
        connect(settings)

    assert f"redis://me:***@127.0.0.1:{port}/0 does not answer" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:6379", "http://host", "redis://host:port"])
def test_an_address_that_is_none_is_refused_in_one_sentence(url):
    with pytest.raises(UsageError, match="RERANK_REDIS_URL"):
        connect(Settings(redis_url=url))


def test_settling_waits_for_the_append_only_file_where_there_is_one(store, client):
    store.jobs.wait_persisted()
    client.config_set("appendonly", "yes")
    try:
        store.jobs.create("a", spec_of(), "digest")
        store.jobs.wait_persisted()
    finally:
        client.config_set("appendonly", "no")
