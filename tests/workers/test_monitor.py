"""The monitor alone guarantees progress: it sends what was lost, once, and nothing else."""

from __future__ import annotations

import math

import pytest

from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import NotAllowed, StorageUnavailable
from rerankfleet.shared.job_spec import InputRef, Priority, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.queue import broker_keys, model_queue, model_queues
from rerankfleet.shared.state.records import OpenShard
from rerankfleet.shared.state.shards import OUTAGE_MS
from rerankfleet.workers import monitor as monitoring
from rerankfleet.workers.monitor import HINTS_AT_ONCE, REPUBLISHED, Monitor, next_step
from tests.support.fleet import MODEL, Worker, worker_row
from tests.support.records import hints_waiting, open_shards
from tests.support.wait import wait_until

GRACE_S = 5


class Clock:
    """The monitor's own clock, which only measures how long a hint is missing."""

    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("rerankfleet.workers.monitor.time", clock)
    return clock


@pytest.fixture
def start(store, objects, hints, change, client):
    """`start()`: a monitor of a coordinator that has ticked before."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    settings = change(hint_grace_s=GRACE_S)
    return lambda hints=hints: Monitor(store, objects, hints, settings)


@pytest.fixture
def monitor(start) -> Monitor:
    return start()


@pytest.fixture
def job(store, objects):
    """`job("a", (0, 2), ...)`: a job with these shards open, each with a file of its own."""

    def make(job_id: str, *ranges: tuple[int, int], sealed=True, low_water=1, **options) -> str:
        spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"), **options)
        store.jobs.create(job_id, spec, "digest")
        shards = [OpenShard(a, b, f"0-{a}-{b}-x") for a, b in ranges]
        store.shards.open(
            store.jobs.get(job_id), ("", "1"), shards, sealed=sealed, lines=1, low_water=low_water
        )
        return job_id

    return make


def let_time_pass(store, job_id: str) -> None:
    store.jobs.look_again(job_id, after_ms=-1)


def test_a_lost_hint_is_sent_again_once_after_its_grace(monitor, job, hints, store, clock):
    job("a", (0, 2), (2, 4), priority=Priority.bulk)

    for seconds in (0, 2, 2):
        clock.now_s += seconds
        monitor.tick()
        assert hints.take() == []
    clock.now_s += 1
    monitor.tick()
    monitor.tick()

    assert hints.take() == [("shard", "a", "0-2"), ("shard", "a", "2-4")]
    assert hints.priorities == [Priority.bulk] * 2
    assert store.coordination.event_count(REPUBLISHED) == 2


def test_records_that_are_no_text_hinder_nobody(monitor, job, hints, store, clock):
    # given names that are no text among those of jobs, models and shards
    job("a", (0, 2))
    keys = store.keys
    store.client.zadd(keys.jobs, {b"\xff\xfe": 0})
    store.client.sadd(keys.models, b"\xed\xa0\x80")
    store.client.zadd(keys.open(MODEL), {b"\xff/0-2": 0})
    # when the monitor looks, then the hint that is lost is sent again
    monitor.tick()
    clock.now_s += GRACE_S
    monitor.tick()
    assert ("shard", "a", "0-2") in hints.take()
    # and what is no shard is gone
    assert store.client.zrange(keys.open(MODEL), 0, -1) == ["a/0-2"]
    store.client.zrem(keys.jobs, b"\xff\xfe")
    store.client.srem(keys.models, b"\xed\xa0\x80")


def test_a_hint_that_waits_in_the_broker_is_not_sent_again(
    start, job, store, settings, real_hints, clock
):
    monitor = start(real_hints)
    job("a", (0, 2), (2, 4))
    real_hints.shard(MODEL, Priority.normal, "a", "0-2")
    keys = broker_keys(settings, model_queues(MODEL))

    for _ in range(5):
        monitor.tick()
        clock.now_s += GRACE_S

    assert store.broker.hint_ids(keys) == {"a/0-2", "a/2-4"}
    assert hints_waiting(store, keys) == 2
    assert store.coordination.event_count(REPUBLISHED) == 1


def test_what_a_worker_holds_is_left_alone(monitor, job, hints, control, clock):
    job("a", (0, 2))
    Worker(control).claimed("a", "0-2")

    monitor.tick()
    clock.now_s += 2 * GRACE_S
    monitor.tick()

    assert hints.take() == []


def test_a_lease_that_ran_out_is_hinted_at_once_and_then_after_the_grace(
    monitor, job, hints, control, store, clock
):
    job("a", (0, 2))
    Worker(control).claimed("a", "0-2")
    store.client.zadd(store.keys.open(MODEL), {"a/0-2": store.now_ms() - 1})

    monitor.tick()
    assert hints.take() == [("shard", "a", "0-2")]
    monitor.tick()
    assert hints.take() == []
    clock.now_s += GRACE_S
    monitor.tick()
    assert hints.take() == [("shard", "a", "0-2")]


def test_a_suspect_that_a_worker_makes_room_for_is_not_hinted_to_others(
    monitor, job, hints, control, store, clock
):
    # given a suspect, and a worker that must finish first what it holds
    job("a", (0, 2))
    Worker(control).claimed("a", "0-2")
    store.client.zadd(store.keys.open(MODEL), {"a/0-2": store.now_ms() - 1})
    assert Worker(control, name="w2").claim("a", "0-2") == "suspect"
    # then nobody else is made to wait for it
    for _ in range(3):
        monitor.tick()
        clock.now_s += GRACE_S
    assert hints.take() == []
    # but whoever is free may take it, and when that worker dies too it is hinted again
    assert store.shards.due(MODEL, 9) == []
    store.client.zadd(store.keys.open(MODEL), {"a/0-2": store.now_ms() - 1})
    monitor.tick()
    clock.now_s += GRACE_S
    monitor.tick()
    assert hints.take() == [("shard", "a", "0-2")]
    assert Worker(control, name="w3").claimed("a", "0-2", alone=True)


def test_after_an_outage_hints_get_their_grace_anew(monitor, job, hints, store, client, clock):
    job("a", (0, 2))
    monitor.tick()
    clock.now_s += GRACE_S
    client.set(store.keys.pulse, store.now_ms() - OUTAGE_MS - 1)

    monitor.tick()
    assert hints.take() == []
    clock.now_s += GRACE_S
    monitor.tick()

    assert hints.take() == [("shard", "a", "0-2")]


def test_two_monitors_send_a_lost_hint_once_each_at_the_most(start, job, hints, clock):
    job("a", (0, 2))
    monitors = [start(), start()]
    for seconds in (0, GRACE_S, 0):
        clock.now_s += seconds
        for monitor in monitors:
            monitor.tick()

    assert hints.take() == [("shard", "a", "0-2")] * 2  # harmless: the claim decides


def test_lost_hints_are_sent_again_a_few_at_a_time(start, job, store, settings, real_hints, clock):
    """Given a hundred shards whose hints were all lost."""
    monitor = start(real_hints)
    job("a", *((i, i + 1) for i in range(100)))
    keys = broker_keys(settings, [model_queue(MODEL, Priority.normal)])

    sent = []
    for _ in range(4):
        monitor.tick()
        clock.now_s += GRACE_S
        sent.append(hints_waiting(store, keys))

    # then full queues do not keep the rest from being sent, and none is sent twice
    assert sent == [0, HINTS_AT_ONCE, 100, 100]


# ---- steps of jobs ------------------------------------------------------------------------------


def test_a_lost_feed_is_sent_again(monitor, job, hints, store):
    job("a", sealed=False)
    monitor.tick()
    assert hints.take() == []
    let_time_pass(store, "a")

    monitor.tick()
    monitor.tick()

    assert hints.take() == [("feed", "a")]
    assert store.coordination.event_count(REPUBLISHED) == 1


def test_a_lost_finish_is_sent_again(monitor, job, hints, store):
    job("a")
    let_time_pass(store, "a")

    monitor.tick()

    assert hints.take() == [("finish", "a")]


def test_a_job_whose_shards_are_with_workers_needs_nothing(monitor, job, hints, store, control):
    job("a", (0, 2))
    Worker(control).claimed("a", "0-2")
    let_time_pass(store, "a")

    monitor.tick()

    assert hints.take() == []
    assert store.coordination.event_count(REPUBLISHED) == 0
    assert store.jobs.due() == []


def test_what_a_job_needs_next_is_computed_from_facts(job, store):
    job("full", (0, 2), (2, 4), sealed=False)
    job("low", (0, 2), sealed=False)
    job("sealed", (0, 2))
    job("over")
    job("paused")
    job("cancelled", (0, 2), (2, 4), sealed=False)
    store.jobs.pause(store.jobs.get("paused"), "why")
    store.jobs.cancel(store.jobs.get("cancelled"))

    steps = {name: next_step(store.jobs.get(name)) for name in store.jobs.unfinished()}

    assert steps == {
        "full": None,
        "low": "feed",
        "sealed": None,
        "over": "finish",
        "paused": None,
        "cancelled": "feed",
    }


def test_a_job_of_a_newer_version_is_left_to_its_own_coordinator(monitor, job, store, hints):
    for job_id in ("newer", "ours"):
        job(job_id, (0, 2))
        let_time_pass(store, job_id)
    store.client.hset(store.keys.job("newer"), "spec", '{"from_later": 1}')
    store.client.hdel(store.keys.job("ours"), "sealed")

    monitor.tick()

    assert sorted(store.jobs.unfinished()) == ["newer", "ours"]
    assert store.jobs.due() == []
    assert ("feed", "ours") in hints.take()


def test_a_job_that_vanished_is_taken_off_the_list(monitor, store, client, hints):
    client.zadd(store.keys.jobs, {"ghost": 0})

    monitor.tick()

    assert store.jobs.unfinished() == []
    assert hints.take() == []


def test_a_shard_of_a_job_that_vanished_goes_with_its_next_claim(
    monitor, job, store, client, hints, clock, control
):
    job("a", (0, 2))
    client.delete(store.keys.job("a"), store.keys.job_open("a"))
    client.zrem(store.keys.jobs, "a")
    monitor.tick()
    clock.now_s += GRACE_S
    monitor.tick()
    assert hints.take() == [("shard", "a", "0-2")]

    assert Worker(control).claim("a", "0-2") == "done"

    assert open_shards(store, MODEL) == 0


def test_an_interactive_job_past_its_deadline_is_over(monitor, store, hints):
    file = store.inline.put("a", "0-0-2-inline", b"", 60)
    spec = make_spec(model=MODEL, input=InputRef(uri="", size=0, tag=""))
    store.jobs.create(
        "a",
        spec,
        "",
        deadline_ms=30_000,
        inline_ttl_ms=90_000,
        shards=[OpenShard(0, 2, file)],
    )
    monitor.tick()
    assert not store.jobs.get("a").finished

    let_time_pass(store, "a")
    monitor.tick()

    assert store.jobs.get("a").cancelled
    assert store.jobs.unfinished() == []


# ---- sweeping -----------------------------------------------------------------------------------


@pytest.fixture
def ended(job, store, objects, client):
    """A finished job with all its files, due to be swept."""
    job("a", (0, 2))
    for name in ("shards/0-0-2-x", "parts/0-p", "input.jsonl", "output-0.jsonl"):
        objects.write(objects.at("jobs", "a", *name.split("/")), b"x")
    lease = store.shards.claim(
        "a", MODEL, "0-2", token="t", worker="w", alone=False, fingerprint="f"
    )
    store.shards.commit(lease, "p", ShardSummary(scored=1, errors=1))
    store.jobs.begin_step("a", "t")
    store.jobs.finish(store.jobs.get("a"), "t", "file:///out")
    store.jobs.end_sweep("a", again_ms=-1)
    return "a"


def files(tmp_path) -> list[str]:
    root = tmp_path / "storage" / "jobs" / "a"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_shard_and_part_files_go_first(monitor, ended, store, tmp_path):
    monitor.sweep()

    assert files(tmp_path) == ["input.jsonl", "output-0.jsonl"]
    assert store.jobs.sweepable() == []
    assert store.client.zcard(store.keys.sweep) == 1


def test_all_files_go_with_the_job(monitor, ended, store, client, tmp_path):
    client.delete(store.keys.job("a"))

    monitor.sweep()

    assert files(tmp_path) == []
    assert store.client.zcard(store.keys.sweep) == 0


@pytest.mark.parametrize("entry", ["../../../victim", "..", "", "a/../../..", "/etc", "a:open"])
def test_an_entry_that_is_no_job_removes_nothing(monitor, ended, store, tmp_path, entry):
    # given a folder beside the storage, and an entry that somebody else wrote, before a job's
    (tmp_path / "victim").mkdir()
    before = sorted(tmp_path.rglob("*"))
    store.client.zadd(store.keys.sweep, {entry: 0})
    # when the monitor sweeps
    monitor.sweep()
    # then only the job's own files are gone, and so is the entry
    gone = set(before) - set(tmp_path.rglob("*"))
    assert {p.relative_to(tmp_path).parts[:3] for p in gone} <= {
        ("storage", "jobs", "a"),
    }
    assert files(tmp_path) == ["input.jsonl", "output-0.jsonl"]
    assert store.client.zscore(store.keys.sweep, entry) is None


def test_a_job_that_is_retried_just_now_keeps_its_files(
    monitor, ended, store, tmp_path, monkeypatch
):
    due = store.jobs.sweepable()
    store.jobs.retry(store.jobs.get("a"), "all")
    monkeypatch.setattr(store.jobs, "sweepable", lambda: due)

    monitor.sweep()

    assert "input.jsonl" in files(tmp_path)
    assert "output-0.jsonl" in files(tmp_path)


def test_a_job_whose_files_cannot_be_removed_starves_no_other_and_has_its_turn_again(
    monitor, ended, store, objects, client, tmp_path, monkeypatch
):
    # given a dozen jobs that are gone, and a storage that does not let go of their files
    stuck = [f"{number:012x}" for number in range(12)]
    uploads = [objects.at("uploads", f"000000000{n}-{'a' * 32}", "x") for n in range(2)]
    for uri in [*(objects.at("jobs", job_id, "x") for job_id in stuck), *uploads]:
        objects.write(uri, b"x")
    client.zadd(store.keys.sweep, {job_id: 0 for job_id in stuck})
    client.delete(store.keys.job("a"))
    real, errors = objects.delete_tree, iter([StorageUnavailable("away"), NotAllowed("no")] * 6)

    def sticks(uri: str) -> None:
        name = uri.split("/")[-1]
        if name in stuck or name.startswith("0000000000"):
            raise next(errors, StorageUnavailable("away"))
        real(uri)

    monkeypatch.setattr(objects, "delete_tree", sticks)
    # when the monitor sweeps a few times
    for _ in range(3):
        monitor.sweep()
    # then the others had their turn
    assert files(tmp_path) == []
    assert not objects.exists(uploads[1])
    assert objects.exists(uploads[0])
    # and once the storage lets go, so do these
    monkeypatch.setattr(objects, "delete_tree", real)
    assert set(client.zrange(store.keys.sweep, 0, -1)) == set(stuck)
    client.zadd(store.keys.sweep, {job_id: 0 for job_id in stuck})
    for _ in range(2):
        monitor.sweep()
    assert not any(p.is_file() for p in (tmp_path / "storage").rglob("*"))
    assert client.zcard(store.keys.sweep) == 0


def test_what_has_expired_leaves_no_name_behind(monitor, ended, store, client):
    client.delete(store.keys.job("a"))
    monitor.sweep()
    assert client.zrange(store.keys.recent, 0, -1) == []
    # and a step that comes too late does not bring the job back, as a key without an end
    store.jobs.set_facts("a", waiting_for="the storage")
    assert not client.exists(store.keys.job("a"))


def test_files_of_a_submission_that_was_killed_are_removed(
    monitor, store, objects, client, tmp_path
):
    # given a client that was killed between its upload and its job
    store.ledger.reserve("jobs", "a", 1, lease_ms=60_000, bytes_max=0, begins=True)
    objects.write(objects.at("jobs", "a", "input.jsonl"), b"x")
    monitor.sweep()
    assert files(tmp_path) == ["input.jsonl"]  # it may still be at work
    # when its time is over
    client.zadd(store.keys.sweep, {"a": 0})
    monitor.sweep()
    assert files(tmp_path) == []
    assert client.zcard(store.keys.sweep) == 0


def test_a_removal_that_froze_until_the_job_was_retried_removes_nothing_more(
    monitor, ended, store, objects, tmp_path, monkeypatch
):
    # given a monitor that freezes, once it has removed shards, until its time is over
    monkeypatch.setattr(monitoring, "SWEEP_RENEWED_S", 0)
    real = objects.delete_tree

    def freeze(uri: str) -> None:
        real(uri)
        store.client.hset(store.keys.job("a"), "sweeping_until", 1)
        assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"

    monkeypatch.setattr(objects, "delete_tree", freeze)
    monitor.sweep()
    # then the parts stay, of which some may be new
    assert files(tmp_path) == ["input.jsonl", "output-0.jsonl", "parts/0-p"]
    assert store.jobs.sweepable() == []
    store.jobs.cancel(store.jobs.get("a"))


def test_a_job_whose_files_are_being_removed_cannot_be_retried(ended, store):
    # given a sweep that has begun
    assert store.jobs.begin_sweep("a") > 0
    # when someone retries the job
    assert store.jobs.retry(store.jobs.get("a"), "all") == "sweeping"
    # then they can, once it has ended
    store.jobs.end_sweep("a", again_ms=1000)
    assert store.jobs.retry(store.jobs.get("a"), "all") == "reopened"
    store.jobs.cancel(store.jobs.get("a"))


def test_the_end_of_a_job_is_the_end_of_its_keys(ended, store, client):
    for key in (store.keys.job("a"), store.keys.job_parts("a")):
        client.pexpire(key, 1)
    wait_until(lambda: not client.exists(store.keys.job("a")))
    assert shard_name(0, 2) == "0-2"


def test_hints_of_a_model_that_nobody_serves_any_more_go_when_it_has_no_shard(
    monitor, job, store, fleet, settings, real_hints
):
    # given hints of a model with a shard, and of one that has none
    job("a", (0, 2))
    old = InputRef(uri="file:///in", size=1, tag="t")
    store.jobs.create("b", make_spec(model="org/old", input=old), "digest")
    store.jobs.cancel(store.jobs.get("b"))
    lists = {m: broker_keys(settings, model_queues(m)) for m in (MODEL, "org/old")}
    for model in lists:
        real_hints.shard(model, Priority.normal, "a", "0-2")
    # when the monitor sweeps while a worker may still read them
    fleet.beat(worker_row("w", "org/old"))
    monitor.sweep()
    assert [hints_waiting(store, keys) for keys in lists.values()] == [1, 1]
    # and when there is none
    fleet.leave("w")
    monitor._corrected_s = -math.inf
    monitor.sweep()
    assert [hints_waiting(store, keys) for keys in lists.values()] == [1, 0]
