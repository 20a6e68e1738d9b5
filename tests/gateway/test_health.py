"""Whether a gateway is ready."""

from __future__ import annotations

from tests.support.fleet import worker_row


def test_ready_is_who_has_a_worker_that_serves(http, fleet):
    assert http.get("/health/ready").status_code == 503
    fleet.beat(worker_row(state="loading"))
    assert http.get("/health/ready").status_code == 503
    fleet.beat(worker_row())
    assert http.get("/health/ready").json() == {"redis": True, "workers": 1}
