"""Does a worker keep memory, threads or files of the faults that it meets?

    python benchmarks/faults.py                    20 minutes of faults
    python benchmarks/faults.py --quick            half a minute: a smoke test

A real server, a coordinator and two workers of `pocket-text`, the second one with two arenas of
glibc's malloc instead of eight per core. Meanwhile jobs are made and most of them cancelled, twice
a second a connection to Redis is closed by the server, and the folder of the storage is away for a
moment every few seconds. Sampled are the resident memory, threads and open files of both workers.

Prints a line per tenth of the run, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import redis
from common import passages, surroundings

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator import process as coordinator
from rerankfleet.producer.embedded import embedded_server
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import Settings

MODEL = "pocket-text"
MINUTES = 20.0
SAMPLE_S = 2.0
KILL_S, AWAY_EVERY_S, AWAY_S, JOB_S = 0.5, 7.0, 0.3, 2.0
PAIRS = 600
DOCUMENTS = 20
KEPT = 0.2
"""The share of jobs that are not cancelled."""
VARIANTS = {"default": {}, "two arenas": {"MALLOC_ARENA_MAX": "2"}}


@contextmanager
def fleet(folder: Path) -> Iterator[tuple[Client, dict[str, Child]]]:
    """A server, a coordinator and the workers, by the name of their variant."""
    (folder / "server").mkdir()
    with embedded_server(folder / "server") as (url, server):
        settings = Settings(
            redis_url=url,
            state_dir=folder,
            storage=str(folder / "storage"),
            threads=1,
            shard_seconds=0.5,
        )
        command = [sys.executable, "-P", "-m", "rerankfleet.workers", "--model", MODEL]
        workers = {
            name: Child(name, [*command, "--device-name", name.split()[0]], more)
            for name, more in VARIANTS.items()
        }
        for child in workers.values():
            child.env = settings.environment() | dict(child.env)
        children = [server, *coordinator.children(settings), *workers.values()]
        for child in children:
            child.log_file = str(folder / f"{child.name}.log")
        supervisor = Supervisor(children)
        supervisor.start()
        try:
            client = Client(settings)
            while sum(w.state == "ready" for w in client.workers()) < len(workers):
                time.sleep(0.5)
            yield client, workers
        finally:
            supervisor.stop()


class Faults:
    """What goes wrong, each in a thread of its own until `stop` is set."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.counts = {"connections closed": 0, "storage away": 0, "jobs": 0, "cancelled": 0}
        self.stop = threading.Event()
        self._client, self._folder = client, folder
        self._draw = random.Random(5)
        for act, every_s in (
            (self._close_connection, KILL_S),
            (self._move_storage, AWAY_EVERY_S),
            (self._submit, JOB_S),
        ):
            threading.Thread(target=self._repeat, args=(act, every_s), daemon=True).start()

    def _repeat(self, act: Any, every_s: float) -> None:
        while not self.stop.wait(every_s):
            with suppress(RerankError, redis.RedisError, OSError):
                act()

    def _close_connection(self) -> None:
        server = self._client.store.client
        others = [one["id"] for one in server.client_list() if one["cmd"] != "client|list"]
        if others:
            server.client_kill_filter(_id=self._draw.choice(others))
            self.counts["connections closed"] += 1

    def _move_storage(self) -> None:
        storage, away = self._folder / "storage", self._folder / "away"
        storage.rename(away)
        time.sleep(AWAY_S)
        away.rename(storage)
        self.counts["storage away"] += 1

    def _submit(self) -> None:
        source = self._folder / f"{self.counts['jobs']}.jsonl"
        prose = passages()
        with source.open("w") as out:
            for number in range(PAIRS // DOCUMENTS):
                documents = self._draw.sample(prose, DOCUMENTS)
                out.write(json.dumps({"query": f"query {number}", "documents": documents}) + "\n")
        job_id = self._client.submit(source, model=MODEL)
        source.unlink()
        self.counts["jobs"] += 1
        if self._draw.random() > KEPT:
            time.sleep(self._draw.random() * JOB_S)
            self._client.cancel(job_id)
            self.counts["cancelled"] += 1


def sample(pid: int) -> dict[str, int]:
    """What a process holds now."""
    process = psutil.Process(pid)
    return {
        "rss": process.memory_info().rss,
        "threads": process.num_threads(),
        "files": process.num_fds(),
    }


def tenths(samples: Sequence[dict[str, int]], name: str) -> list[int]:
    """The most of something in each tenth of a run."""
    edges = [len(samples) * tenth // 10 for tenth in range(11)]
    parts = (samples[a:b] for a, b in pairwise(edges))
    return [max((one[name] for one in part), default=0) for part in parts]


def measure(folder: Path, minutes: float) -> dict[str, Any]:
    """Disturb a fleet for this long."""
    samples: dict[str, list[dict[str, int]]] = {name: [] for name in VARIANTS}
    with fleet(folder) as (client, workers):
        pids = {n: child.process.pid for n, child in workers.items() if child.process}
        faults = Faults(client, folder)
        until = time.monotonic() + minutes * 60
        while time.monotonic() < until:
            for name, pid in pids.items():
                samples[name].append(sample(pid))
            time.sleep(SAMPLE_S)
        faults.stop.set()
        scored = {worker.device: worker.pairs for worker in client.workers()}
    return {
        "minutes": minutes,
        "faults": faults.counts,
        "scored": scored,
        "workers": {
            name: {
                "rss_mib_by_tenth": [size >> 20 for size in tenths(taken, "rss")],
                "threads_by_tenth": tenths(taken, "threads"),
                "files_by_tenth": tenths(taken, "files"),
            }
            for name, taken in samples.items()
        },
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    before = surroundings()
    os.nice(5)
    with tempfile.TemporaryDirectory(prefix="rerank-bench-", ignore_cleanup_errors=True) as folder:
        results = measure(Path(folder), 0.5 if options.quick else options.minutes)
    for name, worker in results["workers"].items():
        for what, values in worker.items():
            print(f"{name:10} {what:18} {values}")
    print(json.dumps({"benchmark": "faults", **before, **results}))


if __name__ == "__main__":
    main()
