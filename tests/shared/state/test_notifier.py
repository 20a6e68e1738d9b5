"""The ends of jobs, awaited by many threads over one connection."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import redis
from pydantic import SecretStr

from rerankfleet.shared.job_spec import InputRef, JobSpec
from rerankfleet.shared.state import notifier
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.notifier import JobNotifier
from rerankfleet.shared.state.store import Store
from tests.support.server import free_port, valkey
from tests.support.wait import patient, wait_until

SPEC = JobSpec(model="m", input=InputRef(uri="", size=0, tag=""))


def end(store: Store, job_id: str) -> None:
    """What a last commit does."""
    store.client.hset(store.keys.job(job_id), "finished_ms", 1)
    store.client.publish(store.keys.done_channel(job_id), job_id)


def listeners(client: redis.Redis) -> set[str]:
    """The connections that listen to a pattern."""
    return {c["id"] for c in client.client_list() if c["psub"] != "0"}


def test_hundreds_wait_over_one_connection_and_each_is_told_of_its_own(store, client, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 30.0)  # nobody finds out by looking
    others = listeners(client)
    job_notifier = JobNotifier(store)
    names = [f"j{n}" for n in range(200)]
    with ThreadPoolExecutor(len(names)) as threads:
        # given many who wait
        waits = {name: threads.submit(job_notifier.end_of(name).wait, 25.0) for name in names}
        wait_until(lambda: len(job_notifier._waiting) == len(names), 20, "all wait")
        wait_until(job_notifier._subscribed.is_set, 20, "it listens")
        subscribers = listeners(client) - others
        # when some of their jobs end
        for name in names[::2]:
            end(store, name)
        # then those are told, the others not, and one connection was enough
        assert all(waits[name].result(patient(20)) for name in names[::2])
        assert not any(waits[name].done() for name in names[1::2])
        assert len(subscribers) == 1
        for name in names[1::2]:
            end(store, name)
    client.delete(*(store.keys.job(name) for name in names))


def test_all_who_wait_for_one_job_are_told(store, client, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 30.0)  # nobody finds out by looking
    job_notifier = JobNotifier(store)
    stopped = job_notifier.end_of("j1")
    with ThreadPoolExecutor(5) as threads:
        # given many who wait for the same, of whom one leaves
        waits = [threads.submit(job_notifier.end_of("j1").wait, 25.0) for _ in range(4)]
        leaver = threads.submit(stopped.wait, 25.0)
        wait_until(lambda: len(job_notifier._waiting.get("j1", ())) == 5, 20, "all wait")
        wait_until(job_notifier._subscribed.is_set, 20, "it listens")
        stopped.stop()
        assert not leaver.result(patient(10))
        # when it ends, then all the others are told
        end(store, "j1")
        assert all(one.result(patient(10)) for one in waits)
    assert not job_notifier._waiting
    client.delete(store.keys.job("j1"))


def test_a_job_that_has_ended_is_not_waited_for(store, client):
    end(store, "j1")
    began = time.monotonic()
    assert JobNotifier(store).end_of("j1").wait(patient(20))
    assert time.monotonic() - began < 10
    client.delete(store.keys.job("j1"))


def test_a_time_that_is_over_is_told(store):
    assert not JobNotifier(store).end_of("j1").wait(0.05)


def test_a_wait_that_is_stopped_ends_at_once(store, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 30.0)  # nobody finds out by looking
    job_notifier = JobNotifier(store)
    end_of_job = job_notifier.end_of("j1")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(end_of_job.wait, 25.0)
        wait_until(lambda: job_notifier._waiting)
        end_of_job.stop()
        assert not waiting.result(patient(10))
    assert not job_notifier._waiting


def test_an_end_whose_message_was_lost_is_found_by_looking(store, client, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 0.05)
    job_notifier = JobNotifier(store)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(job_notifier.end_of("j1").wait, 20.0)
        wait_until(lambda: job_notifier._waiting)
        client.hset(store.keys.job("j1"), "finished_ms", 1)  # and no message
        assert waiting.result(patient(20))
    client.delete(store.keys.job("j1"))


def test_the_connection_is_given_back_when_nobody_waits(store, client, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 0.05)
    monkeypatch.setattr(notifier, "IDLE_S", 0.1)
    job_notifier = JobNotifier(store)
    assert not job_notifier.end_of("j1").wait(0.05)
    wait_until(lambda: job_notifier._thread is None, 20, "it is gone")
    # and taken up again by the next one
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(job_notifier.end_of("j2").wait, 20.0)
        wait_until(job_notifier._subscribed.is_set, 20, "it listens")
        end(store, "j2")
        assert waiting.result(patient(20))
    client.delete(store.keys.job("j2"))


def test_a_redis_that_restarts_is_listened_to_again(change, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(notifier, "POLL_S", 0.05)
    port = free_port()
    with valkey(tmp_path, port=port) as url:
        store = Store(connect(change(redis_url=SecretStr(url))), change())
        job_notifier = JobNotifier(store)
        assert not job_notifier.end_of("j1").wait(0.05)
    with valkey(tmp_path, port=port):
        wait_until(store.client.pubsub_numpat, 20, "it listens again")
