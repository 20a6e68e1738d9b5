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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import (
    MEASURED,
    TINY,
    build_model,
    cpu_count,
    maxrss_bytes,
    passages,
    peak_rss_bytes,
    surroundings,
)

from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.workers.prompting.prompts import SYSTEM_TURN
from rerankfleet.workers.prompting.text import SUFFIX

RERANK = str(Path(sys.executable).with_name("rerank"))
CARD_BATCH, ST_BATCH = 8, 32
MAX_LENGTH = 8192
SEED = 7
READY_S = 180.0
SIDES = ("score", "queue", "card", "st")
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Work:
    """One shape of work."""

    name: str
    queries: int
    documents: int
    tokens: int
    """Of a document, on average."""


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings shared by all sides."""

    model: str
    device: str
    dtype: str
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a `rerank` command, without the user's settings."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("RERANK_")}
        return own | {
            "RERANK_DEVICE": self.device,
            "RERANK_DTYPE": self.dtype,
            "RERANK_THREADS": str(self.threads),
        }


@dataclass(slots=True)
class Run:
    """The result of one side with one shape of work."""

    seconds: float
    peak_rss_bytes: int
    margins: list[float] = field(repr=False)
    more: dict[str, float] = field(default_factory=dict)


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


def pairs_of(requests: Sequence[dict[str, Any]]) -> list[Pair]:
    return [(r["query"], document) for r in requests for document in r["documents"]]


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
    stdout = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall_s = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"rerank score ended with {child.returncode}")
    seconds = json.loads(stdout)["seconds"]
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
    run = subprocess.run([RERANK, "workers", "--json"], env=env, capture_output=True)
    return run.returncode == 0 and any(w["state"] == "ready" for w in json.loads(run.stdout))


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


# ---- the peers: each of these runs in a process of its own --------------------------------------


def run_card(requests: list[dict[str, Any]], setting: Setting) -> Run:
    """The procedure of the Qwen3-Reranker model card."""
    start = time.perf_counter()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch, device, dtype = _prepare(setting)
    tokenizer = AutoTokenizer.from_pretrained(setting.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(setting.model, dtype=dtype).to(device).eval()
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    head, tail = (
        tokenizer.encode(text, add_special_tokens=False) for text in (SYSTEM_TURN, SUFFIX)
    )
    room = MAX_LENGTH - len(head) - len(tail)

    def ids(pair: Pair) -> list[int]:
        body = f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {pair[0]}\n<Document>: {pair[1]}"
        return [*head, *tokenizer.encode(body, add_special_tokens=False)[:room], *tail]

    @torch.no_grad()
    def margins(pairs: Sequence[Pair]) -> list[float]:
        results: list[float] = []
        for at in range(0, len(pairs), CARD_BATCH):
            batch = {"input_ids": [ids(pair) for pair in pairs[at : at + CARD_BATCH]]}
            padded = tokenizer.pad(batch, padding=True, return_tensors="pt").to(device)
            last = model(**padded).logits[:, -1].float()
            results += (last[:, yes] - last[:, no]).tolist()
        return results

    return _timed(margins, pairs_of(requests), start)


def run_st(requests: list[dict[str, Any]], setting: Setting) -> Run:
    """sentence-transformers' CrossEncoder over the same causal model."""
    start = time.perf_counter()
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    torch, device, dtype = _prepare(setting)
    body = Transformer(
        setting.model,
        transformer_task="text-generation",
        model_kwargs={"dtype": dtype},
        processor_kwargs={"chat_template": chat_template()},
    )
    yes, no = (body.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    encoder = CrossEncoder(modules=[body, LogitScore(yes, no)], device=device)

    def margins(pairs: Sequence[Pair]) -> list[float]:
        predicted = encoder.predict(
            list(pairs),
            batch_size=ST_BATCH,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return [float(margin) for margin in predicted]

    return _timed(margins, pairs_of(requests), start)


def chat_template() -> str:
    """The model card's prompt as a template over messages of the roles query and document."""
    parts = (
        json.dumps(f"{SYSTEM_TURN}<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: "),
        "text_of('query')",
        json.dumps("\n<Document>: "),
        "text_of('document')",
        json.dumps(SUFFIX),
    )
    return (
        "{%- macro text_of(role) -%}{%- for message in messages if message.role == role -%}"
        "{{ message.content if message.content is string else message.content[0].text }}"
        "{%- endfor -%}{%- endmacro -%}{{ " + " + ".join(parts) + " }}"
    )


def _prepare(setting: Setting) -> tuple[Any, str, Any]:
    """Set threads, disable progress bars; returns torch, the device and the number type."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(setting.threads)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setting.dtype]
    if setting.device != "auto":
        return torch, setting.device, dtype
    return torch, "cuda" if torch.cuda.is_available() else "cpu", dtype


def _timed(
    margins: Callable[[Sequence[Pair]], list[float]], pairs: list[Pair], start: float
) -> Run:
    """Warm up with one pair, then measure. `start` is when the process began to load."""
    margins(pairs[:1])
    start_up_s = time.perf_counter() - start
    start = time.perf_counter()
    results = margins(pairs)
    seconds = time.perf_counter() - start
    return Run(seconds, peak_rss_bytes(), results, {"start_up_s": start_up_s})


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
    works = [
        Work("many documents", queries, documents, 85),
        Work("one document", math.ceil(queries * documents / 2), 1, 85),
        Work("long documents", math.ceil(queries / 2), math.ceil(documents / 5), 1_500),
    ]
    return works[:1] if quick else works


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
    run = {"benchmark": "text", "device": options.device, **before, "config": config}
    load = {"load_average_after": surroundings()["load_average"]}
    print(json.dumps({**run, **load, "start_up_s": start_up_s, "shapes": results}))


if __name__ == "__main__":
    main()
