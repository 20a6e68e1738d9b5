"""API keys: who gets in."""

from __future__ import annotations

import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from rerankfleet.producer.gateway.app import ROUTES

OPEN = {
    *("/health", "/health/live", "/health/ready", "/version"),
    *("/openapi.json", "/docs", "/docs/style.css"),
}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer three"}, 401),
        ({"Authorization": "one"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"X-API-Key": "on"}, 401),
        ({"Authorization": "Bearer one"}, 200),
        ({"Authorization": "bearer two"}, 200),
        ({"X-API-Key": "two"}, 200),
    ],
)
def test_a_key_opens(keyed, headers, status):
    answer = keyed.get("/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_every_route_but_health_and_documentation_needs_the_key(keyed):
    every = [r for routes in ROUTES for r in routes.routes if isinstance(r, APIRoute)]
    assert len(every) > 25
    for route in every:
        path = route.path.replace("{job_id}", "j")
        for method in route.methods:
            status = keyed.request(method, path).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)
    assert keyed.get("/").status_code == 200


def test_keys_are_in_no_log_and_reach_the_gateway_of_up(settings):
    keyed = settings.model_copy(update={"api_keys": (SecretStr("one"), SecretStr("two"))})
    assert "two" not in repr(keyed)
    assert keyed.environment()["RERANK_API_KEYS"] == "one,two"


def test_with_keys_any_name_will_do(keyed):
    key = {"X-API-Key": "one", "Host": "rerank.example", "Sec-Fetch-Site": "cross-site"}
    assert keyed.get("/v1/models", headers=key).status_code == 200
