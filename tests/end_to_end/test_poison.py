"""Pairs that end the process that scores them, each time: they become errors, after few deaths, and
all others have their scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.gateway import running_gateway
from tests.support.poison import POISON, WORKER, Deaths, deaths_max, mortal_workers
from tests.support.stack import Stack
from tests.support.wait import patient, wait_until

MODEL = "pocket-text"
OUTAGES = 3
"""A coordinator that is silent on a busy machine makes an outage, in which nobody is blamed."""


@pytest.fixture(scope="module")
def deaths(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Deaths:
    with mortal_workers(stack, tmp_path_factory.mktemp("mortal"), MODEL) as counted:
        yield counted


def poison(name: str) -> str:
    return f"{POISON}: {name}"


@pytest.mark.parametrize(
    ("documents", "bad"),
    [
        (["bread", "stone", poison("one")], {2}),
        ([poison("first"), "bread", "stone", poison("last")], {0, 3}),
        ([poison("one"), poison("two")], {0, 1}),
    ],
    ids=["one", "at both ends", "all"],
)
def test_pairs_that_kill_their_worker_become_errors_and_all_others_get_scores(
    stack: Stack, deaths: Deaths, tmp_path: Path, documents: list[str], bad: set[int]
) -> None:
    # given a job with such pairs
    source, before = tmp_path / "poison.jsonl", deaths()[WORKER]
    source.write_text(json.dumps({"query": "what is bread", "documents": documents}) + "\n")
    # when it runs
    job_id = stack.client.submit(source, model=MODEL)
    assert stack.client.wait(job_id, timeout_s=patient(300)).state == "done"
    # then they alone have no score, and say why
    (line,) = stack.client.results(job_id)
    assert {error["index"]: error["code"] for error in line["errors"]} == dict.fromkeys(
        bad, "worker_died"
    )
    assert {result["index"] for result in line["results"]} == set(range(len(documents))) - bad
    # and no more workers died than it takes to find them
    assert 0 < deaths()[WORKER] - before <= deaths_max(len(documents), len(bad)) + OUTAGES


def test_a_small_request_gets_the_scores_of_all_other_documents(
    stack: Stack, deaths: Deaths
) -> None:
    # given a gateway whose requests may take long, and a worker
    wait_until(stack.ready_workers, 60, "a worker is ready")
    settings = stack.settings.model_copy(update={"interactive_deadline_s": patient(180)})
    with running_gateway(settings) as http:
        # when a request holds a document that kills its worker
        body = {"model": MODEL, "query": "bread", "documents": ["bread", poison("x"), "stone"]}
        answer = http.post("/v1/rerank", json=body, timeout=patient(200))
    # then it has no score, and says why, and the others have theirs
    assert answer.status_code == 200, answer.text
    assert sorted(result["index"] for result in answer.json()["results"]) == [0, 2]
    (error,) = answer.json()["errors"]
    assert (error["index"], error["code"]) == (1, "worker_died")


def test_a_small_request_past_its_deadline_kills_nobody_any_more(
    stack: Stack, deaths: Deaths
) -> None:
    # given a gateway whose requests may not take long
    settings = stack.settings.model_copy(update={"interactive_deadline_s": patient(3)})
    with running_gateway(settings) as http:
        # when the deadline of such a request passes
        body = {"model": MODEL, "query": "bread", "documents": ["bread", poison("x")]}
        answer = http.post("/v1/rerank", json=body, timeout=patient(60))
        assert answer.status_code == 504, answer.text
        # then nothing of it is left for a worker, and the next request is answered
        store = stack.client.store
        wait_until(lambda: not store.client.exists(store.keys.open(MODEL)), 30, "nothing is open")
        wait_until(stack.ready_workers, 60, "a worker is ready")
        died = deaths()[WORKER]
        body = {"model": MODEL, "query": "bread", "documents": ["bread", "stone"]}
        answer = wait_until(lambda: _answered(http, body), 60, "the next request is answered")
    assert len(answer["results"]) == 2
    assert deaths()[WORKER] == died


def _answered(http, body) -> dict | None:
    answer = http.post("/v1/rerank", json=body, timeout=patient(60))
    return answer.json() if answer.status_code == 200 else None
