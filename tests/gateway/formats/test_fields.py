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
from rerankfleet.producer.gateway.formats.fields import LIKENESS, _names, ignored
from rerankfleet.producer.gateway.formats.foreign import FOREIGN, FOREIGN_NAMES
from rerankfleet.producer.gateway.formats.native import RerankBody
from rerankfleet.producer.gateway.formats.tei import TeiBody
from rerankfleet.producer.gateway.formats.vllm import ScoreBody
from rerankfleet.producer.gateway.jobs import JobBody, RetryBody
from rerankfleet.shared.content.content import Video
from rerankfleet.shared.formats.lines import valid_document
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


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("server", FOREIGN)
def test_a_name_that_another_server_has_is_no_slip_of_the_pen(kind, server):
    own = {name for names in _names(kind) for name in names}
    others = FOREIGN[server] - own
    body = kind.model_validate(BODIES[kind] | dict.fromkeys(others, 0))
    assert ignored(body) == [f"the field {name!r} is ignored" for name in sorted(others)]


@pytest.mark.parametrize("kind", BODIES, ids=lambda kind: kind.__name__)
def test_a_name_that_another_route_here_has_is_none_either(kind):
    own = {name for names in _names(kind) for name in names}
    for other in (*BODIES, JobBody):
        names = {name for names in _names(other) for name in names} - own
        body = kind.model_validate(BODIES[kind] | dict.fromkeys(names, 0))
        assert len(ignored(body)) == len(names)


def test_the_names_of_others_are_needed():
    """Some look like ours: without the list, they would be refused."""
    like_ours = {
        name
        for name in FOREIGN_NAMES
        for kind in BODIES
        if get_close_matches(name, [n for names in _names(kind) for n in names], 1, LIKENESS)
    }
    assert {"modelId", "max_len", "images", "mode", "is_truncated", "activation"} <= like_ours


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (RerankBody, "temprature", "temperature"),
        (RerankBody, "Temperature", "temperature"),
        (RerankBody, "top_m", "top_n or top_p"),
        (RerankBody, "instructon", "instruction or instructions"),
        (RerankBody, "return_document", "return_documents"),
        (RerankBody, "max_token_per_doc", "max_tokens_per_doc"),
        (RerankBody, "idempotencyKey", "idempotency_key"),
        (CohereBody, "topn", "top_n"),
        (ScoreBody, "text1", "text_1"),
        (ScoreBody, "instrution", "instruction or instructions"),
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
def test_null_is_absent_by_every_name(kind):
    plain = kind.model_validate(BODIES[kind])
    # given null in every field that may be left out, in each alias, and in unknown fields
    names = {name for names in _names(kind) for name in names} - BODIES[kind].keys()
    nulls = dict.fromkeys([*names, "unknown", "temprature", "modelId", "user"])
    body = kind.model_validate(nulls | BODIES[kind])
    # then it is as if they were not there
    assert body.model_dump() == plain.model_dump()
    assert body.model_fields_set == plain.model_fields_set
    assert ignored(body) == []
    # and a field that is needed is missing
    for name in BODIES[kind]:
        with pytest.raises(ValidationError) as caught:
            kind.model_validate(BODIES[kind] | {name: None})
        assert caught.value.errors()[0]["type"] == "missing"


SYNONYMS = [
    (kind, names, value)
    for kind in (*BODIES, JobBody)
    for names in _names(kind)
    if len(names) > 1
    for value in [True if names[0] == "return_text" else 3 if names[0] == "top_n" else "a"]
]


@pytest.mark.parametrize(("kind", "names", "value"), SYNONYMS)
def test_two_names_of_a_field_may_agree_and_not_differ(kind, names, value):
    good = BODIES.get(kind, {"input": "s3://b/k"})
    good = {name: one for name, one in good.items() if name not in names}
    first, *others = names
    for name in names:  # each name alone, beside others that are null
        body = kind.model_validate(good | dict.fromkeys(names) | {name: value})
        assert body.model_dump() == kind.model_validate(good | {first: value}).model_dump()
        assert not body.model_extra
    for other in others:
        same = kind.model_validate(good | {other: value, first: value})
        assert not same.model_extra
        with pytest.raises(InvalidField) as caught:
            kind.model_validate(good | {first: value, other: not value})
        assert (
            caught.value.message
            == f"`{first}` and `{other}` mean the same and have different values"
        )
        assert caught.value.path == (other,)


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (
            {"max_length": 512, "truncate_prompt_tokens": 256},
            ("max_length", "truncate_prompt_tokens"),
        ),
        ({"raw_scores": True, "use_activation": True}, ("raw_scores", "use_activation")),
        ({"raw_scores": False, "use_activation": False}, ("raw_scores", "use_activation")),
        ({"instruction": "a", "instruct": "b"}, ("instruction", "instruct")),
        ({"top_n": 1, "top_k": 2}, ("top_n", "top_k")),
        ({"top_n": 0, "topK": 2}, ("top_n", "topK")),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_refused_by_both_names(http, fields, names):
    error = problem(http, **fields)
    assert all(name in error["message"] for name in names)
    assert error["param"] in names or error["param"].startswith(names[1])
    assert error["hint"] == "give one of them"


@pytest.mark.parametrize(
    "fields",
    [
        {"max_length": 256, "truncate_prompt_tokens": 256},
        {"max_length": 256, "truncate_prompt_tokens": -1},
        {"raw_scores": True, "use_activation": False},
        {"raw_scores": False, "use_activation": True},
        {"instruction": "a", "instruct": "a"},
        {"instruction": "a", "instruct": ""},
        {"instruction": " \n", "instruct": "a"},
        {"top_k": 2, "top_n": 2, "topN": 2},
        {"frames": None, "images": None},
    ],
)
def test_fields_that_agree_are_fine(http, working, fields):
    assert ask(http, **fields)["warnings"] == []


def test_frames_may_be_given_twice_if_they_are_the_same():
    twice = {"frames": ["a.png"], "video": {"frames": ["a.png"], "fps": 2}}
    assert valid_document(twice).video == Video(frames=("a.png",), fps=2)
    nulls = {"frames": ["a.png"], "video": None, "text": None, "image": None, "txt": None}
    assert valid_document(nulls).video == Video(frames=("a.png",))


def test_top_k_is_what_others_call_top_n(http, working):
    for name in ("top_n", "top_k", "topN", "topK"):
        assert len(ask(http, **{name: 1})["results"]) == 1
        assert len(ask(http, "/v2/rerank", **{name: 1})["results"]) == 1


@pytest.mark.parametrize("value", ["x", 1, True, [], {}])
@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank", "/v1/score", "tei"])
def test_whatever_value_a_name_of_another_server_has_it_is_no_error(http, working, path, value):
    kind = {"/v2/rerank": CohereBody, "/v1/score": ScoreBody, "tei": TeiBody}.get(path, RerankBody)
    own = {name for names in _names(kind) for name in names}
    names = sorted(FOREIGN_NAMES - own)
    for at in range(0, len(names), 50):
        fields = dict.fromkeys(names[at : at + 50], value)
        answer = http.post("/rerank" if path == "tei" else path, json=BODIES[kind] | fields)
        if path == "/rerank" and "texts" in fields:
            continue  # which says whose request it is
        assert answer.status_code == 200, answer.text


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
    asked = {"query": "q", "texts": ["a"]}
    bare = http.post("/rerank", json=asked | {"user": "me", "raw_score": True, "textz": 1})
    assert [rank["index"] for rank in bare.json()] == [0]
    assert json.loads(bare.headers["X-Rerank-Warnings"]) == [
        f"the field {name!r} is ignored" for name in ("raw_score", "textz", "user")
    ]
    assert "X-Rerank-Warnings" not in http.post("/rerank", json=asked).headers
    many = http.post("/rerank", json=asked | {f"{'x' * 500}{n}": n for n in range(90)})
    assert len(many.headers["X-Rerank-Warnings"]) < 2000


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
    # and a null is no reason to take a request for another server's
    assert ask(http, "/rerank", texts=None)["results"]
    assert http.post("/rerank", json={"query": "q", "texts": ["a"], "documents": None}).json()
    assert ask(http, "/v1/score", queries=None, text_1="q", query=None)["data"]
    assert ask(http, instructions={"de": None})["warnings"] == []
    assert ask(http, instructions={"de": " ", "fr": "\n"})["warnings"] == []  # blank ones are none


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
