"""Whatever the OpenAPI document permits, and what it does not: never an error of the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from rerankfleet.producer.gateway.formats.tei import TeiBody
from tests.support.gateway import running_gateway, working_fleet
from tests.support.wait import patient

pytestmark = pytest.mark.slow

EXAMPLES = 8
OPERATIONS = 20
"""How many there are at the least: the document is whole."""


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_an_error_of_the_server(change, control, mode):
    with working_fleet(control), running_gateway(change(interactive_deadline_s=20)) as http:
        # given the document that the gateway serves about itself
        document = schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")
        operations = [operation.ok() for operation in document.get_all_operations()]
        assert len(operations) >= OPERATIONS
        for operation in operations:

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def check(case: Case) -> None:
                # when it is called with what its schema permits, or forbids, then it answers
                case.call_and_validate(checks=[not_a_server_error], timeout=patient(30))

            with suppress(Unsatisfiable):  # an operation without input has none that is forbidden
                check()


NASTY = [
    b"",
    b"null",
    b"5",
    b'"text"',
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"query": NaN, "documents": [Infinity]}',
    b'{"query": "q", "documents": ["a"], "top_n": ' + b"9" * 5000 + b"}",
    b'{"query": "\\ud800", "documents": ["\\udfff"], "texts": ["\\ud800"]}',
    b'{"\\ud800": 1, "query": "q", "documents": ["a"]}',
    b'{"model": "\\u0000", "query": "q", "documents": ["a"]}',
    b'{"model": "\\ud800", "query": "q", "documents": ["a"]}',
    b'{"model": "' + b"../" * 100 + b'", "query": "q", "texts": ["a"]}',
    b'{"query": "q", "documents": ["a"], "instruction": "\\ud800"}',
    b'{"query": {"text": "q", "image": ["\\ud800"]}, "documents": ["a"]}',
    b'{"query": "q", "documents": [{"id": {"a": 1}, "text": "a"}, [[]], null, true]}',
    b'{"query": "q", "documents": [' + b'{"content": [' * 200 + b"]}" * 200 + b"]}",
    b'{"input": "file:///\\u0000", "name": "\\ud800", "key": "\\ud800"}',
    b'{"input": "s3:///", "output": "s3://", "catalog": {"queries": [null, "\\ud800"]}}',
    b'{"input": "file://", "catalog": {"queries": ["a"]}}',
    b'{"input": "s3://b/\\ud800", "output": "file:///%00"}',
]
PATHS = ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/score", "/v1/jobs"]


def post(http: httpx.Client, path: str, body: bytes) -> httpx.Response:
    """The answer to a body of JSON, or of what is none."""
    return http.post(path, content=body, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("path", PATHS)
def test_no_body_is_an_error_of_the_server(control, http, path):
    with working_fleet(control):
        for body in NASTY:
            answer = post(http, path, body)
            assert answer.status_code < 500, (body[:100], answer.text)


HALF = "\ud800"
"""Half a surrogate pair: JSON can say it, and no schema can forbid it."""
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("/v1/rerank", "RerankBody", {"query": "q", "documents": ["a"]}),
    ("/v1/rerank", "RerankBody", {"query": "q", "documents": ["a"], "mode": "async"}),
    ("/rerank", "RerankBody", {"query": "q", "documents": ["a"]}),
    ("/rerank", "TeiBody", {"query": "q", "texts": ["a"]}),
    ("/v2/rerank", "CohereBody", {"query": "q", "documents": ["a"]}),
    ("/v1/score", "ScoreBody", {"queries": ["q", "r"], "documents": ["a", "b"]}),
    ("/v1/jobs", "JobBody", {}),
    ("/v1/jobs/{job_id}/retry", "RetryBody", {}),
]
"""What each route takes, by the name of its schema."""


def halves(schema: dict[str, Any], named: dict[str, Any]) -> Iterator[Any]:
    """What a schema permits, with HALF in one of all places where a text may stand."""
    schema = named[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for choice in schema.get("anyOf", ()):
        yield from halves(choice, named)
    if schema.get("type") == "string":
        yield HALF
    if schema.get("type") == "array":
        yield from ([one] for one in halves(schema.get("items", {"type": "string"}), named))
    if schema.get("type") == "object":
        yield {HALF: HALF}
        for name, field in schema.get("properties", {}).items():
            yield from ({name: one} for one in halves(field, named))
        if isinstance(others := schema.get("additionalProperties"), dict):
            yield from ({"de": one} for one in halves(others, named))


def test_half_a_surrogate_pair_is_nowhere_an_error_of_the_server(working, http):
    document = http.get("/openapi.json").json()
    paths, named = document["paths"], document["components"]["schemas"]
    # given all routes that take a body of JSON, and a job
    request_bodies = {
        path: verbs.get("post", {}).get("requestBody", {}) for path, verbs in paths.items()
    }
    bodies = {
        path
        for path, body in request_bodies.items()
        if "application/json" in body.get("content", {})
    }
    source = http.post("/v1/uploads?name=in.jsonl", json=GOOD[0][2]).json()["uri"]
    job = http.post("/v1/jobs", json={"input": source}).json()["id"]
    named.setdefault("TeiBody", TeiBody.model_json_schema())
    assert {path for path, *_ in GOOD} == bodies
    for path, schema, good in GOOD:
        good = {"input": source} if schema == "JobBody" else good
        # when half a pair is in the place of a text, then it is refused, or of no effect
        for wrong in halves(named[schema], named):
            body = json.dumps(good | wrong).encode()
            answer = post(http, path.format(job_id=job), body)
            assert answer.status_code < 500, (path, body, answer.text)


def test_the_id_of_a_request_is_nowhere_an_error_of_the_server(working, http):
    # given the id of a request that was answered at once
    answered = http.post("/v2/rerank", json=GOOD[0][2])
    job = answered.json()["id"]
    # when it is taken for a job's, then every route of jobs says what it thinks of that
    paths = http.get("/openapi.json").json()["paths"]
    names = ("results.jsonl", "errors.jsonl", "manifest.json")
    routes = [
        (verb, path.format(job_id=job, name=name))
        for path, verbs in paths.items()
        for verb in verbs
        for name in (names if "{name}" in path else names[:1])
        if "{job_id}" in path
    ]
    assert len(routes) > 9
    for verb, path in routes:
        answer = http.request(verb, path)
        assert answer.status_code < 500, (verb, path, answer.text)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/%00",
        "/v1/jobs/..%2f..",
        "/v1/jobs/%ff/results",
        "/v1/jobs?limit=" + "9" * 5000,
        "/v1/jobs?limit=-1",
        "/%00",
        "/..%2f..%2fetc/passwd",
        "/%ff",
        "/" + "a" * 3000,
    ],
)
def test_no_path_is_an_error_of_the_server(http, path):
    assert 300 <= http.get(path).status_code < 500
