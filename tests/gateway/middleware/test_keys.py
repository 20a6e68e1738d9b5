"""API keys: who gets in."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from rerankfleet.producer.api_keys import digest_of
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.app import ROUTES, make_app
from rerankfleet.producer.gateway.middleware.wrong_keys import ADDRESSES_MAX, WrongKeys
from rerankfleet.shared.errors import UsageError
from tests.support.fleet import MODEL
from tests.support.gateway import running_gateway, scrape, value
from tests.support.server import valkey
from tests.support.wait import wait_until

LINE = json.dumps({"query": "q", "documents": ["a"]})

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


# ---- keys of a file -----------------------------------------------------------------------------


def test_a_key_is_revoked_and_another_let_in_while_the_gateway_runs(clients, key_file):
    alice, models = clients["alice"], "/v1/models"
    assert alice.get(models).status_code == 200

    key_file.remove("alice")
    key_file.add("carol", "rerank")

    wait_until(lambda: alice.get(models).status_code == 401, 20, "the key is revoked")
    with key_file.client(alice, "carol") as carol:
        assert carol.get(models).status_code == 200
    assert clients["bob"].get(models).status_code == 200


def test_a_wrong_file_revokes_nobody_and_is_logged_once(clients, key_file, capsys):
    def logged() -> int:
        nonlocal err
        err += capsys.readouterr().err
        return err.count("stay in force")

    err = ""
    key_file.path.write_text("[keys.alice]\nhash = 3")
    wait_until(lambda: logged() == 1, 20, "the file is looked at")
    assert clients["alice"].get("/v1/models").status_code == 200
    key_file.add("carol", "rerank")
    wait_until(lambda: (logged(), "added=['carol']" in err)[1], 20, "the file is read again")
    assert logged() == 1


def test_a_gateway_does_not_start_without_its_file(change, tmp_path):
    missing = change(api_keys_file=tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"none\.toml cannot be read"):
        make_app(Client(missing))


def test_the_name_of_a_key_is_in_log_and_metrics_and_the_key_is_not(
    clients, key_file, working, capsys
):
    alice = clients["alice"]
    uri = alice.post("/v1/uploads?name=a.jsonl", content=LINE).json()["uri"]
    body = {"input": uri, "model": MODEL}
    job = alice.post("/v1/jobs", json=body, headers={"X-Request-Id": "mine"}).json()["id"]
    for wrong in ("guess-1", "guess-2"):
        assert alice.get("/v1/models", headers=bearer(wrong)).status_code == 401
    assert clients["bob"].get("/v1/fleet").status_code == 403
    assert clients["bob"].get("/health/live").status_code == 200

    log = capsys.readouterr().err
    (line,) = [line for line in log.splitlines() if "a job was submitted" in line]
    assert {f"job={job}", "key=alice", "request=mine"} <= set(line.split())
    samples = scrape(clients["only-metrics"])
    counted = {
        (sample.labels["key"], sample.labels["outcome"]): sample.value
        for sample in samples["rerank_key_requests_total"]
    }
    assert counted["alice", "ok"] >= 2
    assert counted["bob", "client_error"] == 1
    assert counted["none", "client_error"] == 2
    assert counted["none", "ok"] >= 1
    assert {name for name, _ in counted} <= {*key_file.keys, "none"}
    told = log + clients["only-metrics"].get("/metrics").text
    for key in (*key_file.keys.values(), "guess"):
        assert key not in told
        assert digest_of(key).removeprefix("sha256:")[:16] not in told


# ---- rates --------------------------------------------------------------------------------------


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def rated(change, key_file, redis_server):
    """Two gateways of one fleet, and the key of somebody who may send three requests a day."""
    key_file.add("slow", "rerank", "jobs", rate="3/day")
    settings = change(api_keys_file=key_file.path)
    with running_gateway(settings) as here, running_gateway(settings) as there:
        here.headers = there.headers = key_file.headers("slow")
        yield here, there


def test_a_rate_counts_over_all_gateways(rated, key_file):
    here, there = rated
    answers = [http.get("/v1/presets") for http in (here, there, here, there, here)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"key";q=3;w=86400'}
    left = [re.fullmatch(r'"key";r=(\d);t=\d+', a.headers["RateLimit"])[1] for a in answers]
    assert left == ["2", "1", "0", "0", "0"]
    refused = answers[-1]
    assert 1 <= int(refused.headers["Retry-After"]) <= 86_400
    error = refused.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limited", "rate_limit_error")
    assert error["message"] == "the key slow may send 3 requests a day"
    # health needs neither, and others are not concerned
    assert here.get("/health/live").status_code == 200
    with key_file.client(here, "alice") as alice:
        assert alice.get("/v1/presets").status_code == 200
        assert "RateLimit" not in alice.get("/v1/presets").headers
    with key_file.client(here, "only-metrics") as scraper:
        samples = scrape(scraper)
    assert value(samples, "rerank_key_requests_total", key="slow", outcome="rate_limited") == 1


@pytest.mark.parametrize(
    ("path", "body", "shape"),
    [
        ("/v1/rerank", {"query": "q", "documents": ["a"]}, "ours"),
        ("/v2/rerank", {"query": "q", "documents": ["a"], "model": "m"}, "cohere"),
        ("/rerank", {"query": "q", "texts": ["a"]}, "tei"),
        ("/v1/score", {"text_1": "q", "text_2": ["a"]}, "ours"),
    ],
)
def test_over_its_rate_a_client_is_told_in_its_own_shape(rated, path, body, shape):
    here, there = rated
    for _ in range(3):
        there.get("/v1/presets")
    answer = here.post(path, json=body)
    assert (answer.status_code, "Retry-After" in answer.headers) == (429, True)
    fields = answer.json()
    if shape == "tei":
        assert fields["error_type"] == "Overloaded"
        assert fields["error"].startswith("the key slow may send 3 requests a day")
    else:
        assert fields["error"]["code"] == "rate_limited"
        assert ("message" in fields) == (shape == "cohere")


def test_without_redis_a_rate_lets_nobody_in_and_health_is_answered(change, key_file, tmp_path):
    key_file.add("slow", "rerank", rate="3/day")
    with valkey(tmp_path) as url:
        settings = change(redis_url=SecretStr(url), api_keys_file=key_file.path)
        gateway = running_gateway(settings)
        http = gateway.__enter__()
    try:
        assert http.get("/health/live").status_code == 200
        assert http.get("/health/ready").status_code == 503
        for headers, status in ((key_file.headers("slow"), 503), (bearer("wrong"), 401), ({}, 401)):
            assert http.get("/v1/presets", headers=headers).status_code == status
        assert http.get("/v1/presets", headers=key_file.headers("alice")).status_code == 200
    finally:
        gateway.__exit__(None, None, None)


# ---- wrong keys ---------------------------------------------------------------------------------


def test_wrong_keys_are_slowed_by_address_and_a_right_one_gets_in(clients, key_file, capsys):
    alice, models = clients["alice"], "/v1/models"

    def attempt(key: str, address: str = "198.51.100.7") -> httpx.Response:
        headers = {**bearer(key), "X-Forwarded-For": address}
        return alice.get(models, headers=headers)

    tries = [attempt(f"guess-{n}") for n in range(13)]

    assert [answer.status_code for answer in tries] == [401] * 10 + [429] * 3
    error = tries[-1].json()["error"]
    assert error["code"] == "too_many_wrong_keys"
    assert 1 <= int(tries[-1].headers["Retry-After"]) <= 60
    assert attempt(key_file.keys["bob"]).status_code == 200
    assert attempt("guess", "198.51.100.8").status_code == 401
    assert alice.get(models, headers={"Authorization": ""}).status_code == 401  # no key: no try
    log = capsys.readouterr().err
    (line,) = [line for line in log.splitlines() if "wrong API keys" in line]
    assert {"address=198.51.100.7", "count=10"} <= set(line.split())
    assert "guess" not in log


def test_wrong_keys_are_forgotten_and_logged_again_with_their_number(capsys):
    now_s = 100.0
    wrong = WrongKeys(lambda: now_s)
    waits = [wrong.count("a") for _ in range(25)]
    assert waits == [None] * 10 + [60.0] * 15
    now_s = 130.0
    assert wrong.count("a") == 30.0
    now_s = 160.0
    assert [wrong.count("a") for _ in range(10)] == [None] * 10
    lines = [line for line in capsys.readouterr().err.splitlines() if "wrong API keys" in line]
    assert ["in_the_window_before=" in line for line in lines] == [True, True]
    assert "in_the_window_before=26" in lines[1]


def test_networks_count_as_one_and_addresses_are_bounded():
    wrong = WrongKeys()
    for n in range(10):
        assert wrong.count(f"2001:db8::{n}") is None
    assert wrong.count("2001:db8::ffff:1") is not None  # of the same /64
    assert wrong.count("2001:db8:0:1::1") is None
    assert wrong.count("") is None
    for n in range(ADDRESSES_MAX + 5):
        wrong.count(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}")
    assert len(wrong._tries) == ADDRESSES_MAX
