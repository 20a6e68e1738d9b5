"""`rerank demo`: the two main kinds of job, on a stack of its own.

A file of questions becomes ranked passages; queries over a catalog of images in a local S3 become
ranked images.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.markup import escape

from rerankfleet.producer.client import Client
from rerankfleet.producer.local import Local, stack
from rerankfleet.producer.ports import free_port
from rerankfleet.producer.terminal import tables
from rerankfleet.producer.terminal.following import live_progress
from rerankfleet.shared.errors import NoWorker, UsageError
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.model_names import canonical_model
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.shown import clean_lines, one_line, tell
from rerankfleet.shared.state.fleet import WorkerRow

MODEL = "pocket-text"
IMAGE_MODEL = "pocket-vl"
WORKER_START_S = 120.0
STORAGE_START_S = 30.0
SHOWN = 5

EXAMPLE = Path(__file__).parent / "example" / "python-faq.jsonl"
SCENES = Path(__file__).parent / "example" / "scenes"
"""Drawn scenes, `queries.txt` with a query per line, and `labels.json` with the relevant images."""
BUCKET = "scenes"


def run_demo() -> None:
    """Start everything on free ports, rank the examples, show them, stop everything."""
    with tempfile.TemporaryDirectory(prefix="rerank-demo-") as folder:
        path = Path(folder)
        settings = Settings(
            redis_url=None,
            storage=None,
            state_dir=path,
            allowed_buckets=(BUCKET,),
            log_level="WARNING",
        )
        _say(
            "starting Redis, a local S3, a coordinator and two workers with the demonstration "
            f"models {MODEL} and {IMAGE_MODEL}"
        )
        with (
            _storage(path) as access,
            stack(settings, MODEL, IMAGE_MODEL, environment=access, log_dir=path) as local,
        ):
            client = Client(local.settings)
            workers = _wait_for_workers(client, local)
            _rank_text(client, workers[0], path / "ranked.jsonl")
            _rank_images(client, path)
        _say("stopped everything")


# ---- a local S3 ---------------------------------------------------------------------------------


@contextmanager
def _storage(folder: Path) -> Iterator[dict[str, str]]:
    """A local S3 with the scenes in its bucket. Yields the environment to access it."""
    if find_spec("moto") is None:
        raise UsageError(
            "the local S3 server is not installed", hint="pip install 'rerankfleet[embedded]'"
        )
    port = free_port()
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Child("storage", command, log_file=str(folder / "storage.log"))
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for_storage(endpoint)
        _put(f"{endpoint}/{BUCKET}", b"")
        for scene in _scenes():
            _put(f"{endpoint}/{BUCKET}/{scene.name}", scene.read_bytes())
        yield {
            "AWS_ENDPOINT_URL_S3": endpoint,
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        Supervisor([server]).stop()


def _wait_for_storage(endpoint: str) -> None:
    deadline = time.monotonic() + STORAGE_START_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(endpoint, timeout=5):
                return
        except urllib.error.URLError:  # not up yet
            time.sleep(0.1)
    raise UsageError(f"the local S3 server did not start within {STORAGE_START_S:g} s")


def _put(url: str, data: bytes) -> None:
    """Create a bucket or an object; this server requires no signature."""
    request = urllib.request.Request(url, data, {"Content-Type": "image/jpeg"}, method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        pass


def _scenes() -> list[Path]:
    return sorted(SCENES.glob("*.jpg"))


# ---- text ---------------------------------------------------------------------------------------


def _rank_text(client: Client, worker: WorkerRow, output: Path) -> None:
    requests = [json.loads(line) for line in EXAMPLE.read_text().splitlines()]
    pairs = sum(len(request["documents"]) for request in requests)
    _say(f"submitting {len(requests)} questions about Python with {pairs} passages")
    job_id = client.submit(EXAMPLE, model=MODEL, output=output)
    with live_progress() as progress:
        client.wait(job_id, on_progress=progress)
    client.fetch(job_id, output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    _show(requests, lines)
    manifest = Manifest.model_validate_json(Path(manifest_uri(str(output))).read_text())
    worker = next((w for w in client.workers() if w.pid == worker.pid), worker)
    tables.console().print(
        f"\n{manifest.scored:,} pairs scored, {manifest.errors} errors, {manifest.seconds:.1f} s: "
        f"[bold]{manifest.pairs_per_s:,.0f} pairs/s[/]\n"
        f"batch size {worker.batch_tokens:,} tokens ({escape(one_line(worker.batch_reason))}), "
        f"{worker.latency_s * 1000:,.0f} ms a pack on {escape(one_line(worker.device))}\n"
        f"a relevant passage is first for {_share_right(requests, lines):.0%} of the questions"
    )


def _show(requests: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Print a sample of the ranking, evenly spread over the example."""
    step = max(len(requests) // SHOWN, 1)
    for request, line in list(zip(requests, lines, strict=True))[::step][:SHOWN]:
        texts = [document["text"] for document in request["documents"]]
        tables.console().print(tables.ranked_table(request["query"], line, texts))


def _share_right(requests: list[dict[str, Any]], lines: list[dict[str, Any]]) -> float:
    """Share of the questions whose first result is a passage of their own answer."""
    first = [
        line["results"][0].get("id") in request["metadata"]["relevant"]
        for request, line in zip(requests, lines, strict=True)
    ]
    return sum(first) / len(first)


# ---- images -------------------------------------------------------------------------------------


def _rank_images(client: Client, folder: Path) -> None:
    names = [scene.name for scene in _scenes()]
    listing = folder / "scenes.jsonl"
    lines = [{"id": name, "image": f"s3://{BUCKET}/{name}"} for name in names]
    listing.write_text("".join(json.dumps(line) + "\n" for line in lines))
    labels = json.loads((SCENES / "labels.json").read_text())
    _say(f"submitting a catalog: {len(labels)} queries meet {len(names)} images in S3")
    job_id = client.submit_catalog(
        listing, SCENES / "queries.txt", model=IMAGE_MODEL, top_n=len(names)
    )
    with live_progress() as progress:
        client.wait(job_id, on_progress=progress)
    output = folder / "ranked-scenes"
    client.fetch(job_id, output)
    manifest = Manifest.model_validate_json(Path(manifest_uri(f"{output}/")).read_text())
    ranking = (output / str(manifest.ranking)).read_text().splitlines()
    rankings = [
        [result | {"index": names.index(result["image_id"])} for result in line["results"]]
        for line in map(json.loads, ranking)
    ]
    _show_images(labels, rankings, names)
    tables.console().print(
        f"\n{manifest.scored:,} pairs of {len(names)} images scored, {manifest.errors} errors, "
        f"{manifest.seconds:.1f} s: [bold]{manifest.pairs_per_s:,.0f} pairs/s[/]\n"
        f"a relevant image is first for {_share_right_images(labels, rankings):.0%} of the queries"
    )


def _show_images(
    labels: Sequence[dict[str, Any]],
    rankings: Sequence[list[dict[str, Any]]],
    names: Sequence[str],
) -> None:
    """Print a sample of the ranking, with the relevant images marked."""
    step = max(len(labels) // SHOWN, 1)
    for label, results in list(zip(labels, rankings, strict=True))[::step][:SHOWN]:
        texts = [f"{name}  ✓" if name in label["relevant"] else name for name in names]
        tables.console().print(tables.ranked_table(label["query"], {"results": results}, texts))


def _share_right_images(
    labels: Sequence[dict[str, Any]], rankings: Sequence[list[dict[str, Any]]]
) -> float:
    """Share of the queries whose first image is relevant."""
    first = [
        bool(results) and results[0]["image_id"] in label["relevant"]
        for label, results in zip(labels, rankings, strict=True)
    ]
    return sum(first) / len(first)


# ---- both ---------------------------------------------------------------------------------------


def _wait_for_workers(client: Client, local: Local) -> list[WorkerRow]:
    """The workers of both models, once they are ready."""
    deadline = time.monotonic() + WORKER_START_S
    models = [canonical_model(model) for model in (MODEL, IMAGE_MODEL)]
    while time.monotonic() < deadline:
        local.supervisor.watch()
        ready = {worker.model: worker for worker in client.workers() if worker.state == "ready"}
        if all(model in ready for model in models):
            return [ready[model] for model in models]
        time.sleep(0.1)
    logs = "\n".join(
        Path(child.log_file or os.devnull).read_text(errors="replace")[-2000:]
        for child in local.supervisor.children
        if child.name.startswith("worker")
    )
    sys.stderr.write(f"{clean_lines(logs)}\n")
    raise NoWorker(
        f"the workers were not ready within {WORKER_START_S:g} s",
        hint="the end of their logs is above",
    )


def _say(text: str) -> None:
    tell(text)
