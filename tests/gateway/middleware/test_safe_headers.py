"""Headers that limit what a browser does."""

from __future__ import annotations

from rerankfleet.producer.gateway.middleware.safe_headers import SAFE_HEADERS


def test_every_answer_has_safe_headers(http):
    for path in ("/", "/docs", "/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert {name: headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS
