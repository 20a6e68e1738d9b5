"""A request whose stages are told as events, from the queue to its answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import broker_keys, model_queue
from tests.support.fleet import MODEL, Worker, worker_row
from tests.support.gateway import running_gateway, working_fleet
from tests.support.wait import wait_until

STAGED = {"Accept": "text/event-stream"}
BODY = {"query": "q", "documents": ["a", "b", "c"], "model": MODEL}
Events = Iterator[tuple[str, Any]]


@pytest.fixture
def served(fleet) -> None:
    """A worker that says it is there, and does nothing unless told to."""
    fleet.beat(worker_row())


def events(answer: httpx.Response) -> Events:
    """The events of a stream; comments are passed over."""
    name = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def the_shard(store) -> tuple[str, str]:
    """The one shard that waits."""
    ((job_id, shard),) = wait_until(lambda: store.shards.due(MODEL, 10), what="it is in the queue")
    return job_id, shard


def test_a_request_is_followed_from_the_queue_to_its_answer(
    http, served, store, settings, control, real_hints
):
    # given two others that wait already
    for other in ("first", "second"):
        real_hints.shard(MODEL, Priority.interactive, other, "0-1")
    (waiting,) = broker_keys(settings, [model_queue(MODEL, Priority.interactive)])
    with http.stream("POST", "/v1/rerank", json=BODY, headers=STAGED) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        told = events(answer)
        # then it stands behind them, and comes nearer as they are taken
        assert next(told) == ("queued", {"ahead": 2})
        store.client.rpop(waiting)
        assert next(told) == ("queued", {"ahead": 1})
        # when a worker claims it, then it is no longer queued
        worker = Worker(control)
        lease = worker.claimed(*the_shard(store))
        assert next(told) == ("scoring", {"done": 0, "total": 3})
        # and with its last pair comes the answer, which is as ever
        worker.commit(lease)
        found = [entry for entry in told if entry[0] != "scoring"]
    ((name, body),) = found
    assert name == "answer"
    with working_fleet(control):
        plain = http.post("/v1/rerank", json=BODY).json()
    told_once = ("id", "created", "timings")
    assert {k: v for k, v in body.items() if k not in told_once} == {
        k: v for k, v in plain.items() if k not in told_once
    }


def test_what_is_wrong_at_once_is_told_with_its_status(http, served):
    for body, status in (({**BODY, "query": " "}, 422), ({**BODY, "model": "other"}, 404)):
        answer = http.post("/v1/rerank", json=body, headers=STAGED)
        assert answer.status_code == status
        assert answer.json()["error"]["message"]


def test_a_full_queue_sends_away_as_ever(change, served):
    with running_gateway(change(interactive_queue_max=0)) as http:
        answer = http.post("/v1/rerank", json=BODY, headers=STAGED)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")


def test_what_goes_wrong_later_is_told_as_an_event(change, served):
    with running_gateway(change(interactive_deadline_s=0.2)) as http:
        http.get("/metrics")  # which sees the model
        answer = http.post("/v1/rerank", json=BODY, headers=STAGED)
        assert answer.status_code == 200
        *_, (name, body) = events(answer)
        plain = http.post("/v1/rerank", json=BODY)
        counted = http.get("/metrics", params={"of": "gateway"}).text
    assert f'{{model="{MODEL}",outcome="server_error",route="/v1/rerank"}} 2.0' in counted
    assert (name, body["status"]) == ("error", plain.status_code) == ("error", 504)
    assert body["error"] == plain.json()["error"]


def test_whoever_breaks_off_leaves_no_work_behind(http, served, store):
    # given a request that is followed
    with http.stream("POST", "/v1/rerank", json=BODY, headers=STAGED) as answer:
        told = events(answer)
        assert next(told)[0] == "queued"
        job_id, shard = the_shard(store)
        assert shard_range(shard) == (0, 3)
    # when the client goes, then the job is cancelled
    wait_until(lambda: store.jobs.get(job_id).cancelled, what="the job is cancelled")
    assert store.shards.due(MODEL, 10) == []
