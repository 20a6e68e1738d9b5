"""What durability costs: leases, and an append-only file, against a run without them.

    python benchmarks/durability.py             3 rounds of a job per kind of file; 300 shards
    python benchmarks/durability.py --quick     one small round: a smoke test

The same job runs through a warm `rerank up`, in turn with its server's append-only file off, and
synced never, every second (the default) and with every write; and once a round through
`rerank score`, which has neither queue nor leases nor Redis.

What Redis does for a shard is also measured by itself: its claim, a renewal of its lease, and its
commit, one after the other from one client, in microseconds. A shard is about five seconds of a
worker's time, in which its lease is renewed about five times.

Prints two tables, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from common import passages, surroundings
from peers import Setting
from text import fleet, run_score

from rerankfleet.producer.client import Client
from rerankfleet.shared.ids import new_id
from rerankfleet.shared.job_spec import InputRef, Priority, make_spec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.settings import load_settings
from rerankfleet.shared.state.records import Lease, OpenShard
from rerankfleet.shared.state.store import Store

MODEL = "pocket-text"
FILES = {
    "none": {"appendonly": "no"},
    "no sync": {"appendonly": "yes", "appendfsync": "no"},
    "every second": {"appendonly": "yes", "appendfsync": "everysec"},
    "every write": {"appendonly": "yes", "appendfsync": "always"},
}
"""Kinds of append-only file, with the server's options."""
SCORE = "rerank score"
STEPS = ("claim", "renew", "commit")
DOCUMENTS = 50
JOB_S = 600.0
SHARD_S, RENEWALS_PER_SHARD = 5.0, 5
OF_NO_WORKER = "benchmark"
"""A model that nobody serves: its shards are left to this process."""


def make_requests(count: int) -> list[dict[str, Any]]:
    """Queries with fifty passages each."""
    texts = passages()
    return [
        {
            "id": f"q{n}",
            "query": " ".join(texts[n % len(texts)].split()[:8]),
            "documents": [texts[(n * 7 + d) % len(texts)] for d in range(DOCUMENTS)],
        }
        for n in range(count)
    ]


def use_file(server: redis.Redis, options: dict[str, str]) -> None:
    """Change the server's append-only file, and wait until it is written anew."""
    for name, value in options.items():
        server.config_set(name, value)
    while server.info("persistence").get("aof_rewrite_in_progress"):
        time.sleep(0.05)


def run_job(client: Client, source: Path) -> float:
    """Pairs per second of a job, from its creation to its published output."""
    job_id = client.submit(source, model=MODEL)
    status = client.wait(job_id, timeout_s=JOB_S)
    assert status.state == "done", status
    assert status.finished_s is not None
    return status.progress.scored / (status.finished_s - status.created_s)


def time_shards(store: Store, count: int) -> dict[str, float]:
    """Median microseconds of each step of a shard, as a worker calls them."""
    shards = [OpenShard(n, n + 1, f"redis:{n}") for n in range(count)]
    spec = make_spec(
        model=OF_NO_WORKER,
        input=InputRef(uri="", size=0, tag=""),
        priority=Priority.interactive,
    )
    job_id = new_id()
    store.jobs.create(job_id, spec, "", deadline_ms=60_000, inline_ttl_ms=60_000, shards=shards)
    summary = ShardSummary(scored=1, priority=Priority.interactive)
    taken: dict[str, list[float]] = {step: [] for step in STEPS}

    def timed(step: str, call: Callable[[], Any]) -> Any:
        began_s = time.perf_counter()
        answer = call()
        taken[step].append(time.perf_counter() - began_s)
        return answer

    for shard in shards:
        name = f"{shard.start}-{shard.end}"
        lease = timed("claim", lambda name=name: _claim(store, job_id, name))
        timed("renew", lambda lease=lease: store.shards.renew([lease]))
        timed("commit", lambda lease=lease: store.shards.commit(lease, "redis:part", summary))
    return {step: round(1e6 * statistics.median(times), 1) for step, times in taken.items()}


def _claim(store: Store, job_id: str, shard: str) -> Lease:
    lease = store.shards.claim(
        job_id,
        OF_NO_WORKER,
        shard,
        token=new_id(),
        worker=OF_NO_WORKER,
        alone=False,
        fingerprint="f",
    )
    assert isinstance(lease, Lease), lease
    return lease


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--shards", type=int, default=300)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.queries, options.shards = 1, 4, 10
    before = surroundings()
    rates: dict[str, list[float]] = {name: [] for name in (SCORE, *FILES)}
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in FILES}
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as name:
        folder, setting = Path(name), Setting(MODEL, "cpu", "fp32", threads=1)
        requests = make_requests(options.queries)
        source = folder / "job.jsonl"
        source.write_text("".join(json.dumps(request) + "\n" for request in requests))
        with fleet(setting, folder / "state"):
            client = Client(load_settings(state_dir=folder / "state"))
            run_job(client, source)  # its worker is warm, and its rate is known
            for _ in range(options.rounds):
                for kind, file in FILES.items():
                    use_file(client.store.client, file)
                    steps[kind].append(time_shards(client.store, options.shards))
                    rates[kind].append(run_job(client, source))
                scored = run_score(requests, setting, folder)
                rates[SCORE].append(options.queries * DOCUMENTS / scored.seconds)
    print_and_dump(rates, steps, {"rounds": options.rounds, **before})


def print_and_dump(
    rates: dict[str, list[float]],
    steps: dict[str, list[dict[str, float]]],
    header: dict[str, Any],
) -> None:
    """The tables, then one line of JSON."""
    jobs = {
        side: {
            "pairs_per_s": round(statistics.median(of_side), 1),
            "rounds": [round(rate, 1) for rate in of_side],
        }
        for side, of_side in rates.items()
    }
    shards: dict[str, dict[str, float]] = {}
    for kind, rounds in steps.items():
        medians = {step: round(statistics.median(r[step] for r in rounds), 1) for step in STEPS}
        per_shard_us = medians["claim"] + RENEWALS_PER_SHARD * medians["renew"] + medians["commit"]
        shards[kind] = {f"{step}_us": value for step, value in medians.items()}
        shards[kind]["share_of_a_shard"] = round(per_shard_us / (1e6 * SHARD_S), 6)
    print(f"{'append-only file':16} {'pairs/s':>8}   rounds")
    for side, figures in jobs.items():
        print(f"{side:16} {figures['pairs_per_s']:8}   {figures['rounds']}")
    print(f"\n{'append-only file':16} {'claim':>9} {'renew':>9} {'commit':>9}   share of a shard")
    for kind, figures in shards.items():
        times = " ".join(f"{figures[f'{step}_us']:6.0f} µs" for step in STEPS)
        print(f"{kind:16} {times}   {figures['share_of_a_shard']:.4%}")
    print(json.dumps({"benchmark": "durability", **header, "jobs": jobs, "shards": shards}))


if __name__ == "__main__":
    main()
