"""Paths that nothing has, methods that a path does not have, HEAD, OPTIONS and slashes."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from fastapi.routing import APIRoute

from rerankfleet.producer.gateway.app import ROUTES
from tests.support.fleet import worker_row
from tests.support.gateway import everything

ASKED = {"query": "q", "documents": ["a", "b"]}
ALL = [route for routes in ROUTES for route in routes.routes if isinstance(route, APIRoute)]
PATHS = sorted({route.path for route in ALL} | {"/openapi.json", "/", "/js/api.js"})


def filled(path: str) -> str:
    """A route's path, of a job that is not there."""
    return path.replace("{job_id}", "none").replace("{name}", "a.jsonl")


def methods_of(path: str) -> set[str]:
    return {method for route in ALL if route.path == path for method in route.methods} or {"GET"}


@pytest.mark.parametrize(
    ("method", "path", "nearest"),
    [
        ("POST", "/v1/rerankk", "POST /v1/rerank"),
        ("GET", "/v1/rerankk", "POST /v1/rerank"),
        ("POST", "/v1/reranking", "POST /v1/rerank"),
        ("POST", "/api/v1/rerank", "POST /v1/rerank"),
        ("POST", "/v1/scores", "POST /v1/score"),
        ("DELETE", "/v1/job", "GET or POST /v1/jobs"),
        ("POST", "/v1/jobs/abc/cancle", "POST /v1/jobs/{job_id}/cancel"),
        ("GET", "/v1/jobs/abc/result", "GET /v1/jobs/{job_id}/results"),
        ("GET", "/v1/model", "GET /v1/models"),
        ("GET", "/helth", "GET /health"),
        ("PUT", "/v1/upload", "POST /v1/uploads"),
        ("OPTIONS", "/v1/nothing", ""),
        ("GET", "/js", ""),
        ("GET", "/js/none.js", ""),
        ("POST", "/none.html", ""),
    ],
)
def test_a_path_that_nothing_has_is_404_with_the_nearest(http, method, path, nearest):
    answer = http.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_found")
    assert f"the nearest is {nearest}" in error["hint"]
    assert repr(path) in error["message"]


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_a_path_does_not_have_is_405_with_those_it_has(http, path):
    has = methods_of(path)
    allowed = has | {"OPTIONS"} | ({"HEAD"} if "GET" in has else set())
    for method in ({"GET", "POST", "PUT", "DELETE", "PATCH", "BREW"} - has) | {"OPTIONS"}:
        answer = http.request(method, filled(path))
        assert answer.status_code == (204 if method == "OPTIONS" else 405), (method, answer.text)
        assert set(answer.headers["Allow"].split(", ")) == allowed
        if method != "OPTIONS":
            error = answer.json()["error"]
            assert error["code"] == "method_not_allowed"
            assert all(method in error["hint"] for method in has)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_answered_wherever_get_is(http, fleet, path):
    fleet.beat(worker_row())
    head = http.head(filled(path))
    if "GET" not in methods_of(path):
        assert head.status_code == 405
        return
    got = http.get(filled(path))
    assert (head.status_code, head.content) == (got.status_code, b"")
    differ = {"date", "x-request-id", *(["content-length"] if path in CHANGING else [])}
    assert {k: v for k, v in head.headers.items() if k not in differ} == {
        k: v for k, v in got.headers.items() if k not in differ
    }


CHANGING = ("/metrics", "/v1/fleet")
"""What says something else each time."""


def test_head_of_a_stream_ends_with_its_headers(http, fleet):
    """Given a job that runs for ever: its events would never end, nor would its results."""
    fleet.beat(worker_row())
    source = http.post("/v1/uploads?name=in.jsonl", json=ASKED).json()["uri"]
    job = http.post("/v1/jobs", json={"input": source}).json()["id"]
    events = http.head(f"/v1/jobs/{job}/events")
    assert (events.status_code, events.content) == (200, b"")
    assert events.headers["content-type"].startswith("text/event-stream")
    lines = http.head(f"/v1/jobs/{job}/results?partial=true")
    assert lines.headers["content-type"].startswith("application/x-ndjson")
    # and the connection serves the next request
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        head = "{} {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n"
        connection.sendall(head.format("HEAD", f"/v1/jobs/{job}/events", "").encode())
        last = head.format("GET", "/version", "Connection: close\r\n")
        connection.sendall(last.encode())
        assert everything(connection).count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize("path", PATHS)
def test_a_slash_at_the_end_changes_nothing(http, fleet, path):
    fleet.beat(worker_row())
    methods = methods_of(path)
    for method in methods:
        plain = http.request(method, filled(path))
        slashed = http.request(method, f"{filled(path)}/")
        assert slashed.status_code == plain.status_code
        assert slashed.headers["content-type"] == plain.headers["content-type"]


def test_a_slash_too_many_loses_no_body(http, working):
    plain = http.post("/v1/rerank", json=ASKED).json()["results"]
    for path in ("/v1/rerank/", "//v1/rerank", "/rerank//", "/v1/rerank/?a=b"):
        answer = http.post(f"{http.base_url}{path}", json=ASKED)
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"] == plain
    upload = http.post("/v1/uploads/?name=in.jsonl", content=json.dumps(ASKED))
    assert upload.status_code == 201
    assert http.post("/v1/score/", json={"queries": "q", "documents": "a"}).status_code == 200
    assert http.post("/v2/rerank/", json=ASKED).status_code == 200


def test_an_upload_with_a_slash_is_as_large_as_an_upload_may_be(change):
    from tests.support.gateway import running_gateway

    with running_gateway(change(inline_bytes_max=1000)) as http:
        large = b"a,b\n" * 3000
        assert http.post("/v1/uploads/?name=a.csv", content=large).status_code == 201


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/rerank", "//v1/rerank/", "/v1/jobs/none/"])
def test_without_a_key_nothing_is_said_of_what_there_is(keyed: httpx.Client, method, path):
    address = f"{keyed.base_url}{path}"
    assert keyed.request(method, address).status_code == 401
    key = {"X-API-Key": "one"}
    assert keyed.request(method, address, headers=key).status_code != 401


def test_what_is_open_is_so_with_keys_too(keyed):
    for path in ("/", "/health/live", "/health/live/", "/docs", "/js/api.js"):
        assert keyed.get(path).status_code == 200
        assert keyed.head(path).status_code == 200
        assert keyed.options(path).status_code == 204
    assert keyed.get("/nothing").status_code == 404
