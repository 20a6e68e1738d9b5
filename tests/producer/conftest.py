"""A client of a fleet without processes, and the command against a whole stack."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.fleet import Fleet
from tests.support.fleet import Worker, worker_row
from tests.support.jobs import LINES
from tests.support.stack import RERANK, Stack
from tests.support.wait import patient

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(vl_stack: Stack) -> Command:
    """`command("query", "red", columns=80)`: the real command in a process of its own."""

    def run(
        *arguments: object, columns: int = 100, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RERANK, *map(str, arguments)],
            env=os.environ | vl_stack.settings.environment() | {"COLUMNS": str(columns)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patient(120),
        )

    return run


@pytest.fixture
def api(settings: Settings, fleet: Fleet) -> Client:
    """A client of a fleet that serves one model."""
    fleet.beat(worker_row())
    return Client(settings)


@pytest.fixture
def source(jsonl: Callable[..., Path]) -> Path:
    """An input of a few lines."""
    return jsonl(*LINES)


@pytest.fixture
def served(control: Control) -> Iterator[None]:
    """A worker scores whatever waits while the test runs."""
    stop = threading.Event()

    def work() -> None:
        worker = Worker(control)
        while not stop.wait(0.01):
            worker.work()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(patient(5))
