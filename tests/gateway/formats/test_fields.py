"""Fields beside query and documents: known, foreign, misspelt; keys; jobs of one request."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.cohere import CohereBody
from rerankfleet.producer.gateway.formats.fields import LIKENESS, OTHERS, ignored
from rerankfleet.producer.gateway.formats.native import RerankBody
from rerankfleet.producer.gateway.formats.tei import TeiBody
from rerankfleet.producer.gateway.formats.vllm import ScoreBody
from rerankfleet.producer.gateway.jobs import JobBody, RetryBody
from tests.support.fleet import MODEL, margin_of, worker_row
from tests.support.gateway import posted, running_gateway, working_fleet
from tests.support.records import open_shards
from tests.support.wait import patient, wait_until

BODIES = {
    RerankBody: {"query": "q", "documents": ["a"]},
    CohereBody: {"query": "q", "documents": ["a"]},
    ScoreBody: {"queries": "q", "documents": ["a"]},
    TeiBody: {"query": "q", "texts": ["a"]},
}
ASKED = {"query": "q", "documents": ["a", "b"]}

FOREIGN = {
    "vLLM": {
        "user": "me",
        "request_id": "r1",
        "priority": 0,
        "padding": "do_not_pad",
        "truncation_side": "right",
        "mm_processor_kwargs": {"max_pixels": 1},
        "cache_salt": "salt",
        "activation": True,
        "softmax": True,
        "add_special_tokens": True,
        "encoding_format": "float",
        "chat_template": None,
        "chat_template_kwargs": {},
        "max_tokens_per_query": 0,
    },
    "Jina": {
        "return_embeddings": False,
        "truncation": True,
        "max_doc_length": 1024,
        "max_query_length": 512,
    },
    "Cohere": {"relevant_spans": True, "rank_fields": ["text"], "max_chunks_per_doc": 10},
    "SGLang": {"rid": "r1"},
    "infinity": {"embedding_format": "float", "modality": "text"},
    "gateways in between": {"parameters": {}, "metadata": {"trace": 1}, "extra_body": {}},
}
"""What clients of other servers send, and nothing here knows."""


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("server", FOREIGN)
def test_fields_of_other_servers_are_not_taken_for_typos(kind, server):
    body = kind.model_validate(BODIES[kind] | FOREIGN[server])
    warnings = ignored(body)
    assert warnings == [
        f"the field {name!r} is ignored"
        for name in sorted(FOREIGN[server])
        if name not in kind.model_fields
    ]


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_every_exception_is_needed(name):
    assert name in {field for fields in FOREIGN.values() for field in fields}
    assert get_close_matches(name, RerankBody.model_fields, 1, LIKENESS)


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (RerankBody, "temprature", "temperature"),
        (RerankBody, "Temperature", "temperature"),
        (RerankBody, "top_k", "top_n or top_p"),
        (RerankBody, "instructon", "instruction or instructions"),
        (RerankBody, "return_document", "return_documents"),
        (RerankBody, "max_token_per_doc", "max_tokens_per_doc"),
        (RerankBody, "idempotencyKey", "idempotency_key"),
        (CohereBody, "topn", "top_n"),
        (ScoreBody, "text1", "text_1"),
        (TeiBody, "raw_score", "raw_scores"),
    ],
)
def test_a_typo_in_one_of_our_own_fields_is_refused(kind, name, meant):
    body = kind.model_validate(BODIES[kind] | {name: 1})
    with pytest.raises(InvalidField, match="there is no such field") as caught:
        ignored(body)
    assert caught.value.path == (name,)
    assert caught.value.hint == f"did you mean {meant}?"


def test_names_of_foreign_fields_are_cut_in_warnings():
    many = {f"{'x' * 500}{n}": n for n in range(50)}
    warnings = ignored(RerankBody.model_validate(BODIES[RerankBody] | many))
    assert max(map(len, warnings)) < 150


MANY = 100_000
NUMBERS = [0] * MANY
FIELDS: dict[str, Any] = dict.fromkeys(map(str, range(MANY)), 0)


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (CohereBody, {"documents": NUMBERS}, ("documents", 0)),
        (TeiBody, {"texts": NUMBERS}, ("texts", 0)),
        (RerankBody, {"instructions": FIELDS}, ("instructions",)),
        (RerankBody, {"image": FIELDS}, ("image",)),
        (RerankBody, {"image": {"pad_color": NUMBERS}}, ("image", "pad_color")),
        (RerankBody, {"video": FIELDS}, ("video",)),
        *((kind, FIELDS, ()) for kind in BODIES),
        (JobBody, {"instructions": FIELDS}, ("instructions",)),
        (JobBody, {"catalog": FIELDS}, ("catalog",)),
        (JobBody, FIELDS, ()),
        (RetryBody, FIELDS, ()),
    ],
)
def test_however_wrong_a_body_is_few_errors_are_made_of_it(kind, fields, param):
    """Given 0.3 to 1 MB: an error of each item or field would be hundreds of them."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(BODIES.get(kind, {"input": "s3://b/k"}) | fields)
    assert caught.value.error_count() == 1
    assert caught.value.errors()[0]["loc"] == param


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_null_means_unset(kind):
    fields = {name for name, field in kind.model_fields.items() if not field.is_required()}
    body = kind.model_validate(BODIES[kind] | dict.fromkeys(fields))
    assert body.model_dump() == kind.model_validate(BODIES[kind]).model_dump()
    assert ignored(body) == []


def test_our_own_fields_never_cause_a_warning():
    body = RerankBody.model_validate(BODIES[RerankBody] | {"instruct": "x", "max_length": 512})
    assert ignored(body) == []


# ---- over HTTP ----------------------------------------------------------------------------------


def ask(http: httpx.Client, path: str = "/v1/rerank", **fields: Any) -> Any:
    answer = http.post(path, json=ASKED | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/rerank", json=ASKED | fields)
    assert answer.status_code in (404, 409, 413, 422), answer.text
    return answer.json()["error"]


def test_ignored_fields_are_reported_where_the_format_has_a_place_for_it(http, working):
    assert ask(http)["warnings"] == []
    for path in ("/v1/rerank", "/rerank"):
        warnings = ask(http, path, user="me", top_n=1)["warnings"]
        assert warnings == ["the field 'user' is ignored"]
    assert ask(http, "/v1/score", queries="q", query="x", user="me")["warnings"] == [
        "the field 'query' is ignored",
        "the field 'user' is ignored",
    ]
    assert ask(http, "/v2/rerank", user="me")["meta"]["warnings"] == ["the field 'user' is ignored"]
    bare = http.post("/rerank", json={"query": "q", "texts": ["a"], "user": "me"})
    assert [rank["index"] for rank in bare.json()] == [0]
    slip = http.post("/rerank", json={"query": "q", "texts": ["a"], "raw_score": True})
    assert (slip.status_code, slip.json()["error_type"]) == (422, "Validation")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"image": {"preset": "huge"}}, "image.preset"),
        ({"image": {"preset": "reference", "resize_mode": "fit"}}, "image.resize_mode"),
        ({"image": {"min_pixels": 800_000}}, "image.min_pixels"),
        ({"image": {"max_pixels": 10}}, "image.max_pixels"),
        ({"image": {"max_pixel": 10_000}}, "image.max_pixel"),
        ({"video": {"max_frames": 65}}, "video.max_frames"),
        ({"video": {"total_pixels": 1 << 30}}, "video.total_pixels"),
        ({"video": {"fps": 0}}, "video.fps"),
        ({"instructions": {"xx": "…"}}, "instructions"),
        ({"profile": "none"}, "profile"),
        ({"max_tokens_per_doc": -1}, "max_tokens_per_doc"),
        ({"explain": "all"}, "explain"),
        ({"mode": "later"}, "mode"),
        ({"truncate_prompt_tokens": 100}, "truncate_prompt_tokens"),
        ({"instruction": "\ud800"}, "instruction"),
        ({"instruction": "x" * 65_537}, "instruction"),
        ({"query": "\ud800"}, "query"),
        ({str(n): n for n in range(99)}, "body"),
        (
            {"documents": ["a", {"content": [{"type": "image", "image": "a", "fps": 1}]}]},
            "documents[1].content[0].fps",
        ),
        ({"idempotency_key": "k" * 201}, "idempotency_key"),
        ({"temprature": 1}, "temprature"),
        ({"model": "none"}, "model"),
        ({"documents": [{"text": "a", "metadata": "b"}]}, "documents[0].metadata"),
        ({"documents": [{"text": "a", "metadata": {"b": 1e999}}]}, "documents[0].metadata"),
    ],
)
def test_an_error_names_its_field(http, working, fields, param):
    body = json.dumps(ASKED | fields)
    answer = http.post("/v1/rerank", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (404, 422), answer.text
    place = answer.json()["error"]["param"]
    assert place is not None
    assert place.startswith(param)


def test_null_is_unset_over_http_too(http, working):
    plain = [one["relevance_score"] for one in ask(http)["results"]]
    nulls = dict.fromkeys(("image", "video", "mode", "raw_scores", "explain", "instructions"))
    documents = [{"text": text, "image": None, "video": None, "id": None} for text in "ab"]
    body = ask(http, documents=documents, **nulls)
    assert [one["relevance_score"] for one in body["results"]] == plain
    assert body["warnings"] == []
    nulls = dict.fromkeys(("truncation_direction", "raw_scores", "return_text", "truncate"))
    ranks = http.post("/rerank", json={"query": "q", "texts": ["a", "b"]} | nulls).json()
    assert [rank["score"] for rank in ranks] == plain


@pytest.mark.parametrize(
    ("queries", "param"),
    [
        (["a", 5], "catalog.queries[1]"),
        ([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}], "catalog.queries[1]"),
        ([" "], "catalog.queries[0]"),
        ([], "catalog.queries"),
    ],
)
def test_an_error_of_a_catalogs_query_names_its_place(http, working, queries, param):
    source = http.post("/v1/uploads?name=a.jsonl", json={"image": "s3://shop/a.png"}).json()["uri"]
    answer = http.post("/v1/jobs", json={"input": source, "catalog": {"queries": queries}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_documents_have_their_id_and_metadata_back(http, working):
    working.fails, working.code = "bad", "timeout"
    documents = [
        {"id": "d0", "text": "a", "metadata": {"sku": 7}},
        {"id": "d1", "text": "bad", "metadata": {"sku": [8]}},
        {"id": 2, "metadata": {}, "content": [{"type": "text", "text": "c"}]},
        {"content": "d", "id": "d3"},
    ]

    body = ask(http, documents=documents)

    results = {one["index"]: one for one in body["results"]}
    assert [results[n]["id"] for n in (0, 2, 3)] == ["d0", 2, "d3"]
    assert [results[n].get("metadata") for n in (0, 2, 3)] == [{"sku": 7}, {}, None]
    (error,) = body["errors"]
    assert (error["id"], error["metadata"], error["retryable"]) == ("d1", {"sku": [8]}, True)
    working.code = "low_quality"
    (rejected,) = ask(http, documents=documents)["rejected"]
    assert (rejected["id"], rejected["retryable"]) == ("d1", False)


def test_the_document_of_the_interface_has_them_all(http):
    document = http.get("/openapi.json").json()
    schemas, paths = document["components"]["schemas"], document["paths"]
    own = {"max_tokens_per_doc", "explain", "mode", "idempotency_key", "image", "video"}
    assert own <= set(schemas["RerankBody"]["properties"])
    assert {"fps", "max_frames", "total_pixels"} == set(schemas["VideoOptions"]["properties"])
    assert {"min_pixels", "max_pixels"} <= set(schemas["ImageOptions"]["properties"])
    assert "max_tokens_per_doc" in schemas["CohereBody"]["properties"]
    assert {"max_tokens_per_doc", "video"} <= set(schemas["JobBody"]["properties"])
    _, content = schemas["RerankBody"]["properties"]["documents"]["items"]["anyOf"]
    assert {"frames", "metadata", "id"} <= set(content["properties"])
    for path in ("/v1/rerank", "/rerank", "/v1/score", "/v2/rerank", "/v1/jobs"):
        (header,) = paths[path]["post"]["parameters"]
        assert header["name"] == "Idempotency-Key"
    assert "202" in paths["/v1/rerank"]["post"]["responses"]


# ---- repeated requests --------------------------------------------------------------------------


def test_a_request_with_a_key_is_answered_once(http, working):
    # given a request with a key, in the body or as the header
    first = ask(http, idempotency_key="k1")
    # when it is repeated, then the answer is the same
    again = http.post("/v1/rerank", json=ASKED, headers={"Idempotency-Key": "k1"}).json()
    timings = {"timings": None}
    assert again | timings == first | timings
    # and without it, or with another one, it is a new one
    assert len({first["id"], ask(http)["id"], ask(http, idempotency_key="k2")["id"]}) == 3
    # and a key means one request
    conflict = problem(http, idempotency_key="k1", top_n=1)
    assert conflict["code"] == "key_conflict"
    both = http.post("/v1/rerank", json=ASKED | {"idempotency_key": "a"},
                     headers={"Idempotency-Key": "b"})  # fmt: skip
    assert both.json()["error"]["param"] == "idempotency_key"


def test_a_request_that_is_in_progress_is_not_done_twice(change, fleet, store):
    """Given two gateways of a fleet and the same request at both."""
    fleet.beat(worker_row())
    settings = change(interactive_deadline_s=30)
    body = ASKED | {"idempotency_key": "k"}
    deleted = lambda: store.client.info("commandstats").get("cmdstat_del", {"calls": 0})["calls"]  # noqa: E731
    before = deleted()
    with (
        running_gateway(settings) as one,
        running_gateway(settings) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        answers = [threads.submit(http.post, "/v1/rerank", json=body) for http in (one, other)]
        wait_until(lambda: store.jobs.unfinished(), what="the request is in progress")
        wait_until(lambda: deleted() > before, what="both have asked")  # the second one's payload
        # then it is one job, and when that ends, the end of both
        (job_id,) = store.jobs.unfinished()
        assert open_shards(store, MODEL) == 1
        store.jobs.cancel(store.jobs.get(job_id))
        assert [answer.result(patient(20)).status_code for answer in answers] == [504, 504]


def test_a_request_with_a_key_goes_on_without_its_client(change, fleet, store, control):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_requests_max=1)) as http:
        # given a request with a key, whose client goes away
        body = ASKED | {"idempotency_key": "k"}
        with posted(http, "/v1/rerank", body):
            (job_id,) = wait_until(store.jobs.unfinished, what="the request is in progress")
        wrong = {"query": " ", "documents": ["a"]}
        place_is_free = lambda: http.post("/v1/rerank", json=wrong).status_code == 422  # noqa: E731
        wait_until(place_is_free, what="its place is free")
        # then its work goes on, and who repeats it has its answer
        assert not store.jobs.get(job_id).cancelled
        with working_fleet(control):
            assert http.post("/v1/rerank", json=body).json()["id"] == f"rerank-{job_id}"


# ---- jobs of one line ---------------------------------------------------------------------------


def test_a_request_may_be_a_job(http, working):
    # given a request that need not be answered at once
    documents = [{"id": "d0", "text": "a", "metadata": {"sku": 7}}, "b", "c"]
    body = {"query": "q", "documents": documents, "top_n": 2, "mode": "async"}
    fields = {"max_length": 512, "raw_scores": True, "user": "me", "idempotency_key": "k"}
    answer = http.post("/v1/rerank", json=body | fields)
    # then it is a job, and the answer has its address
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert job["object"] == "job"
    assert job["model"] == MODEL
    assert job["warnings"] == [
        "the field 'user' is ignored",
        "the field 'raw_scores' is ignored",
    ]
    assert answer.headers["Location"] == job["links"]["self"] == f"/v1/jobs/{job['id']}"
    # and its results are those of a request
    home, links = job["links"]["self"], job["links"]
    wait_until(lambda: http.get(home).json()["state"] == "done", 30, "the job ends")
    (line,) = map(json.loads, http.get(links["results"]).text.splitlines())
    margins = {result["index"]: result["margin"] for result in line["results"]}
    best = sorted((margin_of("q", text), n) for n, text in enumerate("abc"))[1:]
    assert margins == {n: margin for margin, n in best}
    assert http.get(home).json()["options"]["max_length"] == 512
    assert http.get(links["errors"]).status_code == 200
    # and repeated it is the same job
    again = http.post("/v1/rerank", json=body | fields)
    assert again.json()["id"] == job["id"]


def test_a_key_leads_to_its_job_even_to_one_that_was_cancelled(http, fleet):
    fleet.beat(worker_row())
    # given a job of a request, which is cancelled
    body = ASKED | {"mode": "async", "idempotency_key": "k"}
    job = http.post("/v1/rerank", json=body).json()
    assert http.post(job["links"]["cancel"]).status_code == 200
    # when it is repeated, then it is the same one
    again = http.post("/v1/rerank", json=body)
    assert (again.status_code, again.json()["id"]) == (202, job["id"])
    # and to be answered at once it needs a key of its own
    assert problem(http, idempotency_key="k")["code"] == "key_conflict"


def test_a_job_has_its_key_from_the_header_too(http, working):
    source = http.post("/v1/uploads?name=in.jsonl", json=ASKED).json()["uri"]
    ids = [
        http.post("/v1/jobs", json={"input": source} | body, headers=headers).json()["id"]
        for body, headers in (({"key": "j"}, {}), ({}, {"Idempotency-Key": "j"}))
    ]
    assert ids[0] == ids[1]


def test_a_request_that_is_wrong_is_no_job(http, working, store):
    refused = [
        {"documents": [{"image": "ftp://a"}]},
        {"query": " "},
        {"image": {"preset": "huge"}},
        {"temprature": 1},
    ]
    for fields in refused:
        assert problem(http, **fields, mode="async")["param"]
    assert store.jobs.recent() == []


def test_a_request_larger_than_a_line_may_be_is_no_job(change, control, fleet):
    fleet.beat(worker_row())
    with running_gateway(change(max_line_bytes=2000)) as http:
        assert problem(http, documents=["x" * 3000], mode="async")["code"] == "too_large"
