"""A real Redis-compatible server, a storage folder, a local S3, and fakes at the seams."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TextIO, cast

import pytest
import redis
import structlog
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.fleet import Fleet
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects
from tests.support import schedule
from tests.support.fleet import Worker
from tests.support.hints import RecordedHints
from tests.support.leaks import leaked_keys
from tests.support.server import valkey
from tests.support.stack import Stack, StartStack, running_stack
from tests.support.wait import patient

hypothesis_settings.register_profile(
    "rerankfleet",
    max_examples=60,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
hypothesis_settings.register_profile(
    "fast", hypothesis_settings.get_profile("rerankfleet"), max_examples=15
)
hypothesis_settings.register_profile(
    "long", hypothesis_settings.get_profile("rerankfleet"), max_examples=6000, derandomize=False
)
hypothesis_settings.load_profile("rerankfleet")

# A shell that runs the tests in the background has them ignore Ctrl-C, and so would their children
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a whole stack; in one of several processes, begin with what takes long."""
    for item in filter(schedule.needs_stack, items):
        item.add_marker("whole_stack")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not schedule.is_long(item))


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long bytes by their length: those that gzip wrote hold the time, and so differ from process
    to process, in which tests must have the same names."""
    return f"{len(val)}_bytes" if isinstance(val, bytes) and len(val) > 12 else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> schedule.Scheduling:
    """Keep tests together that share a stack."""
    return schedule.Scheduling(config, log)


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No RERANK_ or AWS_ variable of the developer reaches a test, nor their state folder."""
    for name in list(os.environ):
        if name.startswith(("RERANK_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


class _Stderr:
    """Whatever stands for stderr now: a test may have replaced it, and be over."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


@pytest.fixture(autouse=True)
def _logs() -> None:
    """A test that runs the command in this process may have configured them otherwise."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())))


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine does not fail during a test: nothing need reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ---- Redis --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that lives as long as the tests."""
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def settings(redis_server: str, tmp_path: Path) -> Iterator[Settings]:
    """An empty Redis, a key prefix and a storage folder of one's own. Nothing may leak."""
    with redis.Redis.from_url(redis_server, decode_responses=True) as client:
        client.flushall()
        own = Settings(
            redis_url=redis_server,
            storage=str(tmp_path / "storage"),
            state_dir=tmp_path / "state",
            key_prefix=f"t{uuid.uuid4().hex[:8]}",
            allowed_roots=(tmp_path / "allowed",),
            output_roots=(tmp_path / "outputs",),
            lease_s=patient(5),
            heartbeat_s=patient(20),
            hint_grace_s=0,
        )
        yield own
        assert leaked_keys(client, own.key_prefix) == []


@pytest.fixture
def change(settings: Settings) -> Callable[..., Settings]:
    """`change(lease_s=0.1)`: the settings with other values, unchecked."""
    return lambda **values: settings.model_copy(update=values)


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    with connect(settings) as connection:
        yield connection


@pytest.fixture
def store(client: redis.Redis, settings: Settings) -> Store:
    return Store(client, settings)


@pytest.fixture
def fleet(store: Store) -> Fleet:
    return store.fleet


@pytest.fixture
def objects(settings: Settings, store: Store) -> Objects:
    return Objects(settings, inline=store.inline.get)


@pytest.fixture
def hints() -> RecordedHints:
    """Hints that are written down."""
    return RecordedHints()


@pytest.fixture
def real_hints(settings: Settings) -> Hints:
    """Hints that go to the broker."""
    return Hints(make_app(settings))


@pytest.fixture
def control(store: Store, objects: Objects, hints: RecordedHints, settings: Settings) -> Control:
    """What the coordinator's steps work with; its hints are written down."""
    return Control(store, objects, hints, settings)


@pytest.fixture
def worker(control: Control) -> Worker:
    """A worker without a model."""
    return Worker(control)


# ---- whole stacks -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def start_stack(tmp_path_factory: pytest.TempPathFactory) -> StartStack:
    """Runs a stack: every fixture of a stack needs this one."""

    def start(
        model: str, env: Mapping[str, str] | None = None, folder: Path | None = None
    ) -> AbstractContextManager[Stack]:
        return running_stack(folder or tmp_path_factory.mktemp("stack"), env or {}, model)

    return start


@pytest.fixture(scope="session")
def vl_stack(start_stack: StartStack) -> Iterator[Stack]:
    """A running `rerank up` that serves `pocket-vl`: one for all tests that need images."""
    with start_stack("pocket-vl", {"RERANK_DECODE_PROCESSES": "1"}) as stack:
        yield stack


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    """`jsonl(line, ...)` writes an input; a line is a dict, text or bytes."""

    def write(*lines: Any, name: str = "input.jsonl") -> Path:
        path = tmp_path / name
        path.write_bytes(b"".join(_line(line) for line in lines))
        return path

    return write


def _line(line: Any) -> bytes:
    if isinstance(line, bytes):
        return line + b"\n"
    return (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"


# ---- S3 -----------------------------------------------------------------------------------------

BUCKET = "pairs"


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a local S3 that lives as long as the tests."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 with one empty bucket, `pairs`; boto3 everywhere finds the same."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL_S3": s3_server,
        "AWS_ACCESS_KEY_ID": "key-id",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it remembers credentials
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    request = urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")
    with urllib.request.urlopen(request, timeout=patient(10)):
        pass
