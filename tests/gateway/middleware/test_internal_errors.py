"""Errors that no handler answers."""

from __future__ import annotations

import asyncio
import json

from rerankfleet.producer.gateway.middleware.internal_errors import InternalErrors
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


def test_a_request_that_a_stopping_gateway_cuts_off_is_answered_with_503():
    # given a request that waits for its answer
    sent = []
    waiting = asyncio.Event()

    async def app(*_: object) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async def send(message: dict) -> None:
        sent.append(message)

    async def receive() -> dict:
        return {"type": "http.request"}

    # when the server, which is being stopped, cancels it
    async def cut_off() -> None:
        scope = {"type": "http", "path": "/v1/rerank", "method": "POST", "headers": []}
        request = asyncio.ensure_future(InternalErrors(app)(scope, receive, send))
        await waiting.wait()
        request.cancel()
        await request

    asyncio.run(cut_off())
    # then its sender is told to send it again
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"5") in start["headers"]
    assert json.loads(body["body"])["error"]["code"] == "unavailable"
