"""A cluster of its own on this machine, as real processes: server, coordinators, workers, gateway.

The processes are those that users run. Only most workers are forks of one that has loaded torch
already (`nursery.py`). Whatever ends is started again at once, as a supervisor would.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from rerankfleet.chaos.storages import Storage, environment
from rerankfleet.producer.client import Client
from rerankfleet.producer.embedded import embedded_server
from rerankfleet.producer.ports import free_port
from rerankfleet.shared.errors import DeadlineExceeded
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import Settings, read_environment

MARK = "CHAOS_RUN"
"""The environment variable by which the processes of a run are found."""
PORTS = range(20_000, 30_000)
"""Of the server: ports that the system gives nobody else while it is down."""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Forks of a process that computed with several threads would wait for those that they lack."""
START_S = 180.0
STOP_S = 40.0
LOOK_S = 0.5
"""How often the processes are looked at."""
YOUNG_S = 20.0
"""A process may end by itself while it starts: for example, when Redis does not answer."""

#: What takes minutes in production takes seconds here.
QUICK: Mapping[str, object] = {
    "lease_s": 3.0,
    "heartbeat_s": 0.5,
    "tick_s": 0.5,
    "hint_grace_s": 1.0,
    "drain_s": 8.0,
    "shard_seconds": 0.2,
    "shard_pairs_max": 48,
    "batch_tokens": 2048,
    "threads": 1,
    "interactive_deadline_s": 20.0,
    "parts_ttl_s": 5.0,
}


class Cluster:
    """The running processes, by their role, and how they are hit."""

    def __init__(self, settings: Settings, members: Mapping[str, Child], gateway: str) -> None:
        self.settings = settings
        self.gateway = gateway
        """The address of its gateway."""
        self.client = Client(settings)
        self.ended_by_themselves: list[str] = []
        """Processes that ended and had not been told to."""
        self._members = dict(members)
        self._held: set[str] = set()
        self._told: set[int] = set()
        self._known: dict[int, tuple[str, float]] = {}
        self._looked_s = 0.0

    def processes(self, role: str) -> list[psutil.Process]:
        """The living processes of a role: worker, launcher, coordinator (what supervises),
        coordinator child (what feeds and what monitors), gateway, server."""
        found = [p for name, p in self._living() if name == role]
        return sorted(found, key=lambda process: process.pid)

    def end(self, process: psutil.Process, number: int = signal.SIGKILL) -> None:
        """End a process: its children then end as well."""
        with suppress(psutil.NoSuchProcess):
            if process.pid not in self._nursery_pids():
                self._told |= {child.pid for child in process.children(recursive=True)}
            self._told.add(process.pid)
            process.send_signal(number)

    @contextmanager
    def frozen(self, process: psutil.Process) -> Iterator[None]:
        """Freeze a process during the block."""
        with suppress(psutil.NoSuchProcess):
            process.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def server_down(self) -> Iterator[None]:
        """Kill the server, and start it from its append-only file after the block."""
        server = self._members["server"]
        assert server.process is not None
        self._held.add("server")
        server.process.kill()
        server.process.wait()
        try:
            yield
        finally:
            server.start()
            self._held.discard("server")

    def upkeep(self) -> None:
        """Start what has ended. By the thread that started the cluster: Linux ends a child when
        the thread ends that started it."""
        for name, child in self._members.items():
            if name not in self._held and child.process and child.process.poll() is not None:
                child.start()
        if time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            self._look()

    def _look(self) -> None:
        """Notice which processes ended, and whether anybody had told them to."""
        living = {process.pid: name for name, process in self._living()}
        now = time.monotonic()
        for pid, (name, since_s) in list(self._known.items()):
            if pid not in living:
                del self._known[pid]
                if pid not in self._told and now - since_s > YOUNG_S and name != "server":
                    self.ended_by_themselves.append(f"{name} {pid} after {now - since_s:.0f} s")
        for pid, name in living.items():
            self._known.setdefault(pid, (name, now))

    def _living(self) -> Iterator[tuple[str, psutil.Process]]:
        for name, child in self._members.items():
            role = name.partition("-")[0]
            with suppress(psutil.NoSuchProcess):
                if child.process is None or child.process.poll() is not None:
                    continue
                process = psutil.Process(child.process.pid)
                yield role, process
                of_child = "worker" if role in ("nursery", "launcher") else f"{role} child"
                for one in process.children():
                    if one.status() != psutil.STATUS_ZOMBIE:
                        yield of_child, one

    def _nursery_pids(self) -> set[int]:
        nursery = self._members["nursery"].process
        return {nursery.pid} if nursery else set()


@contextmanager
def cluster(
    folder: Path, storage: Storage, *, run: str, model: str, workers: int, **settings: object
) -> Iterator[Cluster]:
    """Run a cluster in a folder during the block; `run` marks its processes. `workers` of them are
    forks, one more belongs to a `rerank worker`."""
    with ExitStack() as stack:
        stack.enter_context(environment(**{MARK: run, **ONE_THREAD}))
        data = folder / "redis"
        data.mkdir()
        url, server = stack.enter_context(embedded_server(data, PORTS[os.getpid() % len(PORTS)]))
        port = free_port()
        own = read_environment(
            **{
                **QUICK,
                "redis_url": url,
                "storage": storage.uri,
                "state_dir": folder,
                "key_prefix": run,
                "gateway_port": port,
                **_allowed(storage),
                **settings,
            }
        )
        members = {"server": server, **_members(own, model, workers)}
        for name, child in members.items():
            child.log_file = str(folder / f"{name}.log")
        stack.callback(Supervisor([c for n, c in members.items() if n != "server"]).stop, STOP_S)
        for child in members.values():
            if child.process is None:
                child.start()
        made = Cluster(own, members, f"http://127.0.0.1:{port}")
        _wait_ready(made, workers + 1)
        yield made


def _allowed(storage: Storage) -> dict[str, tuple[str, ...]]:
    if storage.output.startswith("file://"):
        return {"allowed_roots": (storage.output.removeprefix("file://"),)}
    return {"allowed_buckets": (storage.output.split("/")[2],)}


def _members(settings: Settings, model: str, workers: int) -> dict[str, Child]:
    env = settings.environment()

    def rerank(name: str, *arguments: str) -> Child:
        command = [sys.executable, "-P", "-m", "rerankfleet.shared.cli", *arguments]
        return Child(name, command, env)

    nursery = [sys.executable, "-P", "-m", "rerankfleet.chaos.nursery"]
    nursery += ["--model", model, "--workers", str(workers)]
    return {
        "nursery": Child("nursery", nursery, env),
        "launcher": rerank("launcher", "worker", "--model", model),
        "coordinator-1": rerank("coordinator-1", "coordinator"),
        "coordinator-2": rerank("coordinator-2", "coordinator"),
        "gateway": rerank("gateway", "gateway"),
    }


def _wait_ready(made: Cluster, workers: int) -> None:
    def ready() -> bool:
        states = [worker.state for worker in made.client.workers()]
        return states.count("ready") >= workers

    wait_for(ready, START_S, "the workers are ready", made.upkeep)


def wait_for(
    happened: Callable[[], bool], timeout_s: float, what: str, meanwhile: Callable[[], None]
) -> None:
    """Wait until something happened. Raises DeadlineExceeded saying what did not."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"not within {timeout_s:g} s: {what}")
        meanwhile()
        time.sleep(0.1)


def left_processes(run: str) -> list[str]:
    """The processes of a run that still exist."""
    left = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == run:
                left.append(f"{process.pid} {' '.join(process.cmdline())}")
    return left
