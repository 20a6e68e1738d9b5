"""What errors look like over HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.support.fleet import MODEL, worker_row
from tests.support.gateway import running_gateway
from tests.support.server import valkey

BODY = {"query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"documents": ["a"]}, "query", "query: Field required"),
        ({"query": "q"}, "documents", "documents: Field required"),
        ({"query": "q", "documents": "a"}, "documents", "expected a list of documents"),
        ({"query": "q", "documents": []}, "documents", "there are no documents"),
        ({"query": " ", "documents": ["a"]}, "query", "the query is empty"),
        ({"query": {"id": 1}, "documents": ["a"]}, "query.id", "there is no such field"),
        ({"query": "q", "documents": ["a", 5]}, "documents[1]", "a text or an object"),
        ({"query": "q", "documents": ["a", {"txt": "b"}]}, "documents[1].txt", "there is no such"),
        (
            {"query": "q", "documents": ["a", {"image": ["s3://b/c", "ftp://x"]}]},
            "documents[1].image[1]",
            "expected s3://",
        ),
        ({"query": "q", "documents": ["\ud800"]}, "documents[0]", "half a surrogate pair"),
        ({**BODY, "top_n": -1}, "top_n", "greater than or equal to 0"),
        ({**BODY, "temperature": 3}, "temperature", "less than or equal to 2"),
        ({**BODY, "image": {"preset": "huge"}}, "image.preset", "expected one of general"),
        ({**BODY, "image": {"max_crop": 2}}, "image.max_crop", "less than or equal to 1"),
        ({**BODY, "instuction": "x"}, "instuction", "there is no such field"),
        ([], "body", "should be an object"),
    ],
)
def test_an_error_names_its_field_and_place(http, fleet, body, param, says):
    fleet.beat(worker_row())
    kind = {"Content-Type": "application/json"}
    answer = http.post("/v1/rerank", content=json.dumps(body), headers=kind)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["param"] == param
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code", "hint"}


def test_too_many_or_too_large_is_413(change, fleet):
    fleet.beat(worker_row())
    small = change(max_documents_per_request=2, inline_bytes_max=1000)
    with running_gateway(small) as http:
        many = http.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 3})
        large = http.post("/v1/rerank", json={"query": "q", "documents": ["a" * 1500]})
    assert (many.status_code, many.json()["error"]["param"]) == (413, "documents")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")


def test_a_model_that_nobody_knows_is_404_and_one_that_nobody_serves_now_503(http, fleet):
    fleet.beat(worker_row())
    unknown = http.post("/v1/rerank", json={**BODY, "model": "none"})
    fleet.leave("w1")
    away = http.post("/v1/rerank", json={**BODY, "model": MODEL})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    assert (away.status_code, away.json()["error"]["code"]) == (503, "no_worker")
    assert away.headers["Retry-After"] == "5"


def test_a_model_that_is_being_loaded_is_503_at_once(http, fleet):
    fleet.beat(worker_row(state="loading"))
    answer = http.post("/v1/rerank", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert answer.headers["Retry-After"] == "5"


def test_without_redis_the_answer_is_503(change, tmp_path):
    with valkey(tmp_path) as url:
        settings = change(redis_url=SecretStr(url))
        gateway = running_gateway(settings)
        http = gateway.__enter__()
    try:
        assert http.get("/health/live").status_code == 200
        ready = http.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"redis": False, "workers": 0})
        answer = http.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
        assert "rerank_redis_up 0.0" in http.get("/metrics").text
    finally:
        gateway.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/rerank", 405, "method_not_allowed"),
    ],
)
def test_errors_of_http_itself_have_codes_too(http, method, path, status, code):
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


# ---- in the language of the door ----------------------------------------------------------------

OF_A_SHELL = re.compile(r"(?<![\w-])--[a-z]|\brerank (?!fleet)[a-z]+\b(?= -|`)|object a line")
"""A flag, a command, or the shape of a file: nothing of which a client of HTTP could write."""
WRONG: list[tuple[str, str, Any]] = [
    ("GET", "/v1/jobs/none", None),
    ("POST", "/v1/jobs/none/cancel", None),
    ("GET", "/v1/jobs/none/results", None),
    ("GET", "/v1/jobs/none/files/a.jsonl", None),
    ("POST", "/v1/jobs/none/retry", {"only": "some"}),
    ("POST", "/v1/jobs", {"input": "a.jsonl"}),
    ("POST", "/v1/jobs", {"input": "s3://secret/a.jsonl"}),
    ("POST", "/v1/jobs", {"input": "file:///etc/passwd"}),
    ("POST", "/v1/jobs", {"input": "INPUT", "model": "none"}),
    ("POST", "/v1/jobs", {"input": "INPUT", "output": "TAKEN"}),
    ("POST", "/v1/jobs", {"input": "INPUT", "adaptive_temperature": True}),
    ("POST", "/v1/jobs", {"input": "INPUT", "profile": "none"}),
    ("POST", "/v1/jobs", {"input": "INPUT", "temprature": 1}),
    ("POST", "/v1/jobs", {"input": "INPUT", "catalog": {"queries": []}}),
    ("POST", "/v1/jobs", {"input": "FOLDER", "output": "FOLDER", "catalog": {"queries": ["q"]}}),
    *(
        (verb, path, body)
        for verb, path in (("POST", "/v1/rerank"), ("POST", "/rerank"), ("POST", "/v2/rerank"))
        for body in (
            None,
            {},
            BODY | {"model": "none"},
            BODY | {"query": " "},
            BODY | {"documents": []},
            BODY | {"documents": [5]},
            BODY | {"documents": ["a"] * 2000},
            BODY | {"documents": [{"image": "ftp://x"}]},
            BODY | {"top_n": -1},
            BODY | {"instruction": "\ud800"},
            BODY | {"profile": "none"},
            BODY | {"topn": 1},
            BODY | {"image": {"preset": "reference", "resize_mode": "fit"}},
            {"query": "q", "texts": [5]},
            {"query": "", "texts": ["a"]},
        )
    ),
    ("POST", "/v1/score", {"queries": ["a", "b"], "documents": ["a"]}),
    ("POST", "/v1/score", {"queries": [], "documents": ["a"]}),
    ("POST", "/v1/uploads", None),
    ("POST", "/v1/uploads?name=a.jsonl&ttl_s=1e9", BODY),
    ("PUT", "/v1/nothing", None),
    ("PUT", "/v1/rerank", None),
]


@pytest.fixture
def hasty(change) -> Iterator[httpx.Client]:
    """A client of a gateway that waits for no answer."""
    with running_gateway(change(interactive_deadline_s=0.1)) as client:
        yield client


def test_no_answer_tells_a_client_of_http_what_to_type(hasty, fleet, tmp_path):
    """Given a fleet that serves nothing, then something; and all that can be wrong."""
    http, allowed = hasty, tmp_path / "allowed"
    allowed.mkdir(exist_ok=True)
    (outputs := tmp_path / "outputs").mkdir(exist_ok=True)
    (outputs / "taken").write_text("mine")
    places = {"TAKEN": (outputs / "taken").as_uri(), "FOLDER": f"{allowed.as_uri()}/"}
    for row in (None, {"state": "loading"}, {}, {"model": "pocket-text"}):
        if row is not None:
            fleet.beat(worker_row(**row))
        uploaded = http.post("/v1/uploads?name=in.jsonl", json=BODY).json()
        not_lines = http.post("/v1/uploads?name=in.jsonl", content=b"a,b\n").json()
        places["INPUT"] = uploaded["uri"]
        wrong = [*WRONG, ("POST", "/v1/jobs", {"input": not_lines["uri"]})]
        for verb, path, body in wrong:
            named = body
            if isinstance(body, dict):
                named = {k: places.get(v, v) if isinstance(v, str) else v for k, v in body.items()}
            data = None if body is None else json.dumps(named)
            kind = {"Content-Type": "application/json"}
            answer = http.request(verb, path, content=data, headers=kind)
            assert answer.status_code >= 400 or row is None, (path, named, answer.text)
            if "is not JSON Lines" not in answer.text:  # that is a file
                assert not OF_A_SHELL.search(answer.text), (path, named, answer.text)


def test_no_job_tells_a_client_of_http_what_to_type(http, control, fleet):
    # given a job whose model is served no longer, one that is paused, and the words of workers
    fleet.beat(worker_row())
    source = http.post("/v1/uploads?name=in.jsonl", json=BODY).json()["uri"]
    job = http.post("/v1/jobs", json={"input": source}).json()["id"]
    fleet.leave("w1")
    control.store.coordination.pulse()
    reason = http.get(f"/v1/jobs/{job}").json()["reason"]
    assert "a worker must be started" in reason
    assert not OF_A_SHELL.search(http.get("/v1/jobs").text + reason)


def test_an_error_of_tei_says_what_to_do_too(http, fleet):
    fleet.beat(worker_row())
    answer = http.post("/rerank", json={"query": " ", "texts": ["a"]}).json()
    assert answer == {
        "error": "the query is empty: give a text or an image",
        "error_type": "Validation",
    }
