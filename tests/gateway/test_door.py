"""What happens before a route: keys, ids, caps, headers; and what every error looks like."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import SecretStr

from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.app import make_app
from rerankfleet.producer.gateway.middleware import door
from rerankfleet.producer.gateway.middleware.door import SAFE_HEADERS
from rerankfleet.producer.interactive import Interactive, PendingRequest
from rerankfleet.shared.job_spec import Priority
from tests.support.fleet import MODEL, worker_row
from tests.support.gateway import posted, running_gateway
from tests.support.server import valkey
from tests.support.wait import wait_until

BODY = {"query": "q", "documents": ["a", "b"]}
WRONG = {"query": " ", "documents": ["a"]}
OPEN = {
    *("/health", "/health/live", "/health/ready", "/version"),
    *("/openapi.json", "/docs", "/docs/style.css"),
}


@pytest.fixture
def keyed(change) -> Iterator[httpx.Client]:
    """A client of a gateway that wants a key."""
    with running_gateway(change(api_keys=(SecretStr("one"), SecretStr("two")))) as found:
        yield found


# ---- keys ---------------------------------------------------------------------------------------


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


def test_every_route_but_health_and_documentation_needs_the_key(keyed, settings):
    routes = [r for r in make_app(Client(settings)).router.routes if isinstance(r, APIRoute)]
    for route in routes:
        path = route.path.replace("{job_id}", "j")
        for method in route.methods:
            status = keyed.request(method, path).status_code
            assert (status == 401) == (path not in OPEN), (method, path, status)
    assert keyed.get("/").status_code == 200


def test_keys_are_in_no_log_and_reach_the_gateway_of_up(settings):
    keyed = settings.model_copy(update={"api_keys": (SecretStr("one"), SecretStr("two"))})
    assert "two" not in repr(keyed)
    assert keyed.environment()["RERANK_API_KEYS"] == "one,two"


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
    # given a gateway that was given a name
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
        found = {name: http.get("/v1/models", headers={"Host": name}) for name in names}
        # then it is refused under any other one, and says what to do
        assert {name: answer.status_code for name, answer in found.items()} == names
        error = found["rebound.example:8080"].json()["error"]
        assert error["message"] == "this gateway is not called 'rebound.example'"
        assert "RERANK_GATEWAY_NAMES" in error["hint"]
        # but for what is open to all
        assert http.get("/health/live", headers={"Host": "rebound.example"}).status_code == 200


def test_with_keys_any_name_will_do(keyed):
    key = {"X-API-Key": "one", "Host": "rerank.example", "Sec-Fetch-Site": "cross-site"}
    assert keyed.get("/v1/models", headers=key).status_code == 200


# ---- ids, headers, caps -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1.2_3", True), ("a b", False), ("x" * 65, False), ("ä".encode(), False)],
)
def test_every_answer_has_an_id(http, given, kept):
    for path in ("/health/live", "/nothing", "/v1/jobs/none"):
        found = http.get(path, headers={"X-Request-Id": given}).headers["X-Request-Id"]
        assert (found == given) == kept
        assert kept or len(found) == 32


def test_every_answer_has_safe_headers(http):
    for path in ("/", "/docs", "/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert {name: headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS


def test_the_documentation_needs_no_other_host_and_no_script(http):
    page = http.get("/docs").text
    assert "POST /v1/rerank" in page
    assert "://" not in page.replace("https://, s3://", "").replace("s3://", "").replace(
        "file://", ""
    )
    assert "<script" not in page
    assert "style=" not in page


def test_a_body_over_its_cap_is_refused(change):
    with running_gateway(change(inline_bytes_max=1000)) as http:
        # given a body that says its length, and one that does not
        large = b'{"query": "' + b"x" * 4000 + b'"}'
        kind = {"Content-Type": "application/json"}
        for content in (large, iter([large[:2000], large[2000:]])):
            answer = http.post("/v1/rerank", content=content, headers=kind)
            assert (answer.status_code, answer.json()["error"]["type"]) == (
                413,
                "request_too_large",
            )


# ---- clients that stall -------------------------------------------------------------------------


@contextmanager
def stalled(http: httpx.Client, sent: bytes, path: str = "/v1/rerank") -> Iterator[socket.socket]:
    """A connection on which the first bytes of a body have come, and no more will."""
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.settimeout(20)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + sent)
        yield connection


def everything(connection: socket.socket) -> bytes:
    """What comes until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/score", "/v1/jobs"])
def test_a_body_that_stops_to_come_is_not_waited_for(http, monkeypatch, path):
    monkeypatch.setattr(door, "SILENCE_S", 0.2)
    with stalled(http, b'{"query": "q', path) as connection:
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body comes too slowly" in answer


def test_a_body_that_has_come_may_wait_long_for_its_answer(change, fleet, monkeypatch):
    monkeypatch.setattr(door, "SILENCE_S", 0.05)
    fleet.beat(worker_row())
    with running_gateway(change(interactive_deadline_s=0.5)) as http:
        assert http.post("/v1/rerank", json=BODY).status_code == 504


def test_all_bodies_that_still_come_are_bounded_together(settings, fleet, monkeypatch):
    monkeypatch.setattr(door, "BODIES_MAX", 0.1)  # times 8 MiB
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


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"documents": ["a"]}, "query", "query: Field required"),
        ({"query": "q"}, "documents", "documents: Field required"),
        ({"query": "q", "documents": "a"}, "documents", "expected a list of documents"),
        ({"query": "q", "documents": []}, "documents", "there are no documents"),
        ({"query": " ", "documents": ["a"]}, "query", "the query is empty"),
        ({"query": {"id": 1}, "documents": ["a"]}, "query.id", "there is no such field"),
        ({"query": "q", "documents": ["a", 5]}, "documents[1]", "valid dictionary"),
        ({"query": "q", "documents": ["a", {"txt": "b"}]}, "documents[1].txt", "Extra inputs"),
        (
            {"query": "q", "documents": ["a", {"image": ["s3://b/c", "ftp://x"]}]},
            "documents[1].image[1]",
            "expected s3://",
        ),
        ({"query": "q", "documents": ["\ud800"]}, "documents[0]", "half a surrogate pair"),
        ({**BODY, "top_n": -1}, "top_n", "greater than or equal to 0"),
        ({**BODY, "temperature": 3}, "temperature", "less than or equal to 2"),
        ({**BODY, "image": {"preset": "huge"}}, "image.preset", "image_preset is wrong"),
        ({**BODY, "image": {"max_crop": 2}}, "image.max_crop", "less than or equal to 1"),
        ({**BODY, "instuction": "x"}, "instuction", "there is no such field"),
        ([], "body", "valid dictionary"),
    ],
)
def test_what_is_wrong_is_told_with_field_and_place(http, fleet, body, param, says):
    fleet.beat(worker_row())
    kind = {"Content-Type": "application/json"}
    answer = http.post("/v1/rerank", content=json.dumps(body), headers=kind)
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["param"] == param
    assert says in error["message"]
    assert set(error) == {"message", "type", "param", "code", "hint"}


def test_too_many_or_too_large_is_413(change, fleet):
    fleet.beat(worker_row())
    small = change(max_documents_per_request=2, inline_bytes_max=1000)
    with running_gateway(small) as http:
        many = http.post("/v1/rerank", json={"query": "q", "documents": ["a"] * 3})
        large = http.post("/v1/rerank", json={"query": "q", "documents": ["a" * 1500]})
    assert (many.status_code, many.json()["error"]["param"]) == (413, "documents")
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")


def test_a_model_that_nobody_knows_is_404_and_one_that_nobody_serves_now_503(http, fleet):
    fleet.beat(worker_row())
    unknown = http.post("/v1/rerank", json={**BODY, "model": "none"})
    fleet.leave("w1")
    away = http.post("/v1/rerank", json={**BODY, "model": MODEL})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_model")
    assert (away.status_code, away.json()["error"]["code"]) == (503, "no_worker")
    assert away.headers["Retry-After"] == "5"


def test_a_model_that_is_being_loaded_is_503_at_once(http, fleet):
    fleet.beat(worker_row(state="loading"))
    answer = http.post("/v1/rerank", json=BODY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert answer.headers["Retry-After"] == "5"


def test_a_full_queue_sends_away_with_a_time_to_come_back(change, fleet, real_hints):
    fleet.beat(worker_row())
    real_hints.shard(MODEL, Priority.interactive, "j", "0-1")
    with running_gateway(change(interactive_queue_max=1)) as http:
        for path, kind in (("/v1/rerank", "error"), ("/v2/rerank", "message")):
            answer = http.post(path, json=BODY)
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")
            assert kind in answer.json()
        tei = http.post("/rerank", json={"query": "q", "texts": ["a"]})
    assert (tei.status_code, tei.json()["error_type"]) == (429, "Overloaded")


def test_a_gateway_whose_hands_are_full_sends_away(change, fleet, store):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_requests_max=1)) as http, ThreadPoolExecutor(1) as threads:
        # given a request in hand that nobody answers
        first = threads.submit(http.post, "/v1/rerank", json=BODY)
        (job_id,) = wait_until(store.jobs.unfinished, what="it is in hand")
        # then another one is not kept waiting
        second = http.post("/v1/rerank", json=BODY)
        assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
        # and when the first one is over
        store.jobs.cancel(store.jobs.get(job_id))
        assert first.result(20).status_code == 504
        # then the hand is free: this one is refused for itself
        assert http.post("/v1/rerank", json=WRONG).status_code == 422


def test_of_many_requests_at_once_no_more_are_taken_than_there_are_hands(change, fleet, store):
    fleet.beat(worker_row())
    # given one hand and twenty requests at the same moment
    with running_gateway(change(gateway_requests_max=1)) as http, ThreadPoolExecutor(20) as threads:
        together = threading.Barrier(20)

        def ask() -> int:
            together.wait(20)
            return http.post("/v1/rerank", json=BODY).status_code

        asked = [threads.submit(ask) for _ in range(20)]
        # when all but one have their answer
        wait_until(lambda: sum(one.done() for one in asked) == 19, 20, "the others are sent away")
        (job_id,) = wait_until(store.jobs.unfinished, what="one is in hand")
        store.jobs.cancel(store.jobs.get(job_id))
        # then one was taken in hand
        assert sorted(one.result(20) for one in asked) == [429] * 19 + [504]


def test_a_client_that_goes_away_leaves_no_work_behind(change, fleet, store):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_requests_max=1)) as http:
        # given a request in hand
        with posted(http, "/v1/rerank", BODY):
            (job_id,) = wait_until(store.jobs.unfinished, what="it is in hand")
        # when its client closes the connection: then its job ends, long before the deadline
        wait_until(lambda: store.jobs.get(job_id).cancelled, what="the job is cancelled")
        assert store.shards.due(MODEL, 10) == []
        # and the hand is free: this one is refused for itself, not for the other
        hand_is_free = lambda: http.post("/v1/rerank", json=WRONG).status_code == 422  # noqa: E731
        wait_until(hand_is_free, what="the hand is free")


def test_a_client_that_leaves_before_its_job_is_made_leaves_nothing_behind(
    settings, fleet, store, monkeypatch
):
    fleet.beat(worker_row())
    began, left, start = threading.Event(), threading.Event(), Interactive.start

    def slow(*args: object, **options: object) -> PendingRequest:
        began.set()
        assert left.wait(20)
        return start(*args, **options)

    monkeypatch.setattr(Interactive, "start", slow)
    with running_gateway(settings) as http:
        # given a client that closes its connection while its request is on the way to the queue
        with posted(http, "/v1/rerank", BODY):
            assert began.wait(20)
        left.set()
        # then the job that is made is cancelled at once
        wait_until(lambda: store.client.exists(store.keys.models), what="the job is made")
        wait_until(lambda: not store.jobs.unfinished(), what="the job is cancelled")
        assert store.shards.backlog(MODEL) == 0


def test_without_redis_the_answer_is_503(change, tmp_path):
    with valkey(tmp_path) as url:
        settings = change(redis_url=SecretStr(url))
        gateway = running_gateway(settings)
        http = gateway.__enter__()
    try:
        assert http.get("/health/live").status_code == 200
        ready = http.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"redis": False, "workers": 0})
        answer = http.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "queue_unavailable")
        assert "rerank_redis_up 0.0" in http.get("/metrics").text
    finally:
        gateway.__exit__(None, None, None)


def test_an_error_that_nobody_foresaw_is_told_with_its_id_and_nothing_more(
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
    assert "unforeseen" in log
    assert "my-id" in log


def test_ready_is_who_has_a_worker_that_serves(http, fleet):
    assert http.get("/health/ready").status_code == 503
    fleet.beat(worker_row(state="loading"))
    assert http.get("/health/ready").status_code == 503
    fleet.beat(worker_row())
    assert http.get("/health/ready").json() == {"redis": True, "workers": 1}
