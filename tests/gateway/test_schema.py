"""Whatever the OpenAPI document permits, and what it does not: never an error of the server."""

from __future__ import annotations

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error

from tests.support.gateway import running_gateway, working_fleet

EXAMPLES = 8
OPERATIONS = 20
"""How many there are at the least: the document is whole."""


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_an_error_of_the_server(change, control, mode):
    with working_fleet(control), running_gateway(change(interactive_deadline_s=20)) as http:
        # given the document that the gateway gives of itself
        document = schemathesis.openapi.from_url(f"{http.base_url}/openapi.json")
        operations = [found.ok() for found in document.get_all_operations()]
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
                # when it is asked what its own words permit, or forbid, then it answers
                case.call_and_validate(checks=[not_a_server_error], timeout=30)

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


@pytest.mark.parametrize("path", PATHS)
def test_no_body_is_an_error_of_the_server(control, http, path):
    with working_fleet(control):
        for body in NASTY:
            answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (body[:100], answer.text)


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
