"""How many requests are taken at once, and what becomes of those whose client leaves."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from rerankfleet.producer.interactive import Interactive, PendingRequest
from rerankfleet.shared.job_spec import Priority
from tests.support.fleet import MODEL, worker_row
from tests.support.gateway import posted, running_gateway
from tests.support.records import open_shards
from tests.support.wait import patient, wait_until

BODY = {"query": "q", "documents": ["a", "b"]}
WRONG = {"query": " ", "documents": ["a"]}


def test_a_full_queue_sends_away_with_a_time_to_come_back(change, fleet, real_hints):
    fleet.beat(worker_row())
    real_hints.shard(MODEL, Priority.interactive, "j", "0-1")
    with running_gateway(change(interactive_queue_max=1)) as http:
        for path, kind in (("/v1/rerank", "error"), ("/v2/rerank", "message")):
            answer = http.post(path, json=BODY)
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
            assert kind in answer.json()
        tei = http.post("/rerank", json={"query": "q", "texts": ["a"]})
    assert (tei.status_code, tei.json()["error_type"]) == (429, "Overloaded")


def test_a_gateway_whose_hands_are_full_sends_away(change, fleet, store):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_requests_max=1)) as http, ThreadPoolExecutor(1) as threads:
        # given a request in hand that nobody answers
        first = threads.submit(http.post, "/v1/rerank", json=BODY)
        (job_id,) = wait_until(store.jobs.unfinished, what="it is in hand")
        # then another one is not kept waiting
        second = http.post("/v1/rerank", json=BODY)
        assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
        # and when the first one is over
        store.jobs.cancel(store.jobs.get(job_id))
        assert first.result(patient(20)).status_code == 504
        # then the hand is free: this one is refused for itself
        assert http.post("/v1/rerank", json=WRONG).status_code == 422


def test_of_many_requests_at_once_no_more_are_taken_than_there_are_hands(change, fleet, store):
    fleet.beat(worker_row())
    # given one hand and twenty requests at the same moment
    with running_gateway(change(gateway_requests_max=1)) as http, ThreadPoolExecutor(20) as threads:
        together = threading.Barrier(20)

        def ask() -> int:
            together.wait(patient(20))
            return http.post("/v1/rerank", json=BODY).status_code

        asked = [threads.submit(ask) for _ in range(20)]
        # when all but one have their answer
        wait_until(lambda: sum(one.done() for one in asked) == 19, 20, "the others are sent away")
        (job_id,) = wait_until(store.jobs.unfinished, what="one is in hand")
        store.jobs.cancel(store.jobs.get(job_id))
        # then one was taken in hand
        assert sorted(one.result(patient(20)) for one in asked) == [429] * 19 + [504]


def test_a_client_that_goes_away_leaves_no_work_behind(change, fleet, store):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_requests_max=1)) as http:
        # given a request in hand
        with posted(http, "/v1/rerank", BODY):
            (job_id,) = wait_until(store.jobs.unfinished, what="it is in hand")
        # when its client closes the connection: then its job ends, long before the deadline
        wait_until(lambda: store.jobs.get(job_id).cancelled, what="the job is cancelled")
        assert store.shards.due(MODEL, 10) == []
        # and the hand is free: this one is refused for itself, not for the other
        hand_is_free = lambda: http.post("/v1/rerank", json=WRONG).status_code == 422  # noqa: E731
        wait_until(hand_is_free, what="the hand is free")


def test_a_client_that_leaves_before_its_job_is_made_leaves_nothing_behind(
    settings, fleet, store, monkeypatch
):
    fleet.beat(worker_row())
    began, left, start = threading.Event(), threading.Event(), Interactive.start

    def slow(*args: object, **options: object) -> PendingRequest:
        began.set()
        assert left.wait(patient(20))
        return start(*args, **options)

    monkeypatch.setattr(Interactive, "start", slow)
    with running_gateway(settings) as http:
        # given a client that closes its connection while its request is on the way to the queue
        with posted(http, "/v1/rerank", BODY):
            assert began.wait(patient(20))
        left.set()
        # then the job that is made is cancelled at once
        wait_until(lambda: store.client.exists(store.keys.models), what="the job is made")
        wait_until(lambda: not store.jobs.unfinished(), what="the job is cancelled")
        assert open_shards(store, MODEL) == 0
