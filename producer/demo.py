"""`rerank demo`: the main job once, from a file to ranked lines, with a stack of its own."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from producer import show
from producer.client import Client
from producer.local import Local, stack
from shared.errors import NoWorker
from shared.fleet import WorkerRow
from shared.manifest import Manifest, manifest_uri
from shared.settings import Settings

MODEL = "pocket-text"
WORKER_START_S = 120.0
SHOWN = 5

EXAMPLE = Path(__file__).parent / "example" / "python-faq.jsonl"


def run_demo() -> None:
    """Start everything on free ports, rank the example, show it, stop everything."""
    with tempfile.TemporaryDirectory(prefix="rerank-demo-") as folder:
        settings = Settings(
            redis_url=None, storage=None, state_dir=Path(folder), log_level="WARNING"
        )
        _say(f"starting Redis, a coordinator and a worker with {MODEL}, a demonstration model")
        with stack(settings, MODEL, log_dir=Path(folder)) as local:
            _rank(local, Path(folder) / "ranked.jsonl")
        _say("stopped everything")


def _rank(local: Local, output: Path) -> None:
    client = Client(local.settings)
    worker = _wait_for_worker(client, local)
    requests = [json.loads(line) for line in EXAMPLE.read_text().splitlines()]
    pairs = sum(len(request["documents"]) for request in requests)
    _say(f"submitting {len(requests)} questions about Python with {pairs} passages")
    job_id = client.submit(EXAMPLE, model=MODEL, output=output)
    with show.live_progress() as progress:
        client.wait(job_id, on_progress=progress)
    client.fetch(job_id, output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    _show(requests, lines)
    manifest = Manifest.model_validate_json(Path(manifest_uri(str(output))).read_text())
    worker = next((w for w in client.workers() if w.pid == worker.pid), worker)
    show.console().print(
        f"\n{manifest.scored:,} pairs scored, {manifest.errors} errors, {manifest.seconds:.1f} s: "
        f"[bold]{manifest.pairs_per_s:,.0f} pairs/s[/]\n"
        f"batch size {worker.batch_tokens:,} tokens ({worker.batch_reason}), "
        f"{worker.latency_s * 1000:,.0f} ms a pack on {worker.device}\n"
        f"a relevant passage is first for {_found(requests, lines):.0%} of the questions"
    )


def _wait_for_worker(client: Client, local: Local) -> WorkerRow:
    deadline = time.monotonic() + WORKER_START_S
    while time.monotonic() < deadline:
        local.supervisor.watch()
        for worker in client.workers():
            if worker.state == "ready":
                return worker
        time.sleep(0.1)
    log = Path(local.supervisor.children[-1].log_file or os.devnull).read_text(errors="replace")
    raise NoWorker(
        f"no worker was ready within {WORKER_START_S:g} s", hint=f"its log ends:\n{log[-2000:]}"
    )


def _show(requests: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Print a sample of the ranking, evenly spread over the example."""
    step = max(len(requests) // SHOWN, 1)
    for request, line in list(zip(requests, lines, strict=True))[::step][:SHOWN]:
        texts = [document["text"] for document in request["documents"]]
        show.console().print(show.ranked_table(request["query"], line, texts))


def _found(requests: list[dict[str, Any]], lines: list[dict[str, Any]]) -> float:
    """Share of the questions whose first result is a passage of their own answer."""
    first = [
        line["results"][0].get("id") in request["metadata"]["relevant"]
        for request, line in zip(requests, lines, strict=True)
    ]
    return sum(first) / len(first)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
