"""The positions of small requests in their queues: one reading serves all of them."""

from __future__ import annotations

import math
import time

import pytest

from rerankfleet.producer import queue_position
from rerankfleet.producer.queue_position import QueuePositions
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import broker_keys, model_queue
from tests.support.fleet import MODEL


@pytest.fixture
def queue(settings) -> str:
    """The list in which the model's interactive hints wait."""
    (list_key,) = broker_keys(settings, [model_queue(MODEL, Priority.interactive)])
    return list_key


@pytest.fixture
def readings(store, monkeypatch) -> list[str]:
    """The lists that were read, one entry each time."""
    read_keys: list[str] = []
    read = store.broker.hint_positions

    def counted(list_key: str) -> tuple[int, dict[str, int]]:
        read_keys.append(list_key)
        return read(list_key)

    monkeypatch.setattr(store.broker, "hint_positions", counted)
    return read_keys


def hint(real_hints, *jobs: str) -> None:
    for job_id in jobs:
        real_hints.shard(MODEL, Priority.interactive, job_id, "0-1")


def test_the_queue_is_read_once_for_all_requests(store, real_hints, queue, readings, monkeypatch):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", math.inf)
    # given jobs that wait, one of them with two shards
    hint(real_hints, "a", "b", "b", "c")
    queues, since_s = QueuePositions(store), time.monotonic()
    # when the position of each is read
    ahead = {job_id: queues.ahead(queue, job_id, since_s) for job_id in "abc"}
    # then the queue was read once
    assert ahead == {"a": 0, "b": 1, "c": 3}
    assert readings == [queue]
    # and a job that is no longer in it has nothing before it
    assert queues.ahead(queue, "taken", since_s) == 0
    assert readings == [queue]


def test_a_request_sent_after_the_reading_is_behind_all(
    store, real_hints, queue, readings, monkeypatch
):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", math.inf)
    hint(real_hints, "a", "b")
    queues = QueuePositions(store)
    assert queues.ahead(queue, "a", time.monotonic()) == 0
    hint(real_hints, "c")
    assert queues.ahead(queue, "c", time.monotonic()) == 2
    assert readings == [queue]


def test_a_reading_is_used_for_a_while_only(store, client, real_hints, queue, monkeypatch):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", 0.0)
    hint(real_hints, "a", "b")
    queues, since_s = QueuePositions(store), time.monotonic()
    assert queues.ahead(queue, "b", since_s) == 1
    client.rpop(queue)
    assert queues.ahead(queue, "b", since_s) == 0
