"""Uploads: streamed into the storage, capped, dropped when broken off, gone after their time."""

from __future__ import annotations

import gzip
import json
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from rerankfleet.producer.gateway.middleware import slow_clients
from rerankfleet.shared.addresses import local_path
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.storage import uploads as module
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.s3_streams import S3Body
from rerankfleet.shared.storage.uploads import is_upload, new_upload, sweep_uploads, upload_uri
from rerankfleet.workers.images.source import ImageSource
from tests.support.drawn import png
from tests.support.fleet import worker_row
from tests.support.gateway import running_gateway
from tests.support.wait import patient, wait_until


def stored(settings) -> list[Path]:
    """All files of all uploads, drafts too."""
    root = local_path(settings.storage_uri) / "uploads"
    return [path for path in root.rglob("*") if path.is_file()]


def test_an_image_is_kept_as_it_is(http, settings):
    data = png(1)
    answer = http.post("/v1/uploads?name=a.png", content=data)
    upload = answer.json()
    assert answer.status_code == 201
    assert (upload["bytes"], upload["content_type"], upload["name"]) == (
        len(data),
        "image/png",
        "a.png",
    )
    assert local_path(upload["uri"]).read_bytes() == data
    assert upload["expires_s"] == int(upload["id"].partition("-")[0])
    assert is_upload(upload["uri"], settings)


def test_workers_may_read_uploads_and_nothing_beside_them(http, settings):
    # given an uploaded image, and a file beside the uploads
    uri = http.post("/v1/uploads?name=a.png", content=png(1)).json()["uri"]
    secret = local_path(settings.storage_uri) / "secret.png"
    secret.write_bytes(png(2))
    # when a worker that is allowed nothing fetches them
    source = ImageSource.of(settings.model_copy(update={"allowed_roots": ()}))
    fetch = source._fetcher.fetch
    try:
        assert fetch(uri) == png(1)
        detour = f"{uri.rpartition('/')[0]}/../../secret.png"
        for other in (str(secret), detour, detour.replace("..", "%2e%2e")):
            with pytest.raises(ItemError) as caught:
                fetch(other)
            assert caught.value.code == "refused_source"
    finally:
        source.close()


def test_workers_may_read_uploads_in_s3_and_nothing_beside_them(s3, change):
    settings = change(storage="s3://pairs/work", allowed_buckets=())
    with running_gateway(settings) as http:
        uri = http.post("/v1/uploads?name=a.png", content=png(1)).json()["uri"]
    s3.put_object(Bucket="pairs", Key="work/secret.png", Body=png(2))
    source = ImageSource.of(settings)
    try:
        assert source._fetcher.fetch(uri) == png(1)
        for other in (
            "s3://pairs/work/secret.png",
            "s3://pairs/work/uploads/../secret.png",
            "s3://pairs/work/uploads2/a.png",
        ):
            with pytest.raises(ItemError) as caught:
                source._fetcher.fetch(other)
            assert caught.value.code == "refused_source"
    finally:
        source.close()


@pytest.mark.parametrize(
    ("name", "kind", "expected", "suffix"),
    [
        ("a.jsonl", None, "application/x-ndjson", ".jsonl"),
        ("a.jsonl", "application/octet-stream", "application/x-ndjson", ".jsonl"),
        ("A.CSV", "text/csv", "text/csv", ".csv"),
        ("a.csv.gz", "application/gzip", "application/gzip", ".csv.gz"),
        ("a.parquet", "", "application/vnd.apache.parquet", ".parquet"),
        ("", "image/jpeg", "image/jpeg", ".jpg"),
        ("a.JFIF", None, "image/jpeg", ".jfif"),
        ("a.heic", "application/octet-stream", "image/heic", ".heic"),
        ("", "image/heif", "image/heif", ".heif"),
        ("a.avif", "image/avif", "image/avif", ".avif"),
        ("../../etc/passwd", "image/webp", "image/webp", ".webp"),
        ("", "application/x-ndjson; charset=utf-8", "application/x-ndjson", ".jsonl"),
    ],
)
def test_type_and_name_say_what_it_is(http, name, kind, expected, suffix):
    headers = {"Content-Type": kind} if kind else {}
    answer = http.post("/v1/uploads", params={"name": name}, content=b"x", headers=headers)
    assert answer.json()["content_type"] == expected
    assert answer.json()["uri"].endswith(f"/upload{suffix}")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.exe", ""), ("", ""), ("a.html", "text/html"), ("", "image/svg+xml")]
)
def test_what_nobody_can_use_is_refused(http, settings, name, kind):
    answer = http.post(
        "/v1/uploads", params={"name": name}, content=b"x", headers={"Content-Type": kind}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (415, "Content-Type")
    assert stored(settings) == []


def test_an_upload_over_its_cap_leaves_nothing(change):
    settings = change(upload_bytes_max=3 << 20)
    with running_gateway(settings) as http:
        blocks = iter([b"x" * (1 << 20)] * 5)
        answer = http.post("/v1/uploads?name=a.csv", content=blocks)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert stored(settings) == []


def test_an_upload_that_is_broken_off_leaves_nothing(http, settings):
    # given a client that has sent part of what it announced
    address = (http.base_url.host, http.base_url.port)
    head = (
        "POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
    )
    with socket.create_connection(address) as connection:
        connection.sendall(head.encode() + b"x" * 3_000_000)
        wait_until(lambda: stored(settings), 20, "a draft is there")
    # when it goes away, then so does the draft
    wait_until(lambda: not stored(settings), 20, "the draft is gone")
    folder = local_path(settings.storage_uri) / "uploads"
    wait_until(lambda: not list(folder.iterdir()), 20, "its folder is gone")


def test_no_more_uploads_are_taken_than_memory_is_meant_for(change):
    with running_gateway(change(gateway_uploads_max=1)) as http:
        upload = lambda: http.post("/v1/uploads?name=a.csv", content=b"x").status_code  # noqa: E731
        # given an upload that goes on
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(
                b"POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 9000000\r\n\r\nx"
            )
            # then there is no room for another one
            wait_until(lambda: upload() == 429, what="the upload is in progress")
        # until it is over
        wait_until(lambda: upload() == 201, what="there is room again")


def test_an_upload_of_which_nothing_comes_makes_room(http, settings, monkeypatch):
    monkeypatch.setattr(slow_clients, "SILENCE_S", 0.2)
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.sendall(
            b"POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 9000000\r\n\r\nx"
        )
        connection.settimeout(patient(20))
        assert b" 408 " in connection.recv(100)
    assert stored(settings) == []


def test_an_upload_that_comes_drop_by_drop_makes_room(change, monkeypatch):
    monkeypatch.setattr(slow_clients, "SILENCE_S", 0.5)
    with running_gateway(change(gateway_uploads_max=1)) as http:
        # given one that is never silent for long
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(
                b"POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 9000000\r\n\r\n"
            )
            connection.setblocking(False)

            def answer() -> bytes:
                with suppress(BlockingIOError):
                    return connection.recv(100)
                connection.send(b"x")
                return b""

            # then it is sent away nevertheless
            assert b" 408 " in wait_until(answer, 20, "it is sent away")
        # and there is room for another one
        assert http.post("/v1/uploads?name=a.csv", content=b"x").status_code == 201


def test_an_empty_upload_is_refused(http, settings):
    answer = http.post("/v1/uploads?name=a.csv", content=b"")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "body")
    assert stored(settings) == []


def test_an_upload_lives_as_long_as_it_asks_for(change, monkeypatch):
    settings = change(upload_ttl_s=100, upload_ttl_max_s=1000)
    monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: 5000.0))
    with running_gateway(settings) as http:
        upload = lambda **options: http.post(  # noqa: E731
            "/v1/uploads", params={"name": "a.csv", **options}, content=b"x"
        )
        assert upload().json()["expires_s"] == 5100
        assert upload(ttl_s=1000).json()["expires_s"] == 6000
        for wrong in (1001, 0, -1, "nan", "inf"):
            answer = upload(ttl_s=wrong)
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, "ttl_s"), wrong


@pytest.mark.parametrize("storage", [None, "s3://pairs/work"])
def test_uploads_go_when_their_time_is_over(storage, change, s3, settings):
    objects = Objects(change(storage=storage) if storage else settings)
    assert sweep_uploads(objects)[0] == 0
    # given uploads over their time, one that is not, and a draft that was never published
    old, _ = new_upload(-10)
    older, _ = new_upload(-100)
    fresh, _ = new_upload(100)
    for one in (old, older, fresh):
        objects.write(upload_uri(objects, one, "upload.png"), b"x")
    # when it is swept, again and again
    assert [sweep_uploads(objects)[0] for _ in range(2)] == [2, 0]
    # then only the fresh one is left
    assert objects.folders(objects.at("uploads") + "/") == [fresh]
    assert objects.read(upload_uri(objects, fresh, "upload.png")) == b"x"


LINE = {"query": "q", "documents": ["a"]}


def test_a_job_keeps_its_input_when_the_upload_goes(http, settings, store, fleet, objects):
    fleet.beat(worker_row())
    upload = http.post("/v1/uploads?name=a.jsonl", json=LINE).json()
    job = http.post("/v1/jobs", json={"input": upload["uri"]}).json()
    pinned = store.jobs.get(job["id"]).spec.input
    assert not is_upload(pinned.uri, settings)
    # both share their bytes, until one goes
    assert local_path(pinned.uri).samefile(local_path(upload["uri"]))
    objects.delete_tree(upload_uri(objects, upload["id"]))
    assert objects.stat(pinned.uri).size == pinned.size
    assert json.loads(objects.read(pinned.uri)) == LINE


@pytest.mark.parametrize("hash_is_lost", [False, True])
def test_the_same_bytes_uploaded_again_are_the_same_job(http, fleet, objects, hash_is_lost):
    # given a client that makes a job of an upload under a key
    fleet.beat(worker_row())

    def submitted(line: dict[str, object]) -> httpx.Response:
        upload = http.post("/v1/uploads?name=a.jsonl", json=line).json()
        if hash_is_lost:  # a gateway of an older version kept none
            local_path(upload_uri(objects, upload["id"], "sha256")).unlink()
        return http.post("/v1/jobs", json={"input": upload["uri"], "key": "k"})

    first = submitted(LINE).json()["id"]
    # when it starts anew, it finds its job
    assert submitted(LINE).json()["id"] == first
    # and other bytes are refused under this key
    assert submitted(LINE | {"query": "other"}).status_code == 409


def test_of_an_upload_that_becomes_a_job_in_s3_only_the_first_bytes_are_read(
    s3, change, fleet, monkeypatch
):
    # given a large upload in S3
    fleet.beat(worker_row())
    with running_gateway(change(storage="s3://pairs/work")) as http:
        lines = json.dumps(LINE).encode() + b"\n" + b" " * (9 << 20) + b"\n"
        uri = http.post("/v1/uploads?name=a.jsonl", content=lines).json()["uri"]
        read: list[int] = []
        real = S3Body.readinto
        monkeypatch.setattr(S3Body, "readinto", lambda *args: read.append(real(*args)) or read[-1])
        # when a job is made of it
        answer = http.post("/v1/jobs", json={"input": uri})
    # then its bytes did not come through here, and it has them
    assert answer.status_code == 201
    assert sum(read) <= 2 << 20
    key = f"work/jobs/{answer.json()['id']}/input.jsonl"
    assert s3.head_object(Bucket="pairs", Key=key)["ContentLength"] == len(lines)


def test_an_upload_that_unpacks_to_much_is_not_unpacked_while_its_job_is_made(
    http, settings, fleet
):
    line = json.dumps({"query": "q", "documents": ["a"]}).encode() + b"\n"
    bomb = gzip.compress(line + b" " * (256 << 20))
    fleet.beat(worker_row())
    uri = http.post("/v1/uploads?name=a.jsonl.gz", content=bomb).json()["uri"]
    answer = http.post("/v1/jobs", json={"input": uri})
    assert answer.status_code == 201
    files = local_path(settings.storage_uri).rglob("*.*")
    assert [path.stat().st_size for path in files] == [len(bomb)] * 2


@pytest.mark.parametrize(
    "name",
    [
        "a.%2f%2e%2e%2f%2e%2e%2fjobs%2fx.gz",
        "a.\0.gz",
        f"a.{'x' * 300}.gz",
        "../../x.csv.gz",
    ],
)
def test_of_a_name_only_a_known_end_gets_into_the_address(http, name):
    answer = http.post("/v1/uploads", params={"name": name}, content=b"some bytes")
    assert answer.status_code == 201
    assert answer.json()["uri"].endswith(("/upload.gz", "/upload.csv.gz"))
