"""Equal documents tie over HTTP, in every shape, whatever shards their request is cut into; and
what was not read of a document is told in every shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rerankfleet.producer.gateway.formats.losses import losses
from tests.support.fleet import Worker
from tests.support.gateway import running_gateway, working_fleet
from tests.support.wait import wait_until

TEXTS = [["a", "b", "c", "d"][n * n % 4] for n in range(13)] + ["d", "b", "a"]


@pytest.fixture
def jittery(change, control) -> Iterator[httpx.Client]:
    """A gateway that cuts requests into shards of two pairs, before a worker that gives each pair a
    margin of its own in the last digits."""
    worker = Worker(control, jitter=1e-9)
    with working_fleet(control, worker), running_gateway(change(shard_pairs_max=2)) as http:
        yield http


def post(http: httpx.Client, path: str, **body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code < 300, answer.text
    return answer.json()


def assert_tied(scores: dict[int, float], order: list[int]) -> None:
    assert sorted(scores) == sorted(order) == list(range(len(TEXTS)))
    assert len({(TEXTS[n], scores[n]) for n in scores}) == len(set(TEXTS))
    assert order == sorted(order, key=lambda n: (-scores[n], n))


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_equal_documents_tie_in_the_order_of_the_request(jittery, path):
    results = post(jittery, path, query="q", documents=TEXTS)["results"]
    order = [one["index"] for one in results]
    assert_tied({one["index"]: one["relevance_score"] for one in results}, order)


def test_so_do_texts_of_tei(jittery):
    ranks = post(jittery, "/rerank", query="q", texts=TEXTS, raw_scores=True)
    assert_tied({one["index"]: one["score"] for one in ranks}, [one["index"] for one in ranks])


@pytest.mark.parametrize("queries", ["q", ["q"] * len(TEXTS)], ids=["one query", "pair by pair"])
def test_so_do_pairs_of_vllm(jittery, queries):
    data = post(jittery, "/v1/score", queries=queries, documents=TEXTS)["data"]
    assert [one["index"] for one in data] == list(range(len(TEXTS)))
    assert len({(t, one["score"]) for t, one in zip(TEXTS, data, strict=True)}) == len(set(TEXTS))


def test_pairs_of_several_queries_keep_their_places(jittery):
    queries = ["q", "r", "q", "r", "q"]
    documents = ["a", "a", {"text": "a"}, "a", "b"]
    data = post(jittery, "/v1/score", queries=queries, documents=documents)["data"]
    scores = [one["score"] for one in data]
    assert scores[1] == scores[3]
    assert len({*scores}) == 4 or scores[0] == scores[2]
    alone = post(jittery, "/v1/score", queries="r", documents="a")["data"][0]["score"]
    assert scores[1] == pytest.approx(alone)


def test_so_do_documents_of_a_job_of_one_request(jittery):
    documents = [{"text": text, "id": n} for n, text in enumerate(TEXTS)]
    job = post(jittery, "/v1/rerank", query="q", documents=documents, mode="async")
    home = job["links"]["self"]
    wait_until(lambda: jittery.get(home).json()["state"] == "done", 30, "the job ends")
    (line,) = map(json.loads, jittery.get(job["links"]["results"]).text.splitlines())
    order = [one["index"] for one in line["results"]]
    assert_tied({one["index"]: one["margin"] for one in line["results"]}, order)


# ---- what was not read --------------------------------------------------------------------------


def test_what_was_not_read_is_told_in_words():
    cut, crowded = {"truncated_tokens": 3}, {"truncated_tokens": 3, "crowded": True}
    assert losses([(0, {}), (1, {"truncated_tokens": 0})]) == []
    assert losses([(2, cut), (0, cut), (1, crowded)]) == [
        "documents 0, 2: the text was too long, its end was not read",
        "document 1: nothing was read, the query filled max_length",
    ]
    (many,) = losses(((n, cut) for n in range(200)), "pair")
    assert many.startswith("pairs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 190 more: ")


LONG = "word " * 9_000


@pytest.mark.parametrize(
    ("query", "document", "says"),
    [("what?", LONG, "its end was not read"), (LONG, "a document", "nothing was read")],
    ids=["cut", "crowded"],
)
def test_what_was_not_read_is_told_in_every_shape(real, query, document, says):
    model = {"model": "pocket-text", "query": query}
    native = post(real, "/v1/rerank", **model, documents=["short", document])
    assert says in str(native["warnings"])
    cohere = post(real, "/v2/rerank", **model, documents=["short", document])
    assert says in str(cohere["meta"]["warnings"])
    score = {"model": "pocket-text", "queries": query, "documents": ["short", document]}
    assert says in str(post(real, "/v1/score", **score)["warnings"])
    tei = real.post("/rerank", json=model | {"texts": ["short", document]})
    assert says in str(json.loads(tei.headers["X-Rerank-Warnings"]))
    named = "1" if document == LONG else "0, 1"
    for told in (native["warnings"], cohere["meta"]["warnings"]):
        assert f" {named}: " in str(told)


def test_the_same_texts_have_the_same_scores_on_a_model(real):
    documents = [
        "a red bird",
        "a stone",
        "a red bird",
        {"text": "a stone", "id": "x"},
        "a red bird",
    ]
    results = post(real, "/v1/rerank", model="pocket-text", query="q", documents=documents)[
        "results"
    ]
    margins = {one["index"]: one["margin"] for one in results}
    assert margins[0] == margins[2] == margins[4] != margins[1] == margins[3]
    assert [one["index"] for one in results] in ([0, 2, 4, 1, 3], [1, 3, 0, 2, 4])
