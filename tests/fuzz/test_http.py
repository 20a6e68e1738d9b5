"""HTTP: whatever a client sends is answered, in its format's shape, and never as our own fault."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.support.gateway import everything, running_gateway, working_fleet
from tests.support.mutations import Mutations, case, cases
from tests.support.wait import patient

PICTURE = "data:image/png;base64,iVBORw0KGgo="
BODIES: list[tuple[str, Any]] = [
    ("/v1/rerank", {"query": "q", "documents": ["a", "b", "c"]}),
    (
        "/v1/rerank",
        {
            "model": "org/model",
            "query": {"text": "q", "image": PICTURE},
            "documents": [{"id": "d", "text": "a", "metadata": {"k": 1}}, {"image": [PICTURE]}],
            "top_n": 2,
            "return_documents": True,
            "image": {"preset": "fast"},
            "instruction": "find",
        },
    ),
    ("/v1/rerank", {"query": "q", "documents": ["a"], "mode": "async", "idempotency_key": "k"}),
    ("/v2/rerank", {"model": "org/model", "query": "q", "documents": ["a", "b"], "top_n": 1}),
    ("/rerank", {"query": "q", "texts": ["a", "b"], "return_text": True}),
    ("/score", {"text_1": "q", "text_2": ["a", "b"]}),
    ("/v1/score", {"queries": ["q", "r"], "documents": ["a", "b"]}),
    ("/v1/jobs", {"input": "file:///allowed/a.jsonl", "top_n": 3, "priority": "bulk"}),
    ("/v1/jobs", {"catalog": {"images": "s3://b/", "queries": ["a", {"text": "b"}]}}),
    ("/v1/jobs/j/retry", {"codes": ["failed"]}),
]
HEADS = [
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /v1/jobs?limit=5&state=done HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"GET /v1/jobs/abc/errors?cursor=7 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"HEAD /metrics HTTP/1.1\r\nHost: localhost:8080\r\nX-Request-Id: r-1\r\n\r\n",
    b"POST /v1/uploads?name=a.jsonl&ttl_s=60 HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/x-ndjson\r\nContent-Length: 11\r\n\r\n{\"query\":1}",
    b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1d\r\n{\"query\":\"q\",\"documents\":[1]}\r\n0\r\n\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nIdempotency-Key: k\r\nExpect: 100-continue\r\n"
    b"Content-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}",
]  # fmt: skip


def in_shape(path: str, answer: httpx.Response) -> bool:
    """Whether an error is told as the clients of this path read it."""
    told = answer.json()
    if path.startswith("/v2/"):
        return isinstance(told["message"], str) and bool(told["error"]["code"])
    if path == "/rerank" and isinstance(told["error"], str):
        return bool(told["error_type"])
    return all(isinstance(told["error"][name], str) for name in ("message", "type", "code"))


def test_every_body_is_answered_in_its_shape(control, change):
    statuses: Counter[int] = Counter()
    with working_fleet(control), running_gateway(change(interactive_deadline_s=30)) as http:
        for mutations in cases("bodies", 200):
            path, example = mutations.pick(BODIES)
            body = mutations.of_json(example)
            with case(mutations, (path, body)):
                answer = http.post(path, content=body, headers={"Content-Type": "application/json"})
                statuses[answer.status_code] += 1
                assert answer.status_code < 500, answer.text
                assert answer.status_code < 400 or in_shape(path, answer), answer.text
                if answer.status_code == 200 and path == "/v1/rerank":
                    every_document_once(json.loads(body), answer.json())
        assert http.get("/health/live").status_code == 200
    assert {200, 422} <= statuses.keys(), statuses


def every_document_once(asked: dict[str, Any], told: dict[str, Any]) -> None:
    """Whether each document has one outcome."""
    outcomes = [*told["results"], *told["errors"], *told["rejected"]]
    indices = [one["index"] for one in outcomes]
    if None in indices:  # the request as a whole
        return
    assert len(set(indices)) == len(indices)
    if isinstance(asked.get("documents"), list) and "top_n" not in asked and "top_k" not in asked:
        assert sorted(indices) == list(range(len(asked["documents"])))


def sent(http: httpx.Client, data: bytes) -> bytes:
    """The answer to bytes after which the client says that there are no more."""
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.settimeout(patient(30))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return everything(connection)
        except (BrokenPipeError, ConnectionResetError):  # it has answered, or will not
            return b""


@pytest.mark.filterwarnings("ignore")
def test_no_request_as_bytes_is_our_fault(control, http):
    statuses: Counter[bytes] = Counter()
    with working_fleet(control):
        for mutations in cases("heads", 250):
            data = changed_head(mutations)
            with case(mutations, data):
                answer = sent(http, data)
                status = answer[9:12] if answer.startswith(b"HTTP/1.1 ") else b""
                statuses[status] += 1
                assert answer == b"" or status, answer[:200]
                assert not status.startswith(b"5"), answer[:500]
        assert http.get("/health/live").status_code == 200
    assert {b"200", b"400"} <= statuses.keys(), statuses


def changed_head(mutations: Mutations) -> bytes:
    """A changed request; one time in three another follows it."""
    data = mutations.of_bytes(mutations.pick(HEADS), 3)
    return data + mutations.pick(HEADS) if mutations.random.random() < 0.33 else data
