"""A shard from claim to commit: only a process that dies leaves a suspect behind."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
from types import SimpleNamespace

import pytest
import redis

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import (
    CredentialsRefused,
    DeviceBroken,
    EngineError,
    NotAllowed,
    StorageRefused,
    StorageUnavailable,
    UnreadableJob,
    UsageError,
)
from rerankfleet.shared.formats.shard_files import load_part, shard_uri
from rerankfleet.shared.job_spec import InputRef, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.metrics import PAIRS, QUEUE_WAIT, RETRIES, STAGES
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.workers import storage_health, tasks
from rerankfleet.workers.leases import Leases
from rerankfleet.workers.pipeline import Stopped
from rerankfleet.workers.prompting import languages
from rerankfleet.workers.recorder import Recorder
from rerankfleet.workers.runtime import Runtime
from rerankfleet.workers.storage_health import StorageHealth
from tests.support.fleet import FINGERPRINT, MODEL, PROVENANCE, Worker, worker_row
from tests.support.records import leased_shards
from tests.support.wait import patient, wait_until

OUTCOMES = [SliceOutcome(line=1, results=[Scored(index=0, margin=1.0)])]


class Ended(BaseException):
    """The process is gone."""


@pytest.fixture
def job(store, client, objects) -> str:
    """A job with one shard of one pair, over a coordinator that ticks."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)
    spec = make_spec(model=MODEL, input=InputRef(uri="file:///in", size=1, tag="t"))
    store.jobs.create("j", spec, "digest")
    shards = [OpenShard(0, 1, "0-0-1-x")]
    objects.write(shard_uri(objects, "j", "0-0-1-x"), b"")
    store.shards.open(store.jobs.get("j"), ("", "1"), shards, sealed=False, lines=1, low_water=0)
    return "j"


@pytest.fixture
def runtime(store, objects, hints, settings, monkeypatch) -> Runtime:
    """A runtime without a model; `scorer.fails_with` is what scoring raises."""

    def end(status: int) -> None:
        raise Ended

    def score(*_):
        if fake.scorer.fails_with:
            raise fake.scorer.fails_with
        return OUTCOMES, 3

    fake = object.__new__(Runtime)
    fake.settings, fake.store, fake.objects, fake.hints = (
        settings,
        store,
        objects,
        hints,
    )
    fake.draining, fake.provenance, fake.supports_images = False, PROVENANCE, True
    fake.recorder, fake.storage = Recorder(), StorageHealth()
    fake.id, fake.model, fake.fingerprint = "w1", MODEL, FINGERPRINT
    fake.leases = Leases(store, hints, model=MODEL, worker="w1", fingerprint=FINGERPRINT)
    fake.scorer = SimpleNamespace(score=score, fails_with=None)
    fake.batcher = SimpleNamespace(alive=True)
    one = Slice(line=1, query="q", documents=[{"text": "d"}], indices=[0])
    monkeypatch.setattr(tasks, "load_slices", lambda *_: [one])
    monkeypatch.setattr(tasks, "BACKOFF_S", 0)
    monkeypatch.setattr(storage_health, "REST_MIN_S", 0)
    monkeypatch.setattr(storage_health, "REST_MAX_S", 0)
    monkeypatch.setattr(os, "_exit", end)
    return fake


def state(store) -> dict:
    """The record of the shard; t is its lease, s says that it is a suspect."""
    return json.loads(store.client.hget(store.keys.job_open("j"), "0-1"))


def test_a_shard_is_scored_and_committed(runtime, job, store):
    tasks.score_shard(runtime, job, "0-1")

    assert store.jobs.get(job).number("scored") == 1


def test_a_committed_shard_is_counted_and_a_late_one_is_not(runtime, job, store):
    # given a shard that is committed by somebody else while it is scored here
    tasks.score_shard(runtime, job, "0-1")
    store.shards.open(
        store.jobs.get(job),
        ("1", "2"),
        [OpenShard(1, 2, "0-0-1-x")],
        sealed=False,
        lines=1,
        low_water=0,
    )
    other = Lease(job, MODEL, "1-2", "other", "0-0-1-x")
    score = runtime.scorer.score

    def overtaken(*_):
        store.shards.commit(other, "part", ShardSummary(scored=1))
        return score()

    runtime.scorer.score = overtaken
    tasks.score_shard(runtime, job, "1-2")
    # then its pairs are counted once, by the one that was first
    counts = runtime.recorder.counts()
    assert counts[PAIRS.name]["text", "ok"] == 1
    # and the way of both shards
    assert sum(counts[QUEUE_WAIT.name][("normal",)][:-1]) == 2
    for stage in ("load", "store"):
        assert sum(counts[STAGES.name][(stage,)][:-1]) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [(StorageUnavailable("no answer"), "storage"), (redis.ConnectionError("away"), "redis")],
    ids=repr,
)
def test_shards_released_in_an_outage_are_counted(error, reason, runtime, job):
    runtime.scorer.fails_with = error

    tasks.score_shard(runtime, job, "0-1")

    assert runtime.recorder.counts()[RETRIES.name][(reason,)] == 1


@pytest.mark.parametrize(
    "error",
    [
        Stopped(),
        EngineError("the batcher is closed"),
        StorageUnavailable("no answer"),
        redis.ConnectionError("away"),
    ],
    ids=repr,
)
def test_what_passes_gives_the_shard_back(error, runtime, job, store):
    runtime.scorer.fails_with = error

    tasks.score_shard(runtime, job, "0-1")

    assert leased_shards(store, MODEL) == 0
    assert not {"token", "suspect"} & set(state(store))
    assert store.jobs.get(job).paused is None


REFUSALS = [
    StorageRefused("file:///x does not exist"),
    CredentialsRefused("S3 refused the credentials"),
    OSError(errno.EMFILE, "too many open files"),
    MemoryError("no memory"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=repr)
def test_what_may_pass_is_waited_for_and_only_then_pauses_the_job(
    error, runtime, job, store, settings
):
    # given a storage that refuses
    runtime.scorer.fails_with = error
    tasks.score_shard(runtime, job, "0-1")
    # then the shard is free and hinted, nobody is blamed, and the job says what it waits for
    assert not {"token", "suspect", "deaths"} & set(state(store))
    assert runtime.hints.take() == [("shard", job, "0-1")]
    facts = store.jobs.get(job).facts
    assert str(error) in facts["waiting_for"]
    assert runtime.storage.reason == facts["waiting_for"]
    assert int(facts["waiting_until"]) - int(facts["waiting_since"]) == 300_000
    # when that took too long
    store.jobs.set_facts(job, waiting_until=1)
    tasks.score_shard(runtime, job, "0-1")
    # then a person is asked, and the job looks again by itself later
    paused = store.jobs.get(job)
    assert str(error) in paused.paused
    assert store.jobs.resume(paused, by_itself=True)[0] == "early"
    store.jobs.set_facts(job, resumes_at=1)
    assert store.jobs.resume(paused, by_itself=True)[0] == "resumed"
    # and is paused at once when nothing has changed
    tasks.score_shard(runtime, job, "0-1")
    assert store.jobs.get(job).paused
    # but not when a person says that it has
    store.jobs.resume(store.jobs.get(job))
    tasks.score_shard(runtime, job, "0-1")
    assert store.jobs.get(job).paused is None
    # and once it works all is well
    runtime.scorer.fails_with = None
    tasks.score_shard(runtime, job, "0-1")
    assert store.jobs.get(job).number("scored") == 1
    assert not [name for name in store.jobs.get(job).facts if name.startswith("waiting")]
    assert runtime.storage.reason == ""


def test_credentials_that_ran_out_in_one_worker_pause_nothing(runtime, job, store, fleet):
    # given a worker that may not read the storage, beside others that serve the same weights
    for name in ("w1", "w2", "w3"):
        fleet.beat(worker_row(name))
    runtime.scorer.fails_with = CredentialsRefused("S3 refused the credentials")
    # when it fails again and again, for long
    for _ in range(3):
        tasks.score_shard(runtime, job, "0-1")
        store.jobs.set_facts(job, waiting_until=1)
    # then the job waits for one of the others
    assert store.jobs.get(job).paused is None
    # and when each of them meets the same, it is paused
    for runtime.id in ("w2", "w3"):
        tasks.score_shard(runtime, job, "0-1")
    assert "S3 refused the credentials" in store.jobs.get(job).paused


def test_a_slot_that_met_a_failing_storage_rests_outside_its_lease(
    runtime, job, store, monkeypatch
):
    monkeypatch.setattr(storage_health, "REST_MIN_S", patient(60))
    monkeypatch.setattr(storage_health, "REST_MAX_S", patient(60))
    runtime.scorer.fails_with = StorageUnavailable("no answer")
    slot = threading.Thread(target=tasks.score_shard, args=(runtime, job, "0-1"))
    slot.start()
    wait_until(lambda: runtime.hints.sent)
    # then the shard is others' meanwhile
    assert isinstance(Worker(Control(store, None, None, runtime.settings)).claim(job, "0-1"), Lease)
    assert slot.is_alive()
    # and a drain ends the rest
    runtime.storage.close()
    slot.join(patient(10))
    assert not slot.is_alive()


def test_a_redis_that_stays_away_raises_nothing(runtime, job, store, monkeypatch):
    def away(*_):
        raise redis.ConnectionError("away")

    runtime.scorer.fails_with = Stopped()
    monkeypatch.setattr(store.shards, "release", away)

    tasks.score_shard(runtime, job, "0-1")


def test_a_job_of_a_newer_version_is_left_to_a_newer_worker(runtime, job, store):
    # given options that this version does not know
    key = store.keys.job(job)
    spec = json.loads(store.client.hget(key, "spec"))
    store.client.hset(key, "spec", json.dumps({**spec, "brand_new": 1}))

    tasks.score_shard(runtime, job, "0-1")

    # then its shard is free, nobody is blamed, and the job goes on
    assert not {"token", "suspect", "deaths"} & set(state(store))
    assert "paused" not in store.client.hgetall(key)


def test_a_shard_file_of_a_newer_version_is_left_to_a_newer_worker(
    runtime, job, store, monkeypatch, capsys
):
    def newer(*_):
        raise UnreadableJob("a shard was written by a newer version")

    monkeypatch.setattr(tasks, "load_slices", newer)

    tasks.score_shard(runtime, job, "0-1")

    assert not {"token", "suspect", "deaths"} & set(state(store))
    assert store.jobs.get(job).paused is None
    assert "left to a newer worker" in capsys.readouterr().err


def test_an_internal_error_pauses_the_job_and_makes_no_suspect(runtime, job, store):
    runtime.scorer.fails_with = ValueError("odd")

    tasks.score_shard(runtime, job, "0-1")

    assert store.jobs.get(job).paused == (
        "shard 0-1 failed: ValueError: odd. This is a bug; resume tries again"
    )
    assert store.jobs.resume(store.jobs.get(job))[0] == "resumed"
    assert not {"token", "suspect"} & set(state(store))


def test_a_broken_device_ends_the_process_as_if_it_had_been_killed(runtime, job, store):
    runtime.scorer.fails_with = DeviceBroken("the device fails on any pair")

    with pytest.raises(Ended):
        tasks.score_shard(runtime, job, "0-1")

    # then the lease expires: a pair that broke the device becomes a suspect
    assert "token" in state(store)
    assert store.jobs.get(job).progress.done == 0


def test_a_part_names_the_options_of_images(runtime, job, store, objects):
    tasks.score_shard(runtime, job, "0-1")

    ((start, _, part),) = store.jobs.parts(job)
    ((_, provenance),) = load_part(objects, job, start, part)
    assert provenance.pixels == "general:1024x768:crop:0.15:bicubic:blur:1843200"


def test_a_part_of_a_text_model_names_no_options_of_images(runtime, job, store, objects):
    runtime.supports_images = False
    tasks.score_shard(runtime, job, "0-1")

    ((start, _, part),) = store.jobs.parts(job)
    ((_, provenance),) = load_part(objects, job, start, part)
    assert provenance == PROVENANCE


def test_a_part_that_cannot_be_written_is_reported(runtime, job, store, monkeypatch):
    def refuse(*_, **__):
        raise NotAllowed("the bucket is not allowed")

    monkeypatch.setattr(tasks.results, "write", refuse)

    tasks.score_shard(runtime, job, "0-1")

    assert "cannot be done: the bucket" in store.jobs.get(job).paused


def test_a_job_that_needs_a_missing_language_detector_is_paused_with_the_reason(
    runtime, job, store, monkeypatch
):
    # given a worker without the extra
    monkeypatch.setitem(sys.modules, "lingua", None)
    languages._detector.cache_clear()
    source = InputRef(uri="", size=0, tag="")
    spec = make_spec(model=MODEL, input=source, instructions={"de": "Finde"})
    runtime.scorer.score = lambda *_: languages.detector_of(spec)
    # when it gets a shard of such a job
    tasks.score_shard(runtime, job, "0-1")
    # then nothing is scored, and the job says what to install
    assert "pip install 'rerankfleet[languages]'" in store.jobs.get(job).paused
    assert store.jobs.get(job).progress.done == 0


def test_a_failure_from_before_a_job_was_resumed_does_not_pause_it_again(
    runtime, job, store, monkeypatch
):
    # given two shards that fail for the same cause, one of which paused the job, which was resumed
    def fail_late(*_):
        store.jobs.pause(store.jobs.get(job), "the credentials are refused")
        store.jobs.resume(store.jobs.get(job))
        raise UsageError("the credentials are refused")

    monkeypatch.setattr(runtime.scorer, "score", fail_late)
    # when the other one fails at last
    tasks.score_shard(runtime, job, "0-1")
    # then the job goes on
    assert store.jobs.get(job).paused is None


def test_a_dead_device_thread_ends_the_process_but_not_a_drain(runtime, job, store):
    with runtime.leases.claim(job, "0-1"):
        runtime._check_device()
        runtime.batcher.alive = False
        runtime.draining = True
        runtime._check_device()
        assert leased_shards(store, MODEL) == 1

        runtime.draining = False
        with pytest.raises(Ended):
            runtime._check_device()

        assert leased_shards(store, MODEL) == 1  # it runs out


def test_a_second_signal_ends_the_process_and_makes_no_suspect(runtime, job, store, monkeypatch):
    handlers = {}
    monkeypatch.setattr("signal.signal", handlers.__setitem__)
    runtime.settings = runtime.settings.model_copy(update={"drain_s": 1e6})
    with runtime.leases.claim(job, "0-1"):
        runtime.drain()
        with pytest.raises(Ended):
            next(iter(handlers.values()))(15, None)
        assert not {"token", "suspect"} & set(state(store))


def test_a_drain_that_takes_too_long_gives_its_shards_back(runtime, job, store, monkeypatch):
    ended = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(os, "_exit", ended.append)
    runtime.settings = runtime.settings.model_copy(update={"drain_s": 0.1})
    with runtime.leases.claim(job, "0-1"):
        runtime.drain()
        wait_until(lambda: ended == [1])
        assert leased_shards(store, MODEL) == 0
