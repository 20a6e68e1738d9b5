"""The command in this process, over the test's server; a fleet without a model, an input."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from rerankfleet.shared import cli
from tests.support.fleet import Worker, run, worker_row

LINES = [{"id": f"r{n}", "query": f"q{n}", "documents": ["a", "b"]} for n in range(3)]
OK, FAILURE, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def rerank(settings, monkeypatch, capsys):
    """`rerank("submit", path)`: the command in this process, over the test's server."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "configure_logs", lambda: None)  # it is for a whole process

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["rerank", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        return Ran(int(code), done.out, done.err)

    return command


@pytest.fixture
def served(fleet):
    fleet.beat(worker_row())


@pytest.fixture
def source(jsonl) -> Path:
    return jsonl(*LINES)


@pytest.fixture
def finish_jobs(control, store):
    """Carries every unfinished job to its end while the test runs."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(0.01):
            for job_id in store.jobs.unfinished():
                control.hints.feed(job_id)
                run(control, Worker(control, fails="bad"))

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(5)


def one_sentence(ran: Ran, *says: str) -> None:
    assert ran.out == ""
    assert ran.err.startswith("rerank: ")
    assert ran.err.count("\n") == 1
    for words in says:
        assert words in ran.err
