"""The faults do what their names say: one that breaks nothing would show nothing."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import redis

from rerankfleet.chaos.driver import steady_client
from rerankfleet.chaos.faults import Fault, redis_faults
from rerankfleet.chaos.s3_proxy import FailingProxy, Failure
from rerankfleet.chaos.storages import storage
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.queue import Hints, broker_keys, model_queue
from rerankfleet.shared.settings import Settings
from tests.support.wait import patient

MODEL = "pocket-text"
JOB = "0123456789ab"


@pytest.fixture
def faults(settings: Settings) -> dict[str, Fault]:
    return {fault.name: fault for fault in redis_faults(steady_client(settings), settings, MODEL)}


@pytest.fixture
def hinted(settings: Settings, real_hints: Hints, client: redis.Redis) -> str:
    """The list of the broker in which five hints wait."""
    for start in range(5):
        real_hints.shard(MODEL, Priority.normal, JOB, f"{start}-{start + 1}")
    (name,) = broker_keys(settings, [model_queue(MODEL, Priority.normal)])
    return name


def waiting(client: redis.Redis, name: str) -> list[str]:
    return [json.loads(message)["headers"]["id"] for message in client.lrange(name, 0, -1)]


def test_hints_are_deleted_doubled_and_reordered(
    faults: dict[str, Fault], hinted: str, client: redis.Redis
) -> None:
    before = waiting(client, hinted)
    assert len(before) == 5
    list(faults["hints reordered"].begin(Random(1)))
    reordered = waiting(client, hinted)
    assert sorted(reordered) == sorted(before)
    assert reordered != before
    list(faults["hints doubled"].begin(Random(1)))
    assert sorted(set(waiting(client, hinted))) == sorted(before)
    assert len(waiting(client, hinted)) in (10, 15)
    list(faults["hints deleted"].begin(Random(1)))
    assert waiting(client, hinted) == []


def test_connections_are_closed(faults: dict[str, Fault], redis_server: str) -> None:
    # given a connection that is not made anew
    with redis.Redis.from_url(redis_server, retry=None, single_connection_client=True) as other:
        number = other.client_id()
        # when all are closed, which takes some draws of the share
        for seed in range(10):
            list(faults["connections closed"].begin(Random(seed)))
        # then it is gone
        assert number not in {int(c["id"]) for c in steady(redis_server).client_list()}


def steady(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def test_a_full_server_takes_nothing_until_it_is_mended(
    faults: dict[str, Fault], client: redis.Redis
) -> None:
    course = faults["server full"].begin(Random(0))
    assert next(course) > 0
    with pytest.raises(redis.OutOfMemoryError):
        client.set("key", "value")
    next(course, None)
    client.set("key", "value", px=1)


def test_a_folder_is_taken_away_and_comes_back(tmp_path: Path) -> None:
    with storage("folder", tmp_path, 0) as files:
        (tmp_path / "storage" / "part").write_text("a part")
        (fault,) = files.faults.values()
        course = fault(Random(0))
        assert next(course) > 0
        with pytest.raises(NotADirectoryError):
            (tmp_path / "storage" / "part").read_text()
        assert next(course, None) is None
        assert files.left() == ["part"]


def test_a_storage_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder, disk, s3"), storage("tape", tmp_path, 0):
        pass


def test_an_s3_fails_as_it_is_told(tmp_path: Path, s3_server: str) -> None:
    # given a proxy before an S3
    host, port = s3_server.removeprefix("http://").split(":")
    proxy = FailingProxy(host, int(port), seed=0)
    url = f"{proxy.endpoint}/moto-api/"

    def status() -> int:
        try:
            with urlopen(url, timeout=patient(20)) as answer:
                return len(answer.read()) and int(answer.status)
        except HTTPError as error:
            return error.code

    try:
        whole = status()
        assert whole == 200
        # when it is told to fail all requests, then it does, each in its way
        for failure in (Failure.INTERNAL_ERROR, Failure.SLOW_DOWN, Failure.EXPIRED_TOKEN):
            with proxy.failing(failure, share=1.0):
                assert status() == int(failure.value.split()[0])
        for failure in (Failure.CLOSED, Failure.LOST_REPLY, Failure.TRUNCATED):
            with proxy.failing(failure, share=1.0), pytest.raises(Exception, match=r"."):
                status()
        # and afterwards it passes everything on again
        assert status() == 200
    finally:
        proxy.close()
