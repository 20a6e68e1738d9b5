"""An id for each request."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("request_id", "kept"),
    [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ä".encode(), False)],
)
def test_every_answer_has_an_id(http, request_id, kept):
    for path in ("/health/live", "/nothing", "/v1/jobs/none"):
        answer_id = http.get(path, headers={"X-Request-Id": request_id}).headers["X-Request-Id"]
        assert (answer_id == request_id) == kept
        assert kept or len(answer_id) == 32
