"""Clients that stop sending."""

from __future__ import annotations

import pytest

from rerankfleet.producer.gateway.middleware import slow_clients
from tests.support.fleet import worker_row
from tests.support.gateway import everything, running_gateway, stalled

BODY = {"query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/v1/jobs"])
def test_a_body_that_stops_to_come_is_not_waited_for(http, monkeypatch, path):
    monkeypatch.setattr(slow_clients, "SILENCE_S", 0.2)
    with stalled(http, b'{"query": "q', path) as connection:
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body comes too slowly" in answer
    assert b"request_timeout" in answer


def test_a_body_that_has_come_may_wait_long_for_its_answer(change, fleet, monkeypatch):
    monkeypatch.setattr(slow_clients, "SILENCE_S", 0.05)
    fleet.beat(worker_row())
    with running_gateway(change(interactive_deadline_s=0.5)) as http:
        assert http.post("/v1/rerank", json=BODY).status_code == 504
