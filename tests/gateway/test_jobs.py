"""Jobs over HTTP: made, followed, steered; and their results, streamed."""

from __future__ import annotations

import dataclasses
import itertools
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis
from pydantic import SecretStr

from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.middleware import slow_clients
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.job_status import JobStatus
from tests.support.fleet import Worker, worker_row
from tests.support.gateway import running_gateway, working_fleet
from tests.support.server import free_port, valkey
from tests.support.wait import patient, wait_until

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", 5, f"c{n}"]} for n in range(6)]


@pytest.fixture
def source(tmp_path: Path) -> str:
    """The URI of an input in an allowed folder."""
    folder = tmp_path / "allowed"
    folder.mkdir()
    path = folder / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return file_uri(path)


def submitted(http: httpx.Client, source: str, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json={"input": source, **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


def ended(http: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job, at its end."""

    def done() -> Any:
        job = http.get(f"/v1/jobs/{job_id}").json()
        return job if job["state"] in ("done", "cancelled") else None

    return wait_until(done, 30, "the job ends")


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_job_from_its_making_to_its_results(http, working, source):
    job = submitted(http, source, name="mine", top_n=1, temperature=0.5, priority="bulk")
    assert JobStatus.model_validate(job).name == "mine"

    status = ended(http, job["id"])

    assert status["progress"]["scored"] == 12
    assert status["progress"]["errors"] == 6
    assert (status["options"]["top_n"], status["options"]["temperature"]) == (1, 0.5)
    assert status["priority"] == "bulk"
    results = lines(http.get(f"/v1/jobs/{job['id']}/results"))
    assert [line["id"] for line in results] == [line["id"] for line in LINES]
    assert all(len(line["results"]) == 1 for line in results)
    failed = lines(http.get(f"/v1/jobs/{job['id']}/errors", params={"limit": 2}))
    assert [(line["id"], line["errors"][0]["index"]) for line in failed] == [(0, 1), (1, 1)]
    assert "results" not in failed[0]
    assert [j["id"] for j in http.get("/v1/jobs?limit=1").json()["data"]] == [job["id"]]


def test_a_catalog_over_http(http, working, tmp_path, source):
    listing = "".join(f"s3://shop/{n}.jpg\n" for n in range(3))
    uri = http.post("/v1/uploads?name=a.txt", content=listing).json()["uri"]
    job = submitted(http, uri, catalog={"queries": ["red", {"id": "b", "text": "blue"}]})
    status = ended(http, job["id"])
    assert status["catalog"] == {"queries": 2, "format": "jsonl"}
    rows = lines(http.get(f"/v1/jobs/{job['id']}/results"))
    assert len(rows) == 6
    assert {row["query_id"] for row in rows} == {1, "b"}


def test_a_folder_over_http_says_what_it_passes_over(http, working, source, tmp_path):
    folder = tmp_path / "allowed" / "a #1?"
    folder.mkdir()
    for name in ("a?b.jpg", "b.psd", "c"):
        (folder / name).write_bytes(b"x")
    said = "2 passed over: 1 without suffix, 1 .psd"

    job = submitted(http, f"FILE{file_uri(folder)[4:]}/", catalog={"queries": ["red"]})

    assert job["passed_over"] == said
    assert ended(http, job["id"])["passed_over"] == said
    (row,) = lines(http.get(f"/v1/jobs/{job['id']}/results"))
    assert row["image_id"] == file_uri(folder / "a?b.jpg")


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [
        ({"input": "/etc/passwd"}, "input", 422),
        ({"input": "-"}, "input", 422),
        ({"input": "https://host/a"}, "input", 422),
        ({"input": "file:///etc/passwd"}, None, 403),
        ({"input": "s3://other/a.jsonl"}, None, 403),
        ({"input": "SOURCE", "output": "/tmp/out.jsonl"}, "output", 422),
        ({"input": "SOURCE", "output": "file:///etc/out.jsonl"}, None, 403),
        ({"input": "SOURCE", "output": "STORAGE/jobs/x"}, "output", 422),
        ({"input": "SOURCE", "output": "STORAGE/../storage/./jobs/x"}, "output", 422),
        ({"input": "SOURCE", "output": "STORAGE/%6aobs/x"}, "output", 422),
        ({"input": "SOURCE", "output": "FSTORAGE/jobs/x"}, "output", 422),
        ({"input": "s3://key:pw@pairs/a.jsonl"}, None, 422),
        ({"input": "file:///%00"}, None, 422),
        ({"input": "file://in.jsonl"}, None, 422),
        ({"input": "SOURCE" + "x" * 255}, None, 422),
        ({"input": "SOURCE", "output": "SOURCE" + "x" * 255}, None, 422),
        ({"input": "SOURCE", "output": "file://out.jsonl"}, None, 422),
        ({"input": "SOURCE", "catalog": {"queries": "/etc/passwd"}}, "catalog.queries", 422),
        ({"input": "SOURCE", "priority": "interactive"}, "priority", 422),
        ({"input": "SOURCE", "image": {"preset": "huge"}}, "image.preset", 422),
        ({"input": "SOURCE", "unknown": 1}, "unknown", 422),
        ({}, "input", 422),
    ],
)
def test_what_a_job_may_not_read_or_write_is_refused(
    http, fleet, source, settings, body, param, status
):
    fleet.beat(worker_row())
    text = json.dumps(body).replace("SOURCE", source)
    text = text.replace("FSTORAGE", f"FILE{settings.storage_uri[4:]}")
    text = text.replace("STORAGE", settings.storage_uri)
    answer = http.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


def test_verbs_and_what_the_state_does_not_permit(http, fleet, source, store):
    fleet.beat(worker_row())
    job = f"/v1/jobs/{submitted(http, source)['id']}"
    # given a job that nobody works on: it can be held, let go and stopped
    assert http.post(f"{job}/pause").json()["state"] == "paused"
    assert http.post(f"{job}/resume").json()["state"] == "running"
    early = http.get(f"{job}/results")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "wrong_state")
    assert lines(http.get(f"{job}/results?partial=true")) == []
    assert http.post(f"{job}/resume").status_code == 409
    assert http.post(f"{job}/retry", json={"only": "errors"}).status_code == 409
    assert http.post(f"{job}/retry", json={"only": "some"}).status_code == 422
    assert http.post(f"{job}/cancel").status_code == 200
    assert http.post(f"{job}/pause").status_code == 409
    assert store.jobs.get(job.rpartition("/")[2]).cancelled


@pytest.mark.parametrize("verb", ["", "/results", "/errors", "/events"])
def test_a_job_that_is_not_there_is_404(http, verb):
    answer = http.get(f"/v1/jobs/none{verb}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_job")


def test_retry_scores_again_what_failed(http, control, source):

    with working_fleet(control, Worker(control, fails="a")) as worker:
        job = submitted(http, source)["id"]
        assert ended(http, job)["progress"]["scored"] == 6
        worker.fails = None
        http.post(f"/v1/jobs/{job}/retry")
        assert wait_until(lambda: ended(http, job)["progress"]["scored"] == 12, 30)


# ---- events -------------------------------------------------------------------------------------


def events(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """The events of a stream, up to its end; comments are skipped."""
    received, name = [], ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            received.append((name, json.loads(line.removeprefix("data: "))))
    return received


def paged(http: httpx.Client, job_id: str) -> list[dict[str, Any]]:
    """All errors of a finished job, two a page."""
    errors: list[dict[str, Any]] = []
    while page := lines(
        http.get(
            f"/v1/jobs/{job_id}/errors",
            params={"limit": 2, "after": errors[-1]["cursor"] if errors else ""},
        )
    ):
        errors += page
    return errors


def test_errors_are_read_on_after_a_cursor(http, working, source):
    job = submitted(http, source)
    ended(http, job["id"])
    whole = lines(http.get(f"/v1/jobs/{job['id']}/errors"))
    assert [line["id"] for line in whole] == list(range(6))
    assert paged(http, job["id"]) == whole
    for other in ("1", "0.1", str(10**17)):
        answer = http.get(f"/v1/jobs/{job['id']}/errors", params={"after": other})
        assert (answer.status_code, "is no cursor" in answer.text) == (422, True), other
    assert http.get(f"/v1/jobs/{job['id']}/errors?after=x").status_code == 422


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_errors_of_a_catalog_are_read_on_after_a_cursor(change, control, fleet, tmp_path, format):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    images = tmp_path / "allowed" / "images.txt"
    images.parent.mkdir()
    images.write_text("".join(f"s3://pairs/{n}{'fails' * (n % 2)}.jpg\n" for n in range(6)))
    catalog = {"queries": ["one", "two", "three"], "format": format}
    small = change(shard_pairs_max=5, allowed_roots=(tmp_path / "allowed",))
    small_control = dataclasses.replace(control, settings=small)
    with (
        working_fleet(small_control, Worker(small_control, fails="fails")),
        running_gateway(small) as http,
    ):
        job = submitted(http, file_uri(images), catalog=catalog)
        ended(http, job["id"])
        whole = lines(http.get(f"/v1/jobs/{job['id']}/errors"))
        assert len(whole) == 9
        assert paged(http, job["id"]) == whole


def test_an_unfinished_job_has_no_cursors(http, fleet, source):
    fleet.beat(worker_row())
    job = submitted(http, source)
    assert http.get(f"/v1/jobs/{job['id']}/errors").status_code == 200
    answer = http.get(f"/v1/jobs/{job['id']}/errors?after=5")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "wrong_state")


def test_a_job_of_another_version_is_reported_and_hides_no_other_one(http, fleet, source, store):
    fleet.beat(worker_row())
    old, new = (submitted(http, source)["id"] for _ in range(2))
    store.client.hset(store.keys.job(new), "spec", '{"from_later": 1}')
    assert [job["id"] for job in http.get("/v1/jobs").json()["data"]] == [old]
    answer = http.get(f"/v1/jobs/{new}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "unreadable_job")
    assert 'rerank_jobs{state="running"} 1.0' in http.get("/metrics").text


@pytest.mark.parametrize("line", [{"id": 1, "errors": []}, {"id": 1, "errors": [{"code": "x"}]}])
def test_a_stream_whose_client_leaves_ends_and_makes_room(change, monkeypatch, line):
    monkeypatch.setattr(Client, "results_after", lambda *_: (("", line) for _ in itertools.count()))
    with running_gateway(change(gateway_streams_max=1)) as http:
        address = (http.base_url.host, http.base_url.port)
        path = "/v1/jobs/j/errors?limit=100000"
        # given one that looks through lines without an end
        with socket.create_connection(address) as reader:
            reader.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            status = lambda: http.get("/v1/jobs/j/results").status_code  # noqa: E731
            # then there is no room for another one
            wait_until(lambda: status() == 429, what="the request is in progress")
        # until its client has left
        wait_until(lambda: status() == 404, what="there is room again")


@pytest.fixture
def endless(monkeypatch) -> None:
    """A job whose errors have no end."""
    line = {"id": 1, "errors": [{"code": "x", "message": "y" * 1000}]}
    monkeypatch.setattr(Client, "results_after", lambda *_: (("", line) for _ in itertools.count()))


@contextmanager
def unread(http: httpx.Client, path: str) -> Iterator[socket.socket]:
    """A connection on which a request was sent whose answer its client does not read."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.settimeout(patient(20))
        reader.connect((http.base_url.host, http.base_url.port))
        reader.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        yield reader


def callers_ports() -> set[int]:
    """The ports of those who have a connection to this process."""
    return {
        connection.raddr.port
        for connection in psutil.Process().net_connections("tcp")
        if connection.raddr
    }


def test_a_stream_that_nobody_reads_is_cut_off_and_makes_room(change, endless, monkeypatch):
    monkeypatch.setattr(slow_clients, "UNREAD_S", 1.0)
    with running_gateway(change(gateway_streams_max=1)) as http:
        status = lambda: http.get("/v1/jobs/j/results").status_code  # noqa: E731
        # given a client that reads nothing, and stays
        with unread(http, "/v1/jobs/j/errors?limit=100000") as reader:
            wait_until(lambda: status() == 429, what="the request is in progress")
            # then it is disconnected
            wait_until(lambda: status() == 404, 20, "there is room again")
            # and nothing is kept for it
            its_port = reader.getsockname()[1]
            wait_until(lambda: its_port not in callers_ports(), 20, "the connection is gone")


def test_readers_of_results_do_not_keep_others_from_making_jobs(change, endless, fleet, source):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_streams_max=1, gateway_jobs_max=1)) as http:
        with unread(http, "/v1/jobs/j/errors?limit=100000"):
            full = lambda: http.get("/v1/jobs/j/results").status_code == 429  # noqa: E731
            wait_until(full, what="the request is in progress")
            assert submitted(http, source)
            request = {"query": "q", "documents": ["a"], "mode": "async"}
            assert http.post("/v1/rerank", json=request).status_code == 202


def test_no_more_jobs_are_made_at_once_than_there_are_places(change, fleet, source, monkeypatch):
    fleet.beat(worker_row())
    begun, go_on = threading.Event(), threading.Event()
    submit = Client.submit

    def slow(*args: Any, **options: Any) -> str:
        begun.set()
        assert go_on.wait(patient(20))
        return submit(*args, **options)

    monkeypatch.setattr(Client, "submit", slow)
    with running_gateway(change(gateway_jobs_max=1)) as http, ThreadPoolExecutor(1) as threads:
        first = threads.submit(submitted, http, source)
        assert begun.wait(patient(20))
        second = http.post("/v1/jobs", json={"input": source})
        go_on.set()
        assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
        assert first.result(patient(20))


def test_no_more_jobs_are_followed_at_once_than_there_are_places(change, fleet, source):
    fleet.beat(worker_row())
    with running_gateway(change(gateway_events_max=1)) as http:
        path = f"/v1/jobs/{submitted(http, source)['id']}/events"
        # given one that is followed
        with http.stream("GET", path) as followed:
            received = followed.iter_lines()
            assert next(received) == "event: status"
            # then there is no place for another one
            with http.stream("GET", path) as answer:
                assert (answer.status_code, answer.headers["Retry-After"]) == (429, "1")

        # until its client leaves
        def is_free() -> bool:
            with http.stream("GET", path) as answer:
                return answer.status_code == 200

        wait_until(is_free, what="there is room again")


def test_the_job_of_a_small_request_has_no_output(http, working):
    request = {"query": "q", "documents": ["a", "b"]}
    answered = http.post("/v1/rerank", json=request).json()
    job = f"/v1/jobs/{answered['id'].removeprefix('rerank-')}"
    assert http.get(job).json()["state"] == "done"
    paths = ["results", "results?partial=true", "errors", "files", "files/results.jsonl"]
    answers = [http.get(f"{job}/{path}") for path in (*paths, "files/errors.jsonl")]
    for answer in (*answers, http.post(f"{job}/retry")):
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (409, "wrong_state"), answer.url
        assert "is a small request, which has no output" in error["message"]


def test_a_job_is_followed_to_its_end(http, working, source):
    job = submitted(http, source)["id"]
    with http.stream("GET", f"/v1/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        received = events(answer)
    names = [name for name, _ in received]
    assert set(names[:-1]) == {"status"}
    assert received[-1] == ("end", {"id": job, "state": "done"})
    assert received[-2][1]["progress"]["scored"] == 12


@pytest.mark.slow
def test_events_outlive_a_redis_that_is_away(change, tmp_path):
    from rerankfleet.shared.state.connection import connect
    from rerankfleet.shared.state.store import Store

    folder = tmp_path / "redis"
    folder.mkdir()
    port = free_port()
    keep = {"appendonly": "yes", "appendfsync": "always"}
    with valkey(folder, port=port, **keep) as url:
        settings = change(redis_url=SecretStr(url))
        store = Store(connect(settings), settings)
        spec = JobSpec(model="m", input={"uri": "file:///x", "size": 1, "tag": ""})
        store.jobs.create("j1", spec, "digest")
        gateway = running_gateway(settings)
        http = gateway.__enter__()
        stream = http.stream("GET", "/v1/jobs/j1/events")
        answer = stream.__enter__()
        received = answer.iter_lines()
        assert next(received) == "event: status"
    # when Redis is away, then the connection is kept alive
    while next(received) != ": keep-alive":
        pass
    with valkey(folder, port=port, **keep) as url, redis.Redis.from_url(url) as client:
        # and when it is back, then the status is sent again
        while not next(received).startswith("event: status"):
            pass
        client.delete(store.keys.job("j1"))
        assert "event: end" in list(received)
        stream.__exit__(None, None, None)
        gateway.__exit__(None, None, None)
