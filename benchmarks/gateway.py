"""What HTTP and the queue add to the latency of a request, and the load of hundreds of clients.

    python benchmarks/gateway.py             10 documents on pocket-text; 200 clients for 60 s
    python benchmarks/gateway.py --quick     few requests, few clients, some seconds: a smoke test

    engine   `Reranker.process` in its own process: no queue, no HTTP
    client   `Client.rerank` to a warm worker of `rerank up`: Redis, Celery
    gateway  POST /v1/rerank of the same stack
    plain    a FastAPI server of a few lines around sentence-transformers' CrossEncoder

First one request after the other, each with its own query; the added latency is the difference of
the medians from the engine's. Then many clients at once, each sending its next request when it has
its answer (or, after a 429, when Retry-After is over): answers per second, failures, and the
server's resident memory at the end and after a quarter of the time. Both use as many CPU threads.

Prints two tables, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import cpu_count, passages, surroundings
from peers import Setting, chat_template
from text import fleet, in_own_process

DOCUMENTS = 10
CLIENTS, LOAD_S, REQUESTS, WARM_UP = 200, 60.0, 200, 5
READY_S = 120.0
TIMEOUT_S = 60.0
SIDES = ("engine", "client", "gateway", "plain")


prose = functools.cache(passages)


def request(number: int) -> dict[str, Any]:
    """A request with its own query and ten passages."""
    texts = prose()
    first = number * DOCUMENTS % (len(texts) - DOCUMENTS)
    query = " ".join(texts[number % len(texts)].split()[:8])
    return {"query": f"{query} ({number})", "documents": texts[first : first + DOCUMENTS]}


# ---- one after the other ------------------------------------------------------------------------


def seconds_of(ask: Callable[[dict[str, Any]], Any], count: int) -> list[float]:
    """How long each request took, after a few to warm up."""
    requests = [request(number) for number in range(count + WARM_UP)]
    times = []
    for body in requests:
        start = time.perf_counter()
        ask(body)
        times.append(time.perf_counter() - start)
    return times[WARM_UP:]


def engine_seconds(setting: Setting, count: int) -> list[float]:
    """Seconds in this process, without queue and HTTP."""
    import torch

    from rerankfleet import Reranker

    torch.set_num_threads(setting.threads)
    reranker = Reranker(setting.model)
    return seconds_of(reranker.process, count)


def http_seconds(address: str, model: str, count: int) -> list[float]:
    """Seconds over one persistent connection."""
    with httpx.Client(base_url=address, timeout=TIMEOUT_S) as http:

        def ask(body: dict[str, Any]) -> None:
            http.post("/v1/rerank", json=body | {"model": model}).raise_for_status()

        return seconds_of(ask, count)


def client_seconds(env: dict[str, str], model: str, count: int) -> list[float]:
    """Seconds through the queue, without HTTP."""
    from rerankfleet import Client
    from rerankfleet.shared.settings import load_settings

    client = Client(load_settings(state_dir=Path(env["RERANK_STATE_DIR"])))
    return seconds_of(lambda body: client.rerank(**body, model=model), count)


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    last = ordered[min(int(len(ordered) * 0.99), len(ordered) - 1)]
    return {"p50_ms": _ms(statistics.median(ordered)), "p99_ms": _ms(last)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


# ---- hundreds at once ---------------------------------------------------------------------------


def outcome_of(answer: httpx.Response) -> str:
    """The status of an answer; of a failure also its code."""
    if answer.status_code in (200, 429):
        return str(answer.status_code)
    with suppress(ValueError, KeyError, TypeError):
        return f"{answer.status_code} {answer.json()['error']['code']}"
    return str(answer.status_code)


async def load(address: str, model: str, pid: int, clients: int, load_s: float) -> dict[str, Any]:
    """Load from many clients: their answers, and the server's memory."""
    statuses: Counter[str] = Counter()
    seconds: list[float] = []
    memory: list[int] = []
    end = time.perf_counter() + load_s
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def client(http: httpx.AsyncClient, number: int) -> None:
        while time.perf_counter() < end:
            body = request(number) | {"model": model}
            number += clients
            start = time.perf_counter()
            try:
                answer = await http.post("/v1/rerank", json=body)
            except httpx.HTTPError as error:
                statuses[type(error).__name__] += 1
                continue
            statuses[outcome_of(answer)] += 1
            if answer.status_code == 200:
                seconds.append(time.perf_counter() - start)
            elif "Retry-After" in answer.headers:
                await asyncio.sleep(float(answer.headers["Retry-After"]))

    async def watch() -> None:
        while time.perf_counter() < end:
            memory.append(psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(load_s / 40)

    start = time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=TIMEOUT_S, limits=limits) as http:
        await asyncio.gather(watch(), *(client(http, number) for number in range(clients)))
    lasted_s = time.perf_counter() - start
    quarter = memory[len(memory) // 4]
    failures = sum(n for status, n in statuses.items() if status not in ("200", "429"))
    return {
        "clients": clients,
        "seconds": round(lasted_s, 1),
        "answers_per_s": round(statuses["200"] / lasted_s, 1),
        "busy_429": statuses["429"],
        "failures": failures,
        "statuses": dict(statuses),
        **(percentiles(seconds) if seconds else {"p50_ms": None, "p99_ms": None}),
        "rss_quarter_bytes": quarter,
        "rss_end_bytes": memory[-1],
    }


# ---- a plain server -----------------------------------------------------------------------------


def serve_plain(model: str, port: int, threads: int) -> None:
    """The simplest server: an endpoint around CrossEncoder.predict."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch.set_num_threads(threads)
    body = Transformer(
        model,
        transformer_task="text-generation",
        model_kwargs={"dtype": torch.float32},
        processor_kwargs={"chat_template": chat_template()},
    )
    yes, no = (body.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    encoder = CrossEncoder(modules=[body, LogitScore(yes, no)], device="cpu")
    app = FastAPI()

    @app.post("/v1/rerank")
    def rerank(request: dict[str, Any]) -> dict[str, Any]:
        pairs = [(request["query"], document) for document in request["documents"]]
        scores = encoder.predict(pairs, show_progress_bar=False)
        ranked = sorted(enumerate(scores), key=lambda one: -one[1])
        return {"results": [{"index": at, "relevance_score": float(s)} for at, s in ranked]}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


@contextmanager
def plain_server(setting: Setting) -> Iterator[tuple[str, int]]:
    """Run the plain server in its own process; yields address and pid."""
    from rerankfleet.producer.ports import free_port
    from rerankfleet.workers.engine import resolve_model

    port = free_port()
    folder = str(resolve_model(setting.model))
    command = [sys.executable, __file__, "--serve-plain", folder, str(port), str(setting.threads)]
    server = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server)
        yield address, server.pid
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:  # its threads are still computing
            server.kill()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    start = time.perf_counter()
    while time.perf_counter() - start < READY_S and server.poll() is None:
        with suppress(httpx.HTTPError):
            httpx.get(address)
            return
        time.sleep(0.2)
    sys.exit("the plain server did not start")


# ---- the run ------------------------------------------------------------------------------------


def measure(setting: Setting, count: int, clients: int, load_s: float) -> dict[str, Any]:
    """Measure all sides, one after the other."""
    alone: dict[str, list[float]] = {}
    crowd: dict[str, dict[str, Any]] = {}
    model = setting.model
    alone["engine"] = in_own_process(engine_seconds, setting, count)
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        state = Path(folder) / "state"
        with fleet(setting, state) as (env, pid, _):
            address = json.loads((state / "address.json").read_text())["gateway"]
            alone["client"] = client_seconds(env, model, count)
            alone["gateway"] = http_seconds(address, model, count)
            gateway = _gateway_pid(pid)
            crowd["gateway"] = asyncio.run(load(address, model, gateway, clients, load_s))
    with plain_server(setting) as (address, pid):
        alone["plain"] = http_seconds(address, model, count)
        crowd["plain"] = asyncio.run(load(address, model, pid, clients, load_s))
    latency = {side: percentiles(alone[side]) for side in SIDES}
    added = latency["gateway"]["p50_ms"] - latency["engine"]["p50_ms"]
    return {"latency": latency, "added_p50_ms": round(added, 2), "load": crowd}


def _gateway_pid(pid: int) -> int:
    for process in psutil.Process(pid).children(recursive=True):
        if "gateway" in process.cmdline():
            return process.pid
    sys.exit("there is no gateway")


def tables(results: dict[str, Any]) -> None:
    """Print the figures as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110, highlight=False)
    shown = Table(f"{DOCUMENTS} documents, one request after the other", "p50 ms", "p99 ms")
    for side, figures in results["latency"].items():
        shown.add_row(side, f"{figures['p50_ms']:.1f}", f"{figures['p99_ms']:.1f}")
    console.print(shown)
    names = ("answers_per_s", "p50_ms", "p99_ms", "busy_429", "failures")
    shown = Table("at once", "clients", *names, "MiB after a quarter", "MiB at the end")
    for side, figures in results["load"].items():
        memory = (f"{figures[f'rss_{at}_bytes'] / 2**20:.0f}" for at in ("quarter", "end"))
        shown.add_row(side, str(figures["clients"]), *(str(figures[n]) for n in names), *memory)
    console.print(shown)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few requests, few clients")
    parser.add_argument("--clients", type=int, help=f"clients at once ({CLIENTS})")
    parser.add_argument("--seconds", type=float, help=f"seconds of load ({LOAD_S:g})")
    parser.add_argument("--requests", type=int, help=f"requests one after the other ({REQUESTS})")
    parser.add_argument("--model", default="pocket-text", help="a model folder or hub name")
    parser.add_argument("--threads", type=int, default=cpu_count(), help="CPU threads (all)")
    parser.add_argument("--serve-plain", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.clients = options.clients or (8 if options.quick else CLIENTS)
    options.seconds = options.seconds or (3.0 if options.quick else LOAD_S)
    options.requests = options.requests or (10 if options.quick else REQUESTS)
    return options


def main() -> None:
    options = parse()
    if options.serve_plain:
        folder, port, threads = options.serve_plain
        serve_plain(folder, int(port), int(threads))
        return
    setting = Setting(options.model, "cpu", "fp32", options.threads)
    results = measure(setting, options.requests, options.clients, options.seconds)
    tables(results)
    config = {"documents": DOCUMENTS, "requests": options.requests, "threads": options.threads}
    figures = {"benchmark": "gateway", "model": options.model, "config": config, **results}
    print(json.dumps(figures | surroundings()))


if __name__ == "__main__":
    main()
