"""Errors that no handler answers."""

from __future__ import annotations

from rerankfleet.producer.interactive import Interactive
from tests.support.fleet import worker_row
from tests.support.gateway import running_gateway

BODY = {"query": "q", "documents": ["a", "b"]}


def test_an_internal_error_is_answered_with_its_id_and_nothing_more(
    settings, fleet, monkeypatch, capsys
):
    fleet.beat(worker_row())

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(Interactive, "start", broken)
    with running_gateway(settings) as http:
        answer = http.post("/v1/rerank", json=BODY, headers={"X-Request-Id": "my-id"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert answer.headers["X-Request-Id"] == "my-id"
    assert "secret" not in answer.text
    log = capsys.readouterr().err
    assert "internal error" in log
    assert "my-id" in log
