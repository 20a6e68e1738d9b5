"""Quotas of the storage: what uploads may take together, what the dead left, the last bytes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from rerankfleet.producer import quotas
from rerankfleet.producer.quotas import Reservation
from rerankfleet.shared.addresses import local_path
from rerankfleet.shared.errors import StorageFull
from rerankfleet.shared.state.ledger import EXPIRE_TOGETHER_S
from rerankfleet.shared.storage import disk
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.uploads import new_upload
from rerankfleet.workers.monitor import Monitor
from tests.support.fleet import worker_row
from tests.support.gateway import running_gateway
from tests.support.server import free_port
from tests.support.small_disk import small_disk
from tests.support.stack import RERANK
from tests.support.wait import patient, wait_until


def stored(settings) -> list[Path]:
    """All files of all uploads, drafts too."""
    root = local_path(settings.storage_uri) / "uploads"
    return [path for path in root.rglob("*") if path.is_file()]


# ---- quotas -------------------------------------------------------------------------------------


def sent(http: httpx.Client, size: int, *, announced: bool = True) -> httpx.Response:
    """The answer to an upload, whose size is announced, or not."""
    data = b"x" * size
    content = (
        data if announced else iter([data[at : at + 100_000] for at in range(0, size, 100_000)])
    )
    return http.post("/v1/uploads?name=a.csv", content=content)


@pytest.mark.parametrize("announced", [True, False])
def test_all_uploads_together_have_a_quota(change, store, announced):
    settings = change(uploads_bytes_max=3_000_000)
    with running_gateway(settings) as http:
        assert sent(http, 2_000_000, announced=announced).status_code == 201
        # when another one would pass it
        answer = sent(http, 1_500_000, announced=announced)
        # then it is refused with what is used, what is allowed, and what to do
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (
            507,
            "storage_full",
            "server_error",
        )
        assert "uploads take 1.9 MiB of the storage, of 2.9 MiB at most" in error["message"]
        assert "RERANK_UPLOADS_BYTES_MAX" in error["hint"]
        assert int(answer.headers["Retry-After"]) > 0
        # and leaves nothing, in the storage or in the count
        assert [path.stat().st_size for path in stored(settings) if path.suffix] == [2_000_000]
        assert store.ledger.used("uploads") == 2_000_000
        assert sent(http, 1_000_000, announced=announced).status_code == 201


def test_an_upload_that_was_announced_too_large_is_refused_before_it_comes(change, store):
    with running_gateway(change(uploads_bytes_max=1000, upload_bytes_max=5000)) as http:
        for announced, status in ((2000, b" 507 "), (6000, b" 413 ")):
            # given a client that has sent the head only
            with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
                connection.settimeout(patient(20))
                connection.sendall(
                    b"POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\n"
                    b"Content-Length: %d\r\n\r\n" % announced
                )
                assert status in connection.recv(100)
    assert store.ledger.used("uploads") == 0


def test_uploads_at_once_do_not_pass_the_quota_together(change, store):
    settings = change(uploads_bytes_max=1_000_000)
    with running_gateway(settings) as http, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: sent(http, 300_000, announced=False), range(8)))
    kept = sum(path.stat().st_size for path in stored(settings) if path.suffix)
    taken = sum(answer.status_code == 201 for answer in answers)
    assert kept == taken * 300_000 == store.ledger.used("uploads")
    assert 1 <= taken <= 3
    assert {answer.status_code for answer in answers} == {201, 507}


def test_room_comes_back_when_uploads_expire(change, store, objects, hints):
    settings = change(uploads_bytes_max=1000)
    with running_gateway(settings) as http:
        assert http.post("/v1/uploads?name=a.csv&ttl_s=1", content=b"x" * 900).status_code == 201
        assert sent(http, 900).status_code == 507
        # when its time is over
        monitor = Monitor(store, objects, hints, settings)
        folder = local_path(settings.storage_uri) / "uploads"

        def swept() -> bool:
            monitor.sweep()
            return not list(folder.iterdir())

        wait_until(swept, 20, "it is removed")
        # and with it all that expire in the same ten minutes
        store.ledger.drop_expired_uploads(time.time() + EXPIRE_TOGETHER_S)
        assert sent(http, 900).status_code == 201


def test_what_a_killed_gateway_left_is_removed_by_the_coordinator(
    change, store, objects, hints, monkeypatch
):
    # given a gateway in a process of its own, in the middle of an upload
    settings = change(upload_ttl_s=3600, gateway_port=0)
    port = free_port()
    gateway = subprocess.Popen(
        [RERANK, "gateway", "--port", str(port)],
        env=os.environ | settings.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(port), 60, "it listens")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(
                b"POST /v1/uploads?name=a.csv HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: 9000000\r\n\r\n" + b"x" * 3_000_000
            )
            wait_until(lambda: stored(settings), 20, "a draft is there")
            # when it is killed
            gateway.kill()
            gateway.wait(patient(10))
    finally:
        gateway.kill()
        gateway.wait(patient(10))
    monitor = Monitor(store, objects, hints, settings)
    # then the coordinator leaves it alone while its writer may live
    monitor.sweep()
    assert stored(settings)
    assert store.ledger.used("uploads") == 9_000_000
    # and removes it once it gave no sign of life for long, hours before it would expire
    ((name, record),) = store.client.hgetall(store.keys.stored("uploads")).items()
    size, until_ms = map(int, record.split())
    assert until_ms - store.now_ms() < patient(600_000)
    store.client.hset(store.keys.stored("uploads"), name, f"{size} {store.now_ms()}")
    monitor.sweep()
    assert stored(settings) == []
    assert not list((local_path(settings.storage_uri) / "uploads").iterdir())
    assert store.ledger.used("uploads") == 0


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def test_what_was_never_completed_in_s3_goes_when_its_writer_died_or_its_time_is_over(
    s3, change, store, hints
):
    # given uploads in parts: one whose writer died, one that expired and of which nobody knows, one
    # that is written now
    settings = change(storage="s3://pairs/work")
    objects = Objects(settings)
    dead, old, now = new_upload(1000)[0], new_upload(-1000)[0], new_upload(1000)[0]
    for upload_id in (dead, old, now):
        key = f"work/uploads/{upload_id}/upload.csv"
        begun = s3.create_multipart_upload(Bucket="pairs", Key=key)["UploadId"]
        s3.upload_part(Bucket="pairs", Key=key, UploadId=begun, PartNumber=1, Body=b"x")
    for upload_id, lease_ms in ((dead, 0), (now, 60_000)):
        store.ledger.reserve("uploads", upload_id, 5, lease_ms=lease_ms, bytes_max=0, begins=True)
    # when the coordinator sweeps
    Monitor(store, objects, hints, settings).sweep()
    # then only the last is left
    (left,) = s3.list_multipart_uploads(Bucket="pairs")["Uploads"]
    assert left["Key"] == f"work/uploads/{now}/upload.csv"
    assert store.ledger.used("uploads") == 5


def test_an_upload_that_froze_until_it_was_removed_is_not_told_as_kept(
    change, store, objects, hints, monkeypatch
):
    # given an upload whose gateway froze in the middle for longer than its lease
    settings = change()
    real = Reservation.keep_upload

    def late(room: Reservation, expires_s: int, size: int) -> None:
        store.client.hset(store.keys.stored("uploads"), room._id, "5 1")
        Monitor(store, objects, hints, settings).sweep()
        room._renewed_s -= 10_000
        real(room, expires_s, size)

    monkeypatch.setattr(Reservation, "keep_upload", late)
    with running_gateway(settings) as http:
        answer = sent(http, 1000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert stored(settings) == []


def test_a_job_beyond_the_quota_of_jobs_is_refused_over_http_too(change, store, fleet):
    fleet.beat(worker_row())
    line = json.dumps({"query": "q", "documents": ["a"] * 100}).encode() + b"\n"
    with running_gateway(change(jobs_bytes_max=len(line) + 10)) as http:
        uri = http.post("/v1/uploads?name=a.jsonl", content=line).json()["uri"]
        assert http.post("/v1/jobs", json={"input": uri}).status_code == 201
        answer = http.post("/v1/jobs", json={"input": uri})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (507, "storage_full")
    assert "jobs keep" in error["message"]
    assert "RERANK_JOBS_BYTES_MAX" in error["hint"]
    assert len(store.jobs.unfinished()) == 1
    assert store.ledger.used("jobs") == len(line)


# ---- the disk -----------------------------------------------------------------------------------


def test_the_last_bytes_of_the_disk_are_not_taken(change, store):
    free = disk.free_bytes(local_path(change().storage_uri))
    with running_gateway(change(free_bytes_min=free + (1 << 30))) as http:
        answer = sent(http, 1000)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (507, "storage_full")
        assert "the disk of the storage has" in error["message"]
        assert "RERANK_FREE_BYTES_MIN" in error["hint"]
    assert store.ledger.used("uploads") == 0
    # a job is refused likewise
    with pytest.raises(StorageFull, match="the disk of the storage has"):
        Reservation(store, change(free_bytes_min=free * 2), "jobs", "j", 0).begin()


def test_an_upload_that_fills_the_disk_is_stopped_before(change, monkeypatch, store):
    # given a disk on which others write meanwhile
    settings = change(free_bytes_min=1000)
    free = iter([5000, 5000, 900])
    monkeypatch.setattr(quotas, "free_in_storage", lambda _: next(free, 900))
    monkeypatch.setattr(quotas, "STEP_BYTES", 100_000)
    with running_gateway(settings) as http:
        answer = sent(http, 5_000_000, announced=False)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    assert stored(settings) == []
    assert store.ledger.used("uploads") == 0


def test_a_full_disk_is_told_by_the_same_code(change, monkeypatch):
    # given a disk of 1 MiB
    with (
        small_disk() as folder,
        running_gateway(change(storage=str(folder / "storage"), free_bytes_min=0)) as http,
    ):
        answer = sent(http, 3_000_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
        assert "its disk is full" in answer.json()["error"]["message"]
        # when there is room again, it works
        assert sent(http, 500_000).status_code == 201
