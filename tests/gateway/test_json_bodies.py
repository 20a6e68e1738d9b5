"""Bodies that are not JSON in UTF-8: what is missing is named, with the header to add."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

ASKED = {"query": "q", "documents": ["a"]}
TEXT = json.dumps(ASKED)
GOOD: dict[str, Any] = {
    "/v1/rerank": ASKED,
    "/rerank": {"query": "q", "texts": ["a"]},
    "/v2/rerank": ASKED,
    "/v1/score": {"queries": "q", "documents": "a"},
    "/score": {"queries": "q", "documents": "a"},
}
JSON = "application/json"


def post(http: httpx.Client, path: str, content: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(path, content=content, headers=named)


@pytest.mark.parametrize("path", [*GOOD, "/v1/jobs"])
@pytest.mark.parametrize(
    "kind",
    [None, "application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x",
     "application/x-ndjson", "application/octet-stream", "text/json", "nonsense"],
)  # fmt: skip
def test_a_body_without_its_header_is_415_and_says_which(http, path, kind):
    headers = {} if kind is None else {"Content_Type": kind}
    answer = post(http, path, json.dumps(GOOD.get(path, ASKED)).encode(), **headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (415, "Content-Type")
    assert error["code"] == "unsupported_media_type"
    assert "Content-Type: application/json" in error["hint"]
    assert (kind or "missing")[:9] in error["message"]


@pytest.mark.parametrize("path", [*GOOD, "/v1/jobs"])
@pytest.mark.parametrize("headers", [{}, {"Content_Type": JSON}, {"Content_Type": "text/plain"}])
def test_a_body_that_is_missing_is_400(http, path, headers):
    answer = post(http, path, b"", **headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["message"]) == (400, "body: there is none")
    assert "Content-Type: application/json" in error["hint"]


@pytest.mark.parametrize(
    "kind",
    [
        JSON,
        "Application/JSON; charset=UTF-8",
        "application/json;charset=utf8",
        'application/json; charset="utf-8"',
        "application/json; charset=us-ascii",
        "application/vnd.api+json",
    ],
)
@pytest.mark.parametrize("path", GOOD)
def test_json_may_be_declared_in_all_its_forms(http, working, path, kind):
    answer = post(http, path, json.dumps(GOOD[path]).encode(), Content_Type=kind)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "cp1252", "nonsense", "hex"])
def test_another_charset_is_415(http, charset):
    answer = post(http, "/v1/rerank", TEXT.encode(), Content_Type=f"{JSON}; charset={charset}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, "Content-Type")
    assert charset in answer.json()["error"]["message"]
    assert "UTF-8" in answer.json()["error"]["hint"]


@pytest.mark.parametrize("body", ['{"query": "ä"}'.encode("latin-1"), TEXT.encode("utf-16")])
def test_what_is_not_utf8_is_400(http, body):
    answer = post(http, "/v1/rerank", body, Content_Type=JSON)
    assert answer.status_code == 400
    assert "UTF-8" in answer.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_body_in_another_encoding_is_named(http, encoding):
    answer = post(http, "/v1/rerank", TEXT.encode(encoding), Content_Type=JSON)
    assert answer.status_code == 400
    assert f"it seems to be {encoding[:6].upper()}" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (gzip.compress(TEXT.encode()), "a gzip file"),  # its header Content-Encoding is missing
        (b"\x28\xb5\x2f\xfd\x00", "a Zstandard file"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"\x89PNG\r\n\x1a\n\x00", "a PNG image"),
    ],
)
@pytest.mark.parametrize("path", [*GOOD, "/v1/jobs"])
def test_a_file_that_is_declared_as_json_is_named(http, path, body, kind):
    answer = post(http, path, body, Content_Type=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (415, "body")
    assert f"it seems to be {kind}" in error["message"]
    assert "/v1/uploads" in error["hint"]


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/rerank", '{"query": "q", "query": "p", "documents": ["a"]}', "query"),
        ("/v1/rerank", '{"query": "q", "documents": [{"text": "a", "text": "b"}]}', "text"),
        ("/rerank", '{"query": "q", "texts": ["a"], "texts": ["b"]}', "texts"),
        ("/v2/rerank", '{"query": "q", "documents": ["a"], "top_n": 1, "top_n": 2}', "top_n"),
        ("/v1/score", '{"queries": "q", "documents": "a", "documents": "b"}', "documents"),
        ("/v1/jobs", '{"input": "s3://a/b", "input": "s3://a/c"}', "input"),
    ],
)
def test_no_key_of_an_object_stands_twice(http, path, body, key):
    """The last value would be read, and the other one be lost."""
    answer = post(http, path, body.encode(), Content_Type=JSON)
    assert answer.status_code == 422
    assert f"the key '{key}' stands twice in an object" in answer.json()["error"]["message"]


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "gzip, identity"])
@pytest.mark.parametrize("path", [*GOOD, "/v1/jobs", "/v1/uploads?name=a.jsonl"])
def test_a_compressed_body_is_415(http, path, encoding):
    packed = gzip.compress(TEXT.encode())
    answer = post(http, path, packed, Content_Type=JSON, Content_Encoding=encoding)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (415, "Content-Encoding")
    assert "without this header" in error["hint"] or "leave this header out" in error["hint"]


def test_a_form_is_no_upload(http):
    answer = http.post("/v1/uploads?name=a.jsonl", files={"file": ("a.jsonl", TEXT)})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (415, "Content-Type")
    assert "not a form" in error["message"]
    assert "Content-Type: application/x-ndjson" in error["hint"]
    empty = http.post("/v1/uploads?name=a.jsonl")
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "body")


def test_a_body_that_may_be_left_out_may_be(http, working):
    source = http.post("/v1/uploads?name=in.jsonl", content=TEXT).json()["uri"]
    job = http.post("/v1/jobs", json={"input": source}).json()["id"]
    for content, headers, status in (
        (b"", {}, 409),
        (b"{}", {"Content_Type": JSON}, 409),
        (b"{}", {"Content_Type": "text/plain"}, 415),
    ):
        assert post(http, f"/v1/jobs/{job}/retry", content, **headers).status_code == status


def test_what_is_not_json_says_so_in_the_clients_shape(http):
    ours = post(http, "/v1/rerank", b"{'query': 1}", Content_Type=JSON)
    assert (ours.status_code, ours.json()["error"]["code"]) == (422, "invalid_json")
    assert ours.json()["error"]["hint"]
    cohere = post(http, "/v2/rerank", b"", Content_Type=JSON).json()
    assert cohere["message"] == "body: there is none"
