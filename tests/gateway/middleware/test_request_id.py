"""An id for each request."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ä".encode(), False)],
)
def test_every_answer_has_an_id(http, given, kept):
    for path in ("/health/live", "/nothing", "/v1/jobs/none"):
        found = http.get(path, headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert (found == given) == kept
        assert kept or len(found) == 32
