"""How long after a worker's death its shards are committed by the others.

    python benchmarks/recovery.py                  20 deaths of a process, whose launcher lives
    python benchmarks/recovery.py --host           its launcher dies as well: nobody tells
    python benchmarks/recovery.py --quick          one death, short shards: a smoke test

A real server, a coordinator and three workers with the default settings: leases of 15 s, shards of
5 s, three in hand. The workers are real too, except that the device sleeps for as long as a pack
would take, so that the figures are those of the protocol, not of a busy CPU; a worker that died is
replaced after the time that loading takes. While a long job runs one worker after the other is
killed, and it is measured when each shard that it held, and anything at all, is committed.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from common import passages, surroundings

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator import process as coordinator
from rerankfleet.producer.embedded import embedded_server
from rerankfleet.shared.processes import Child, Supervisor, die_with_parent
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.state.connection import connect
from rerankfleet.shared.state.store import Store

MODEL = "pocket-text"
WORKERS = 3
TOKENS_PER_S = 2000.0
LOAD_S = 10.0
START_S = 2.0
DOCUMENTS = 20
POLL_S = 0.05
TIMEOUT_S = 300.0
SETTLE_S = 10.0


# ---- a worker whose device sleeps ---------------------------------------------------------------


def be_a_launcher(name: str, load_s: float) -> int:
    """Run one worker after the other; forked, so that what takes long to import is imported once.
    A new one tells the fleet that the former is gone, as a real one does before it loads."""
    from rerankfleet.workers import engine, runtime

    loaded = engine.load_engine(MODEL, threads=1)
    tested = replace(loaded.self_test(), tokens_per_s=TOKENS_PER_S)

    def score(pack: Any) -> list[float]:
        time.sleep(sum(map(len, pack.documents())) / TOKENS_PER_S)
        return [0.0] * pack.pairs

    loaded.score = score  # type: ignore[method-assign]
    loaded.self_test = lambda: tested  # type: ignore[method-assign]
    runtime.load_engine = lambda *_, **__: loaded  # type: ignore[assignment]
    while True:
        worker = os.fork()
        if not worker:
            die_with_parent()
            from rerankfleet.workers.__main__ import work

            sys.exit(work(load_settings(), MODEL, name))
        _, status = os.waitpid(worker, 0)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return 0
        _tell(name, worker)
        time.sleep(load_s)


def _tell(name: str, pid: int) -> None:
    try:
        from rerankfleet.shared.state.fleet import worker_id
        from rerankfleet.workers.leases import end_leases
    except ImportError:  # a version in which leases only run out
        return
    if os.environ.get("BENCHMARK_HOST_DIES") != "1":
        settings = load_settings()
        time.sleep(START_S)
        with connect(settings) as redis:
            end_leases(Store(redis, settings), MODEL, worker_id(name, pid))


# ---- the fleet ----------------------------------------------------------------------------------


@contextmanager
def fleet(folder: Path, load_s: float, *, host: bool, **options: Any) -> Iterator[Client]:
    """A server, a coordinator and the workers."""
    (folder / "server").mkdir()
    with embedded_server(folder / "server") as (url, server):
        settings = Settings(
            redis_url=url, state_dir=folder, storage=str(folder / "storage"), threads=1, **options
        )
        env = settings.environment() | {"BENCHMARK_HOST_DIES": str(int(host))}
        command = [sys.executable, __file__, "--load-s", str(load_s), "--launcher"]
        workers = [Child(f"w{n}", [*command, f"w{n}"], env) for n in range(WORKERS)]
        children = [server, *coordinator.children(settings), *workers]
        for child in children:
            child.log_file = str(folder / f"{child.name}.log")
        supervisor = Supervisor(children)
        supervisor.start()
        stop = threading.Event()
        threading.Thread(target=_watch, args=(supervisor, stop), daemon=True).start()
        try:
            yield Client(settings)
        finally:
            stop.set()
            supervisor.stop()


def _watch(supervisor: Supervisor, stop: threading.Event) -> None:
    while not stop.wait(0.2):
        supervisor.watch()


def ready(client: Client) -> list[Any]:
    """The workers that are ready."""
    return [worker for worker in client.workers() if worker.state == "ready"]


def wait_for_workers(client: Client) -> None:
    """Until all are ready."""
    deadline = time.monotonic() + TIMEOUT_S
    while len(ready(client)) < WORKERS:
        if time.monotonic() > deadline:
            raise SystemExit("the workers did not become ready")
        time.sleep(0.5)


def write_requests(path: Path, pairs: int) -> None:
    """A file of this many pairs."""
    rng, prose = random.Random(3), passages()
    with path.open("w") as out:
        for number in range(pairs // DOCUMENTS):
            documents = rng.sample(prose, DOCUMENTS)
            out.write(json.dumps({"query": f"question {number}", "documents": documents}) + "\n")


# ---- what is measured ---------------------------------------------------------------------------


def held(client: Client, job_id: str) -> dict[str, list[str]]:
    """The shards that each worker holds."""
    store = client.store
    records = store.client.hgetall(store.keys.job_open(job_id))
    by_worker: dict[str, list[str]] = {}
    for shard, text in records.items():
        if worker := json.loads(text).get("worker"):
            by_worker.setdefault(worker, []).append(shard)
    return by_worker


def recover(client: Client, job_id: str) -> tuple[list[float], float]:
    """Kill the worker that holds most. Returns the seconds until each of its shards is committed,
    and until anything is."""
    shards: list[str] = []
    while len(shards) < 2:
        time.sleep(POLL_S)
        of_worker = held(client, job_id)
        rows = {row.id: row.pid for row in ready(client)}
        name = max((w for w in of_worker if w in rows), key=lambda w: len(of_worker[w]), default="")
        shards = of_worker.get(name, [])
    before = client.store.jobs.get(job_id).progress.done
    os.kill(rows[name], signal.SIGKILL)
    killed = time.monotonic()
    left, took, first = set(shards), [], 0.0
    while left:
        time.sleep(POLL_S)
        now = time.monotonic() - killed
        if now > TIMEOUT_S:
            took += [TIMEOUT_S] * len(left)
            break
        if not first and client.store.jobs.get(job_id).progress.done > before:
            first = now
        waiting = client.store.client.hkeys(client.store.keys.job_open(job_id))
        gone = left - set(waiting)
        took += [now] * len(gone)
        left -= gone
    return took, first


def measure(folder: Path, *, deaths: int, host: bool, quick: bool) -> dict[str, Any]:
    """Kill workers while a job runs."""
    options: dict[str, Any] = {"shard_seconds": 0.5, "lease_s": 2} if quick else {}
    with fleet(folder, 1.0 if quick else LOAD_S, host=host, **options) as client:
        wait_for_workers(client)
        source = folder / "in.jsonl"
        write_requests(source, 200_000 if not quick else 20_000)
        job_id = client.submit(source, model=MODEL)
        took: list[float] = []
        firsts: list[float] = []
        for number in range(1, deaths + 1):
            wait_for_workers(client)
            time.sleep(0 if quick else SETTLE_S)
            shards, first = recover(client, job_id)
            took += shards
            firsts.append(first)
            each = ", ".join(f"{s:.1f}" for s in sorted(shards))
            print(f"death {number:2}: its shards after {each} s, the next commit {first:.1f} s")
        job = client.store.jobs.get(job_id)
        client.cancel(job_id)
    return {
        "deaths": deaths,
        "shards": len(took),
        "median_s": round(median(took), 1),
        "p95_s": round(quantiles(took, n=20)[-1], 1) if len(took) > 1 else round(took[0], 1),
        "longest_s": round(max(took), 1),
        "next_commit_median_s": round(median(firsts), 1),
        "next_commit_longest_s": round(max(firsts), 1),
        "errors": job.progress.errors,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--host", action="store_true", help="launchers die too: leases run out")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--launcher", help=argparse.SUPPRESS)
    parser.add_argument("--load-s", type=float, default=LOAD_S, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.launcher:
        sys.exit(be_a_launcher(options.launcher, options.load_s))
    before = surroundings()
    deaths = 1 if options.quick else options.deaths
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        results = measure(Path(folder), deaths=deaths, host=options.host, quick=options.quick)
    print(
        f"{results['shards']} shards: median {results['median_s']} s, p95 {results['p95_s']} s, "
        f"longest {results['longest_s']} s"
    )
    print(json.dumps({"benchmark": "recovery", **before, "host": options.host, **results}))


if __name__ == "__main__":
    main()
