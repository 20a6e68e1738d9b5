"""Pairs per second of rerankfleet and of common alternatives: same weights, same pairs, one run.

    python benchmarks/text.py             a random model, three shapes of work; some minutes
    python benchmarks/text.py --quick     a tiny model, few pairs, one shape: a smoke test
    python benchmarks/text.py --model Qwen/Qwen3-Reranker-0.6B --device cuda --dtype bf16

    score   `rerank score`
    queue   `rerank submit --wait` to a warm worker of `rerank up`: Redis, Celery, coordinator
    card    the model card's procedure: transformers, padded left, full logits, batches of 8
    st      sentence-transformers: CrossEncoder.predict, batches of 32

Each side runs in its own processes, with as many threads as the others, one after the other.
Seconds are those of the work: tokenising, scoring, and for score and queue also reading and
writing the files. Start-up (imports, weights, self-test) is measured separately. Memory is peak
resident memory; of the queue it is the worker's, and the sum over all its processes.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import (
    MEASURED,
    TINY,
    build_model,
    cpu_count,
    maxrss_bytes,
    passages,
    surroundings,
)
from peers import CARD_BATCH, MAX_LENGTH, ST_BATCH, Run, Setting, run_card, run_st

RERANK = str(Path(sys.executable).with_name("rerank"))
SEED = 7
READY_S = 180.0
SIDES = ("score", "queue", "card", "st")


@dataclass(frozen=True, slots=True)
class Work:
    """One shape of work."""

    name: str
    queries: int
    documents: int
    tokens: int
    """Of a document, on average."""


# ---- the work -----------------------------------------------------------------------------------


def make_requests(work: Work, model: str) -> tuple[list[dict[str, Any]], float]:
    """Requests of real prose, and the mean tokens of their documents by the model's tokeniser."""
    from tokenizers import Tokenizer

    rng = random.Random(SEED)
    prose = passages()
    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    sizes = [len(encoded) for encoded in tokenizer.encode_batch_fast(prose)]
    # mean overshoot of the last passage: half a passage, weighted by size
    enough = work.tokens - sum(size**2 for size in sizes) / sum(sizes) / 2

    def document() -> str:
        chosen, tokens = [], 0
        while tokens < enough:
            at = rng.randrange(len(prose))
            chosen.append(prose[at])
            tokens += sizes[at]
        return " ".join(chosen)

    requests = [
        {
            "id": str(number),
            "query": " ".join(rng.choice(prose).split()[:10]),
            "documents": [document() for _ in range(work.documents)],
        }
        for number in range(work.queries)
    ]
    documents = [d for request in requests for d in request["documents"]]
    counted = sum(len(encoded) for encoded in tokenizer.encode_batch_fast(documents))
    return requests, counted / len(documents)


# ---- our two sides ------------------------------------------------------------------------------


def run_score(requests: list[dict[str, Any]], setting: Setting, folder: Path) -> Run:
    """`rerank score` over a file."""
    source, output = _write(requests, folder), folder / "scored.jsonl"
    command = [RERANK, "score", str(source), "-o", str(output), "--force", "--json"]
    start = time.perf_counter()
    child = subprocess.Popen(
        [*command, "--model", setting.model], env=setting.environment, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    manifest = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"rerank score ended with {child.returncode}")
    seconds = json.loads(manifest)["seconds"]
    memory = maxrss_bytes(usage.ru_maxrss)
    return Run(seconds, memory, _margins(output, requests), {"start_up_s": wall_s - seconds})


def run_queue(requests: list[dict[str, Any]], setting: Setting, folder: Path) -> Run:
    """`rerank submit --wait` to a local fleet with a warm worker."""
    with fleet(setting, folder / "state") as (env, pid, start_up_s):
        warm_up = _write(requests[:1], folder, "warm-up.jsonl")
        _submit(warm_up, folder / "warmed.jsonl", setting, env)
        source, output = _write(requests, folder), folder / "ranked.jsonl"
        start = time.perf_counter()
        _submit(source, output, setting, env)
        wall_s = time.perf_counter() - start
        peaks = _peaks(pid)
    manifest = json.loads(Path(f"{output}.manifest.json").read_text())
    more = {"start_up_s": start_up_s, "submit_s": wall_s, "fleet_peak_rss_bytes": sum(peaks)}
    return Run(manifest["seconds"], max(peaks), _margins(output, requests), more)


@contextmanager
def fleet(setting: Setting, state: Path) -> Iterator[tuple[dict[str, str], int, float]]:
    """`rerank up` on a fresh state folder; yields environment, pid, and the seconds it took."""
    env = setting.environment | {"RERANK_STATE_DIR": str(state)}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        up = subprocess.Popen(
            [RERANK, "up", "--model", setting.model], env=env, stdout=log, stderr=log
        )
        try:
            while not _ready(env):
                if up.poll() is not None or time.perf_counter() - start > READY_S:
                    log.seek(0)
                    sys.exit(f"`rerank up` did not start:\n{log.read().decode()[-4000:]}")
                time.sleep(0.2)
            yield env, up.pid, time.perf_counter() - start
        finally:
            up.terminate()
            up.wait(60)


def _ready(env: dict[str, str]) -> bool:
    process = subprocess.run([RERANK, "workers", "--json"], env=env, capture_output=True)
    if process.returncode != 0:
        return False
    return any(worker["state"] == "ready" for worker in json.loads(process.stdout))


def _submit(source: Path, output: Path, setting: Setting, env: dict[str, str]) -> None:
    command = [RERANK, "submit", str(source), "-o", str(output), "--wait", "--json"]
    command += ["--model", setting.model]
    subprocess.run(command, env=env, stdout=subprocess.DEVNULL, check=True)


def _peaks(pid: int) -> list[int]:
    """Peak resident memory of a process and its children; current where the peak is unknown."""
    import psutil

    peaks = []
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peaks.append(int(status.split("VmHWM:")[1].split()[0]) * 1024)
        except (OSError, IndexError):
            peaks.append(process.memory_info().rss)
    return peaks


def _write(requests: Sequence[dict[str, Any]], folder: Path, name: str = "pairs.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


def _margins(output: Path, requests: Sequence[dict[str, Any]]) -> list[float]:
    """Margins in the order of the input."""
    margins: list[float] = []
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    for request, line in zip(requests, lines, strict=True):
        by_index = {result["index"]: result["margin"] for result in line["results"]}
        margins += [by_index[index] for index in range(len(request["documents"]))]
    return margins


# ---- the run ------------------------------------------------------------------------------------


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process that ends after it."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def measure(work: Work, setting: Setting, sides: Sequence[str]) -> dict[str, Any]:
    """Measure all sides on one shape of work."""
    requests, tokens = make_requests(work, setting.model)
    count = work.queries * work.documents
    runs: dict[str, Run] = {}
    for side in sides:
        with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
            if side == "score":
                runs[side] = run_score(requests, setting, Path(folder))
            elif side == "queue":
                runs[side] = run_queue(requests, setting, Path(folder))
            else:
                runs[side] = in_own_process(
                    {"card": run_card, "st": run_st}[side], requests, setting
                )
        print(f"{work.name}: {side} {runs[side].seconds:.1f} s", file=sys.stderr)
    together = zip(*(run.margins for run in runs.values()), strict=True)
    return {
        "name": work.name,
        "queries": work.queries,
        "documents": work.documents,
        "pairs": count,
        "mean_document_tokens": round(tokens, 1),
        "largest_difference": max(max(margins) - min(margins) for margins in together),
        "sides": {side: _figures(run, count) for side, run in runs.items()},
    }


def _figures(run: Run, pairs: int) -> dict[str, float]:
    figures = {
        "pairs_per_s": pairs / run.seconds,
        "seconds": run.seconds,
        "peak_rss_bytes": run.peak_rss_bytes,
        **run.more,
    }
    return {name: _rounded(value) for name, value in figures.items()}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else round(value, 3)


def start_up(setting: Setting) -> float:
    """Wall-clock seconds of `rerank score` for one pair: imports, weights, self-test."""
    request = {"id": "0", "query": "a", "documents": ["b"]}
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        start = time.perf_counter()
        run_score([request], setting, Path(folder))
        return round(time.perf_counter() - start, 3)


def shapes(queries: int, documents: int, *, quick: bool) -> list[Work]:
    """Many documents per query, one per query, long ones; only the first if `quick`."""
    lengths = [
        Work("many documents", queries, documents, 85),
        Work("one document", math.ceil(queries * documents / 2), 1, 85),
        Work("long documents", math.ceil(queries / 2), math.ceil(documents / 5), 1_500),
    ]
    return lengths[:1] if quick else lengths


def table(results: Sequence[dict[str, Any]]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("work", "side")
    for name in ("pairs/s", "seconds", "start-up s", "peak MiB"):
        shown.add_column(name, justify="right")
    for result in results:
        work = (
            f"{result['name']}: {result['queries']} x {result['documents']} of "
            f"{result['mean_document_tokens']:.0f} tokens"
        )
        for side, figures in result["sides"].items():
            shown.add_row(
                work,
                side,
                f"{figures['pairs_per_s']:,.2f}",
                f"{figures['seconds']:,.2f}",
                f"{figures['start_up_s']:,.1f}",
                f"{figures['peak_rss_bytes'] / 2**20:,.0f}",
            )
            work = ""
        shown.add_row("", f"margins differ by {result['largest_difference']:.1e}", end_section=True)
    Console(width=110, highlight=False).print(shown)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, help="queries of the first shape (4)")
    parser.add_argument("--documents", type=int, help="documents of each query (50)")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few pairs, one shape")
    parser.add_argument("--model", help="a model folder or hub name; a random model by default")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=cpu_count(), help="CPU threads (all)")
    parser.add_argument("--sides", default=",".join(SIDES), help="which sides, comma-separated")
    options = parser.parse_args(arguments)
    options.queries = options.queries or (2 if options.quick else 4)
    options.documents = options.documents or (4 if options.quick else 50)
    options.sides = options.sides.split(",")
    if unknown := set(options.sides) - set(SIDES):
        parser.error(f"--sides: {', '.join(sorted(unknown))}? There are {', '.join(SIDES)}")
    return options


@contextmanager
def model_folder(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The folder of the model, and its description."""
    if options.model:
        from rerankfleet.workers.engine import resolve_model

        yield str(resolve_model(options.model)), options.model
        return
    shape = TINY if options.quick else MEASURED
    with tempfile.TemporaryDirectory(prefix="rerank-bench-model-") as folder:
        in_own_process(build_model, Path(folder), shape)
        yield folder, {"random": asdict(shape), "seed": 0}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    before = surroundings()
    with model_folder(options) as (folder, described):
        setting = Setting(folder, options.device, options.dtype, options.threads)
        start_up_s = start_up(setting)
        works = shapes(options.queries, options.documents, quick=options.quick)
        results = [measure(work, setting, options.sides) for work in works]
    table(results)
    print(f"start-up of `rerank score`, one pair scored: {start_up_s:.1f} s")
    config = {
        "model": described,
        "dtype": options.dtype,
        "threads": options.threads,
        "card_batch": CARD_BATCH,
        "st_batch": ST_BATCH,
        "max_length": MAX_LENGTH,
        "seed": SEED,
        "quick": options.quick,
    }
    header = {"benchmark": "text", "device": options.device, **before, "config": config}
    load = {"load_average_after": surroundings()["load_average"]}
    print(json.dumps({**header, **load, "start_up_s": start_up_s, "shapes": results}))


if __name__ == "__main__":
    main()
