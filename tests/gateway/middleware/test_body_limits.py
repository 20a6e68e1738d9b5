"""Bodies that are too large, by themselves or together."""

from __future__ import annotations

from rerankfleet.producer.gateway.middleware import body_limits
from tests.support.fleet import worker_row
from tests.support.gateway import running_gateway, stalled
from tests.support.wait import wait_until


def test_a_body_over_its_cap_is_refused(change):
    with running_gateway(change(inline_bytes_max=1000)) as http:
        # given a body that says its length, and one that does not
        large = b'{"query": "' + b"x" * 4000 + b'"}'
        kind = {"Content-Type": "application/json"}
        for content in (large, iter([large[:2000], large[2000:]])):
            answer = http.post("/v1/rerank", content=content, headers=kind)
            error = answer.json()["error"]
            assert answer.status_code == 413
            assert (error["type"], error["code"]) == ("request_too_large", "too_large")


def test_all_bodies_that_still_come_are_bounded_together(settings, fleet, monkeypatch):
    monkeypatch.setattr(body_limits, "BODIES_MAX", 0.1)  # times 8 MiB
    fleet.beat(worker_row())
    with running_gateway(settings) as http:
        large = {"query": " " * 300_000, "documents": ["a"]}
        status = lambda: http.post("/v1/rerank", json=large).status_code  # noqa: E731
        # given one that stopped after most of it
        with stalled(http, b" " * 700_000):
            # then another large one finds no place
            wait_until(lambda: status() == 429, what="there is no place")
        # until it is gone
        wait_until(lambda: status() == 422, what="there is a place again")
