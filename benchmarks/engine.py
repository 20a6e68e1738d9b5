"""Compare the engine with the device's limit and with its peers.

    python benchmarks/engine.py                   the shapes of docs/performance.md, CPU; minutes
    python benchmarks/engine.py --quick           a tiny model and few pairs: a smoke test
    python benchmarks/engine.py --shape 8b --device cuda --dtype bf16 --limits 2048 8192 32768
    python benchmarks/engine.py --rounds 5 --peers ""

    engine  tokenising, packing and scoring in one process, without files or queue
    card    the model card's procedure: transformers, padded left, full logits, batches of 8
    st      sentence-transformers: CrossEncoder.predict, batches of 32

Random weights, real prose, the same pairs for all, each side in its own process, in turns;
the best round of each counts. "Share" is useful FLOPs per second (linear layers and attention of
the tokens that must be computed) over the rate of this device's matrix products of the model's
shapes, measured in the same process before and after.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common import MEASURED, TINY, Shape, build_model, cpu_count, peak_rss_bytes, surroundings
from peers import Setting, chat_template, run_card, run_st
from text import Work, in_own_process, make_requests

from rerankfleet.workers.batching.packing import Limit, Pack, plan
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest

SHAPES = {
    "tiny": TINY,
    "small": MEASURED,
    "0.6b": Shape(28, 1024, 3072, 16, 8, 128, 16_384),
    "4b": Shape(36, 2560, 9728, 32, 8, 128, 16_384),
    "8b": Shape(36, 4096, 12_288, 32, 8, 128, 16_384),
}
PEERS = {"card": run_card, "st": run_st}
#: Rows of the matrix products whose rate is the reference.
YARDSTICK_ROWS = 2048


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the engine alone."""

    attention: str
    limits: tuple[int, ...]
    deterministic: bool


@dataclass(frozen=True, slots=True)
class Item:
    """A waiting pair."""

    index: int
    prompt: Prompt
    lane: int = 0


# ---- the engine, in a process of its own --------------------------------------------------------


def run_engine(
    requests: list[dict[str, Any]], setting: Setting, options: Options, shape: Shape
) -> dict[str, Any]:
    """Seconds by pack limit, margins, share of the matmul rate, peak memory."""
    import torch

    from rerankfleet.workers.engine import load_engine

    torch.set_num_threads(setting.threads)
    engine = load_engine(
        setting.model,
        dtype=setting.dtype,
        device=setting.device,
        attention=options.attention,
        deterministic=options.deterministic,
    )
    score_all(engine, requests[:1], Limit(options.limits[0]))
    rate = matmul_flops_per_s(shape, engine.decoder)
    seconds, margins = {}, []
    for tokens in options.limits:
        start = time.perf_counter()
        margins = score_all(engine, requests, Limit(tokens))
        seconds[tokens] = time.perf_counter() - start
        rate = max(rate, matmul_flops_per_s(shape, engine.decoder))
    return {
        "seconds": seconds,
        "margins": margins,
        "useful_flops": useful_flops(shape, prompts_of(engine, requests)),
        "matmul_flops_per_s": rate,
        "peak_bytes": _peak_bytes(engine.decoder.device),
        "attention": engine.provenance.attention,
        "device": engine.device_name,
    }


def score_all(engine: Any, requests: Sequence[dict[str, Any]], limit: Limit) -> list[float]:
    """Margins of all pairs: tokenise, plan, score."""
    waiting = [Item(i, prompt) for i, prompt in enumerate(prompts_of(engine, requests))]
    margins = [0.0] * len(waiting)
    while waiting:
        taken, _ = plan(waiting, limit, engine.prices)
        pack, order = Pack.of(item.prompt for item in taken)
        for at, margin in zip(order, engine.score(pack), strict=True):
            margins[taken[at].index] = margin
        gone = {item.index for item in taken}
        waiting = [item for item in waiting if item.index not in gone]
    return margins


def prompts_of(engine: Any, requests: Sequence[dict[str, Any]]) -> list[Prompt]:
    """The prompts of all pairs, in order."""
    parsed = [PromptRequest.of(r["query"], r["documents"]) for r in requests]
    encoded = engine.prompter.encode_all(parsed, max_length=8192)
    return [p for prompts in encoded for p in prompts if isinstance(p, Prompt)]


def useful_flops(shape: Shape, prompts: Sequence[Prompt]) -> float:
    """FLOPs of each query (once) and each document, without cached parts; the last layer counts
    only at the last position."""
    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kv = 4 * shape.hidden * kv_width
    rest = 4 * shape.hidden * width + 6 * shape.hidden * shape.intermediate
    full = shape.layers - 1

    def part(length: int, before: int) -> float:
        keys_seen = length * (before + (length + 1) / 2)
        return length * (full * (kv + rest) + kv) + full * 4 * width * keys_seen

    total, previous = 0.0, None
    for p in prompts:
        if p.query is not previous:
            total += part(len(p.query), len(p.prefix))
            previous = p.query
        last_row = rest + 4 * width * len(p)
        total += part(len(p.document), len(p.prefix) + len(p.query)) + last_row
    return total


def matmul_flops_per_s(shape: Shape, decoder: Any) -> float:
    """The rate of one layer's four matrix products, each at the best of several runs."""
    import torch

    width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = (
        (shape.hidden, width + 2 * kv_width),
        (width, shape.hidden),
        (shape.hidden, 2 * shape.intermediate),
        (shape.intermediate, shape.hidden),
    )
    seconds = 0.0
    for inputs, outputs in sizes:
        x = torch.randn(YARDSTICK_ROWS, inputs).to(decoder.device, decoder.dtype)
        w = torch.randn(outputs, inputs).to(decoder.device, decoder.dtype)
        out = x.new_empty(YARDSTICK_ROWS, outputs)
        seconds += _best(lambda x=x, w=w, out=out: torch.mm(x, w.t(), out=out), decoder.device)
    return sum(2.0 * YARDSTICK_ROWS * i * o for i, o in sizes) / seconds


def _best(run: Callable[[], Any], device: Any, times: int = 10) -> float:
    import torch

    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _peak_bytes(device: Any) -> int:
    import torch

    return torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_rss_bytes()


# ---- the run ------------------------------------------------------------------------------------


def measure(
    work: Work,
    setting: Setting,
    options: Options,
    shape: Shape,
    peers: Sequence[str],
    rounds: int,
) -> dict[str, Any]:
    """All sides on one shape of work; the best of the rounds."""
    requests, tokens = make_requests(work, setting.model)
    pairs = work.queries * work.documents
    engine: dict[str, Any] = {}
    best: dict[str, Any] = {}
    limits: dict[int, float] = {}
    rate = 0.0
    for _ in range(rounds):
        engine = in_own_process(run_engine, requests, setting, options, shape)
        rate = max(rate, engine["matmul_flops_per_s"])
        for limit, seconds in engine["seconds"].items():
            limits[limit] = min(seconds, limits.get(limit, seconds))
        for peer in peers:
            run = in_own_process(PEERS[peer], requests, setting)
            if peer not in best or run.seconds < best[peer].seconds:
                best[peer] = run
    fastest = min(limits, key=limits.__getitem__)
    ours_s, flops_per_s = limits[fastest], engine["useful_flops"] / limits[fastest]
    differences = [
        abs(a - b)
        for run in best.values()
        for a, b in zip(engine["margins"], run.margins, strict=True)
    ]
    return {
        "work": work.name,
        "pairs": pairs,
        "mean_document_tokens": round(tokens, 1),
        "pack_tokens": fastest,
        "pairs_per_s": round(pairs / ours_s, 2),
        "pairs_per_s_by_limit": {limit: round(pairs / s, 2) for limit, s in limits.items()},
        "useful_gflops_per_s": round(flops_per_s / 1e9, 1),
        "matmul_gflops_per_s": round(rate / 1e9, 1),
        "share_of_matmul": round(flops_per_s / rate, 3),
        "peak_mb": round(engine["peak_bytes"] / 1e6),
        "attention": engine["attention"],
        "device": engine["device"],
        "peers": {
            peer: {
                "pairs_per_s": round(pairs / run.seconds, 2),
                "engine_is_times": round(run.seconds / ours_s, 2),
                "peak_mb": round(run.peak_rss_bytes / 1e6),
            }
            for peer, run in best.items()
        },
        "largest_difference": max(differences, default=None),
    }


def show(result: dict[str, Any]) -> None:
    """Print a table of one shape of work."""
    print(f"\n{result['work']}: {result['pairs']} pairs of {result['mean_document_tokens']} tokens")
    print(
        f"  engine {result['pairs_per_s']:9.2f} pairs/s  {result['peak_mb']:6} MB  "
        f"share of matmul {result['share_of_matmul']:.2f}  packs of {result['pack_tokens']} tokens"
    )
    for peer, figures in result["peers"].items():
        print(
            f"  {peer:6} {figures['pairs_per_s']:9.2f} pairs/s  {figures['peak_mb']:6} MB  "
            f"the engine is {figures['engine_is_times']:.2f} ×"
        )
    print(f"  pairs/s by pack limit: {result['pairs_per_s_by_limit']}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--threads", type=int, default=cpu_count())
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--limits", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--peers", default="st,card", help="comma-separated; empty for none")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--queries", type=int, default=2)
    parser.add_argument("--documents", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="a tiny model, few pairs")
    return parser.parse_args()


def main() -> None:
    """Build a model, measure, print."""
    args = arguments()
    shape = SHAPES["tiny" if args.quick else args.shape]
    queries, documents = (1, 10) if args.quick else (args.queries, args.documents)
    works = [
        Work("many documents", queries, documents, 85),
        Work("one document", max(1, queries * documents // 2), 1, 85),
        Work("long documents", queries, max(1, documents // 5), 1500),
    ]
    options = Options(args.attention, tuple(args.limits), args.deterministic)
    peers = [peer for peer in args.peers.split(",") if peer]
    results = []
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        build_model(Path(folder), shape)
        # sentence-transformers decides by the saved template how it reads pairs
        (Path(folder) / "chat_template.jinja").write_text(chat_template())
        setting = Setting(folder, args.device, args.dtype, args.threads)
        for work in works:
            rounds = 1 if args.quick else args.rounds
            results.append(measure(work, setting, options, shape, peers, rounds))
            show(results[-1])
    figures = {
        "benchmark": "engine",
        "shape": asdict(shape),
        **asdict(replace(setting, model="random")),
        "deterministic": args.deterministic,
        **surroundings(),
        "results": results,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
