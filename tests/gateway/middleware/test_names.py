"""Without keys: whom a browser that was sent here reaches."""

from __future__ import annotations

import socket

import pytest

from tests.support.gateway import running_gateway


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
        ({"Host": "localhost:9000", "Origin": "http://localhost:3000"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example:8080"}, 403),
        ({"Host": "rebound.example"}, 403),
    ],
)
def test_without_keys_no_page_of_another_site_gets_in(http, headers, status):
    assert http.get("/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize("listens_on", ["127.0.0.1", "0.0.0.0", "::", "rerank.lan"])
def test_without_keys_a_gateway_answers_to_its_own_names_alone(change, listens_on):
    # given a gateway that has a name
    settings = change(gateway_host=listens_on, gateway_names=("Rerank.example", "gateway"))
    names = {
        "localhost:8080": 200,
        "192.168.1.7:8080": 200,
        "[fd00::7]:8080": 200,
        "rerank.example": 200,
        "RERANK.EXAMPLE.:8080": 200,
        "gateway:8080": 200,
        f"{socket.gethostname()}:8080": 200,
        "rerank.lan": 200 if listens_on == "rerank.lan" else 403,
        "rebound.example:8080": 403,
        "192.168.1.7.rebound.example": 403,
        "gateway.rebound.example": 403,
        "": 403,
    }
    with running_gateway(settings) as http:
        answers = {name: http.get("/v1/models", headers={"Host": name}) for name in names}
        # then it is refused under any other one, and says what to do
        assert {name: answer.status_code for name, answer in answers.items()} == names
        error = answers["rebound.example:8080"].json()["error"]
        assert error["message"] == "this gateway is not called 'rebound.example'"
        assert "RERANK_GATEWAY_NAMES" in error["hint"]
        # but for what is open to all
        assert http.get("/health/live", headers={"Host": "rebound.example"}).status_code == 200
