"""The wire formats of all clients, against a real stack; Cohere's with its own package."""

from __future__ import annotations

import json
from typing import Any

import cohere
import httpx
import pytest

from tests.support.stack import Stack
from tests.support.wait import patient

MODEL = "pocket-text"
QUERY = "how do I open a file?"
DOCUMENTS = [
    "Bread is baked in an oven.",
    "open() returns a file object; it takes a path and a mode.",
    "A list is a sequence.",
    "Read lines of a file with a for loop.",
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def margins() -> list[float]:
    """The margins of DOCUMENTS, from the engine in this process."""
    from rerankfleet import Reranker

    return Reranker(MODEL).margins({"query": QUERY, "documents": DOCUMENTS})


@pytest.fixture(scope="module")
def order(margins: list[float]) -> list[int]:
    """Indices, best first."""
    return sorted(range(len(margins)), key=lambda at: -margins[at])


def ask(real: httpx.Client, path: str = "/v1/rerank", **fields: Any) -> Any:
    """The answer to a request that must succeed."""
    body = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS} | fields
    answer = real.post(path, json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_our_own_answer_says_all_there_is(real, margins, order):
    body = ask(real, documents=[DOCUMENTS[0], *({"id": f"d{n}", "text": t} for n, t in
                                                enumerate(DOCUMENTS[1:], 1))])  # fmt: skip

    assert [r["index"] for r in body["results"]] == order
    for result in body["results"]:
        assert (
            result["margin"]
            == result["logit"]
            == pytest.approx(margins[result["index"]], abs=TOLERANCE)
        )
        assert 0 < result["relevance_score"] < 1
        assert result.get("id") == (f"d{result['index']}" if result["index"] else None)
    assert (body["object"], body["model"]) == ("rerank", MODEL)
    assert body["errors"] == body["rejected"] == []
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 20
    assert body["provenance"]["dtype"] == "fp32"
    assert 0 < body["timings"]["fleet_s"] <= body["timings"]["total_s"]


def test_jinas_shape(real, order):
    # given documents as Jina's clients write them
    documents = [{"text": text} for text in DOCUMENTS]
    # when they ask as those do
    body = ask(real, documents=documents, top_n=2, return_documents=True)
    # then everything that they read is there
    assert body["model"] == MODEL
    assert body["usage"]["total_tokens"] > 0
    assert [r["index"] for r in body["results"]] == order[:2]
    assert [r["document"]["text"] for r in body["results"]] == [DOCUMENTS[n] for n in order[:2]]


def test_vllms_shape(real, order):
    def parts(text: str) -> dict[str, Any]:
        return {"content": [{"type": "text", "text": text}]}

    body = ask(
        real,
        query=parts(QUERY),
        documents=[DOCUMENTS[0], *map(parts, DOCUMENTS[1:])],
        top_n=0,
        truncate_prompt_tokens=-1,
    )

    assert body["id"].startswith("rerank-")
    assert body["usage"]["prompt_tokens"] > 0
    assert [r["index"] for r in body["results"]] == order
    first = body["results"][0]["document"]
    assert first == {"text": DOCUMENTS[order[0]], "multi_modal": None}


VLLM_EXTRAS = {
    "user": "me",
    "request_id": "r1",
    "priority": 1,
    "truncate_prompt_tokens": 512,
    "truncation_side": "right",
    "padding": "do_not_pad",
    "mm_processor_kwargs": {"max_pixels": 1},
    "cache_salt": "salt",
    "use_activation": True,
}
JINA_EXTRAS = {"return_embeddings": False, "truncation": True, "return_documents": True}
INFINITY_EXTRAS = {"raw_scores": False, "return_documents": False, "modality": "text"}


@pytest.mark.parametrize("extras", [VLLM_EXTRAS, JINA_EXTRAS, INFINITY_EXTRAS])
@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_what_clients_of_other_servers_send_besides_changes_nothing(real, order, path, extras):
    body = ask(real, path, top_n=2, **extras)
    assert [r["index"] for r in body["results"]] == order[:2]
    assert all(name in str(body["warnings"]) for name in {*extras} & {"user", "truncation"})


def test_infinitys_shape(real, order):
    body = ask(real, "/rerank", top_n=2, raw_scores=False, return_documents=False)
    assert (body["object"], body["model"]) == ("rerank", MODEL)
    assert [r["index"] for r in body["results"]] == order[:2]
    assert all("document" not in result for result in body["results"])
    assert {"prompt_tokens", "total_tokens"} <= set(body["usage"])
    assert isinstance(body["created"], int)


def test_documents_are_cut_to_so_many_tokens(real):
    # given a long document, and the one that its first three tokens are
    long, short = "a b c d e f g h", "a b c"
    body = ask(real, documents=[long, short], max_tokens_per_doc=3)
    # then both have the same margin, and what was cut is reported
    margins = {r["index"]: r["margin"] for r in body["results"]}
    assert margins[0] == pytest.approx(margins[1], abs=TOLERANCE)
    lost = {r["index"]: r.get("truncated_tokens") for r in body["results"]}
    assert lost == {0: 5, 1: None}
    # and without a limit the whole is read
    for nothing in (None, 0):
        (whole,) = ask(real, documents=[long], max_tokens_per_doc=nothing)["results"]
        assert whole["margin"] != pytest.approx(margins[1], abs=TOLERANCE)
        assert "truncated_tokens" not in whole


@pytest.mark.parametrize(
    ("explain", "explained"),
    [("none", False), ("contributions", True), (True, True), (False, False)],
)
def test_sub_scores_may_be_requested_by_name(real, explain, explained):
    results = ask(real, explain=explain)["results"]
    assert all(("explain" in result) is explained for result in results)


def test_documents_are_left_out_on_request(real):
    body = ask(real, return_documents=False)
    assert not any("document" in result for result in body["results"])


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_scores_may_be_margins(real, path):
    for field in ({"raw_scores": True}, {"use_activation": False}):
        for result in ask(real, path, **field)["results"]:
            assert result["relevance_score"] == result["margin"]


def test_an_instruction_and_a_temperature_are_obeyed(real):
    plain, spread = ask(real), ask(real, temperature=2)
    other = ask(real, instruct="Find recipes")

    def scores(body: Any) -> list[float]:
        return [r["relevance_score"] for r in sorted(body["results"], key=lambda r: r["index"])]

    assert scores(plain) != scores(spread)
    assert [r["index"] for r in plain["results"]] == [r["index"] for r in spread["results"]]
    assert scores(plain) != scores(other)


def test_a_profile_and_top_p_are_obeyed(real):
    sharp = ask(real, profile="ecommerce")["results"]
    plain = ask(real, instruction=None)["results"]
    assert {r["index"]: r["margin"] for r in sharp} != {r["index"]: r["margin"] for r in plain}
    nucleus = ask(real, temperature=0.3, top_p=0.7)["results"]
    assert {result["relevance_score"] for result in nucleus} <= {0.0, 1.0}
    unknown = real.post(
        "/v1/rerank", json={"model": MODEL, "query": "q", "documents": ["a"], "profile": "none"}
    )
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (422, "invalid")


def test_coheres_own_client(stack: Stack, order):
    # given the package as it is, with our address
    client = cohere.ClientV2(api_key="any", base_url=stack.gateway, timeout=patient(60))
    # when it ranks
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=3)
    # then it reads our answer as its own
    assert [result.index for result in answer.results] == order[:3]
    assert all(0 < result.relevance_score < 1 for result in answer.results)
    assert answer.meta.api_version.version == "2"
    assert answer.meta.billed_units.search_units == 1
    # and documents are cut where it says so
    long, short = "a b c d e f g h", "a b c"
    for most in (3, 1_000_000):
        answer = client.rerank(
            model=MODEL, query=QUERY, documents=[long, short], max_tokens_per_doc=most
        )
        scores = {result.index: result.relevance_score for result in answer.results}
        assert (scores[0] == pytest.approx(scores[1], abs=TOLERANCE)) is (most == 3)
    # and its own fields that change nothing here are reported
    answer = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, priority=1)
    assert answer.meta.warnings == ["the field 'priority' is ignored"]
    # and our errors are its errors
    with pytest.raises(cohere.NotFoundError) as caught:
        client.rerank(model="none", query=QUERY, documents=DOCUMENTS)
    assert "never served the model" in caught.value.body["message"]


def test_teis_shape(real, margins, order):
    body = {"model": MODEL, "query": QUERY, "texts": DOCUMENTS}

    ranks = real.post("/rerank", json=body | {"return_text": True}).json()
    raw = real.post("/rerank", json=body | {"raw_scores": True, "truncate": True}).json()

    assert [rank["index"] for rank in ranks] == order
    assert [rank["text"] for rank in ranks] == [DOCUMENTS[n] for n in order]
    assert all(set(rank) == {"index", "score"} for rank in raw)
    assert [rank["score"] for rank in raw] == pytest.approx(
        [margins[n] for n in order], abs=TOLERANCE
    )


@pytest.mark.parametrize(
    ("body", "error", "kind"),
    [
        ({"query": QUERY, "texts": []}, "there are no documents: give at least one", "Validation"),
        ({"query": QUERY, "texts": [1]}, "texts[0]: Input should be a valid string", "Validation"),
        ({"texts": ["a"]}, "query: Field required", "Validation"),
        (
            {"query": "", "texts": ["a"]},
            "the query is empty: give a text or an image",
            "Validation",
        ),
    ],
)
def test_teis_errors(real, body, error, kind):
    answer = real.post("/rerank", json={"model": MODEL} | body)
    assert answer.status_code == 422
    assert answer.json() == {"error": error, "error_type": kind}


def test_tei_refuses_what_is_too_long_where_it_may_not_cut(real):
    long = "word " * 20_000
    body = {"model": MODEL, "query": QUERY, "texts": ["short", long], "truncate": False}
    answer = real.post("/rerank", json=body)
    assert answer.status_code == 413
    assert answer.json()["error"] == "texts[1] is too long: set truncate to true"


def test_tei_texts_are_cut_at_their_end_only(real):
    long = "word " * 20_000
    body = {
        "model": MODEL,
        "query": QUERY,
        "texts": ["short", long],
        "truncation_direction": "left",
    }
    answer = real.post("/rerank", json=body)
    assert answer.status_code == 422
    assert "texts are cut at their end only" in answer.json()["error"]
    assert real.post("/rerank", json=body | {"texts": ["short"]}).status_code == 200


@pytest.mark.parametrize("extras", [VLLM_EXTRAS, {"model": MODEL}])
def test_vllms_scores_may_come_with_all_that_its_clients_send(real, extras):
    body = {"model": MODEL, "queries": QUERY, "documents": DOCUMENTS} | extras
    answer = real.post("/v1/score", json=body).json()
    assert len(answer["data"]) == 4
    assert bool(answer["warnings"]) is ("user" in extras)


def test_vllms_limit_of_a_prompt_is_obeyed(real):
    def score(**limit: int) -> float:
        body = {"model": MODEL, "queries": QUERY, "documents": "a b c d e " * 200}
        return real.post("/v1/score", json=body | limit).json()["data"][0]["score"]

    assert score(truncate_prompt_tokens=200) == score(max_length=200) != score()


@pytest.mark.parametrize(
    ("queries", "documents"),
    [("queries", "documents"), ("data_1", "data_2"), ("text_1", "text_2"), ("queries", "items")],
)
def test_vllms_scores(real, margins, queries, documents):
    def score(query: Any, docs: Any) -> list[float]:
        body = {"model": MODEL, queries: query, documents: docs, "use_activation": False}
        answer = real.post("/score", json=body).json()
        assert (answer["object"], answer["model"]) == ("list", MODEL)
        assert [one["index"] for one in answer["data"]] == list(range(len(answer["data"])))
        return [one["score"] for one in answer["data"]]

    # one and one, one and many, pair by pair: always the same scores
    assert score(QUERY, DOCUMENTS[1]) == pytest.approx([margins[1]], abs=TOLERANCE)
    assert score(QUERY, DOCUMENTS) == pytest.approx(margins, abs=TOLERANCE)
    assert score([QUERY] * 4, DOCUMENTS) == pytest.approx(margins, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("queries", "param", "code"),
    [
        (["a", ""], "queries[1]", "empty_query"),
        (["a", "\ud800"], "queries[1]", "invalid_text"),
        (["a", {"image": "ftp://a/b"}], "queries[1].image[0]", "invalid_request"),
        (["a", 5], "queries[1]", "invalid_request"),
        ([{"text": "a", "txt": "b"}], "queries[0].txt", "invalid_request"),
        (" ", "queries", "empty_query"),
    ],
)
def test_an_error_of_a_query_names_its_place(real, queries, param, code):
    body = json.dumps({"model": MODEL, "queries": queries, "documents": ["x", "y"]})
    answer = real.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert error["message"].startswith(f"{param}: ")


def test_pairs_of_different_queries_keep_their_order(real):
    pairs = [(f"what is {word}?", f"{word} is a thing") for word in ("a list", "bread", "a file")]
    body = {"model": MODEL, "queries": [q for q, _ in pairs], "documents": [d for _, d in pairs]}

    together = real.post("/v1/score", json=body).json()["data"]

    for (query, document), entry in zip(pairs, together, strict=True):
        alone = ask(real, query=query, documents=[document])["results"][0]["relevance_score"]
        assert entry["score"] == pytest.approx(alone, abs=TOLERANCE)


def test_a_job_over_http_gives_what_a_request_gives(real, margins):
    # given a file of one request, uploaded
    named = [{"id": n, "text": t, "metadata": {"n": n}} for n, t in enumerate(DOCUMENTS)]
    line = {"id": "q1", "query": QUERY, "documents": named}
    uploaded = real.post("/v1/uploads", params={"name": "in.jsonl"}, json=line).json()
    # when a job is made of it and followed to its end
    job = real.post("/v1/jobs", json={"input": uploaded["uri"], "model": MODEL}).json()
    with real.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        last = [line for line in events.iter_lines() if line][-2:]
    assert last[0] == "event: end"
    # then its output has the same scores
    (output,) = real.get(f"/v1/jobs/{job['id']}/results").text.splitlines()
    by_index = {r["index"]: r["margin"] for r in json.loads(output)["results"]}
    assert [by_index[n] for n in range(4)] == pytest.approx(margins, abs=TOLERANCE)
    # and what the documents carried
    for result in json.loads(output)["results"]:
        assert (result["id"], result["metadata"]) == (result["index"], {"n": result["index"]})


def test_a_job_of_one_request_gives_what_the_request_gives(real, margins):
    options = {"top_n": 3, "max_tokens_per_doc": 6, "temperature": 0.5}
    body = {"model": MODEL, "query": QUERY, "documents": DOCUMENTS} | options
    job = real.post("/v1/rerank", json=body | {"mode": "async"}).json()
    with real.stream("GET", job["links"]["events"]) as events:
        assert [line for line in events.iter_lines() if line][-2] == "event: end"
    (line,) = map(json.loads, real.get(job["links"]["results"]).text.splitlines())

    answer = ask(real, **options)

    kept = ("index", "truncated_tokens")
    assert [[r.get(name) for name in kept] for r in line["results"]] == [
        [r.get(name) for name in kept] for r in answer["results"]
    ]
    assert any(r.get("truncated_tokens") for r in answer["results"])
    for one, other in zip(line["results"], answer["results"], strict=True):
        assert one["relevance_score"] == pytest.approx(other["relevance_score"], abs=TOLERANCE)
    manifest = real.get(job["links"]["self"]).json()["options"]
    assert manifest["max_tokens_per_doc"] == 6
