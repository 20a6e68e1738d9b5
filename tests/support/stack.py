"""A complete `rerank up` as users run it, and its processes, which tests kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil

from rerankfleet.producer.client import Client
from rerankfleet.shared.settings import Settings, load_settings, read_address
from rerankfleet.shared.state.fleet import WorkerRow
from tests.support.wait import patient, wait_until

RERANK = str(Path(sys.executable).with_name("rerank"))
START_S = 90.0
START_STACK = "start_stack"
"""The fixture through which other fixtures run a stack; it identifies tests that need one."""

#: Short times, so that what takes minutes in production takes seconds in tests.
QUICK = {
    "RERANK_LEASE_S": str(patient(3)),
    "RERANK_HEARTBEAT_S": "0.5",
    "RERANK_TICK_S": "0.5",
    "RERANK_HINT_GRACE_S": "2",
    "RERANK_SHARD_SECONDS": "0.2",
    "RERANK_BATCH_TOKENS": "2048",
    "RERANK_THREADS": "1",
    "RERANK_GATEWAY_PORT": "0",
}


class Stack:
    """A running stack and a client of it."""

    def __init__(self, process: subprocess.Popen[bytes], settings: Settings) -> None:
        self._process = process
        self.settings = settings
        self.client = Client(settings)

    @property
    def gateway(self) -> str:
        """The address of its gateway."""
        return str(read_address(self.settings.state_dir)["gateway"])

    def processes(self, words: str) -> list[psutil.Process]:
        """The running processes of this stack whose command line holds `words`."""
        children = psutil.Process(self._process.pid).children(recursive=True)
        return [p for p in children if p.is_running() and words in " ".join(_command(p))]

    def kill(self, words: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process of this stack."""
        os.kill(self.processes(words)[0].pid, number)

    def ready_workers(self) -> list[WorkerRow]:
        """The workers that are ready."""
        return [w for w in self.client.workers() if w.state == "ready"]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def running_stack(
    folder: Path, env: Mapping[str, str], model: str = "pocket-text", cwd: Path | None = None
) -> Iterator[Stack]:
    """Run `rerank up` with a model on a fresh state folder; its log is `up.log`. Ctrl-C ends it."""
    state = folder / "state"
    with (folder / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [RERANK, "up", "--model", model],
            cwd=cwd,
            env={**os.environ, **QUICK, "RERANK_STATE_DIR": str(state), **env},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until((state / "address.json").exists, START_S, "the address is recorded")
        stack = Stack(process, load_settings(state_dir=state))
        wait_until(stack.ready_workers, START_S, "a worker is ready")
        yield stack
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(patient(40))


StartStack = Callable[..., AbstractContextManager[Stack]]
"""`start_stack(model, env, folder)` is `running_stack` in a new folder unless one is given."""


@contextmanager
def running_module(
    stack: Stack, folder: Path, *command: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one more, unsupervised process beside the stack: `python -m MODULE ...` or a script."""
    first = ["-P", "-m"] if not command[0].endswith(".py") else []
    with (folder / "process.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *first, *command],
            env={**os.environ, **stack.settings.environment(), **QUICK, **(env or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            children = psutil.Process(process.pid).children(recursive=True)
            for one in (process, *children):
                one.kill()
        process.wait()


@contextmanager
def another_worker(stack: Stack, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One more worker, once it is ready (or dead)."""
    with running_module(stack, folder, "rerankfleet.workers", "--model", "pocket-text") as process:
        wait_until(
            lambda: (
                process.poll() is not None
                or process.pid in {worker.pid for worker in stack.ready_workers()}
            ),
            START_S,
            "the other worker is ready",
        )
        yield process
