"""Where small requests stand: one look at a queue serves all who ask."""

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
    (found,) = broker_keys(settings, [model_queue(MODEL, Priority.interactive)])
    return found


@pytest.fixture
def looks(store, monkeypatch) -> list[str]:
    """The lists that were read, one entry each time."""
    found: list[str] = []
    read = store.broker.hint_positions

    def counted(list_key: str) -> tuple[int, dict[str, int]]:
        found.append(list_key)
        return read(list_key)

    monkeypatch.setattr(store.broker, "hint_positions", counted)
    return found


def hint(real_hints, *jobs: str) -> None:
    for job_id in jobs:
        real_hints.shard(MODEL, Priority.interactive, job_id, "0-1")


def test_all_who_ask_are_told_of_the_same_look(store, real_hints, queue, looks, monkeypatch):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", math.inf)
    # given jobs that wait, one of them with two shards
    hint(real_hints, "a", "b", "b", "c")
    queues, since_s = QueuePositions(store), time.monotonic()
    # when each of them asks
    found = {job_id: queues.ahead(queue, job_id, since_s) for job_id in "abc"}
    # then the queue was read once
    assert found == {"a": 0, "b": 1, "c": 3}
    assert looks == [queue]
    # and who is in it no longer stands before nobody
    assert queues.ahead(queue, "taken", since_s) == 0
    assert looks == [queue]


def test_who_came_after_the_look_stands_behind_all(store, real_hints, queue, looks, monkeypatch):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", math.inf)
    hint(real_hints, "a", "b")
    queues = QueuePositions(store)
    assert queues.ahead(queue, "a", time.monotonic()) == 0
    hint(real_hints, "c")
    assert queues.ahead(queue, "c", time.monotonic()) == 2
    assert looks == [queue]


def test_a_look_is_told_for_a_while_only(store, client, real_hints, queue, monkeypatch):
    monkeypatch.setattr(queue_position, "MAX_AGE_S", 0.0)
    hint(real_hints, "a", "b")
    queues, since_s = QueuePositions(store), time.monotonic()
    assert queues.ahead(queue, "b", since_s) == 1
    client.rpop(queue)
    assert queues.ahead(queue, "b", since_s) == 0
