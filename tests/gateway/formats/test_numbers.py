"""Numbers over HTTP: ids come back as they came, options may be whole floats, true is no number."""

from __future__ import annotations

import json

import pytest

IDS = ["8", "8.0", '"8"', "123456789012345678901234567890"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
def test_ids_come_back_as_they_came(http, working, path):
    documents = ",".join(f'{{"id": {own}, "text": "a {n}"}}' for n, own in enumerate(IDS))
    body = f'{{"query": "q", "documents": [{documents}], "top_n": 4.0}}'

    answer = http.post(path, content=body, headers={"Content-Type": "application/json"})

    results = sorted(answer.json()["results"], key=lambda result: result["index"])
    assert [json.dumps(result["id"]) for result in results] == IDS
    for own in IDS:
        assert f'"id":{own}' in answer.text.replace(": ", ":")


@pytest.mark.parametrize("own", ["true", "8.5", "1e400", "[8]"])
def test_what_is_no_id_costs_its_document(http, working, own):
    body = f'{{"query": "q", "documents": ["a", {{"id": {own}, "text": "b"}}]}}'

    answer = http.post("/v1/rerank", content=body, headers={"Content-Type": "application/json"})

    if answer.status_code == 200:
        (error,) = answer.json()["errors"]
        assert (error["index"], error["code"]) == (1, "invalid_document")
    else:
        assert answer.status_code in (400, 422)


@pytest.mark.parametrize("field", [{"top_n": True}, {"max_length": True}, {"temperature": True}])
def test_true_is_no_number(http, working, field):
    answer = http.post("/v1/rerank", json={"query": "q", "documents": ["a"], **field})

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == min(field)
