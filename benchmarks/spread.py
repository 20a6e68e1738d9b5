"""How much does a pair's margin depend on the other pairs of its pack, by number type?

    python benchmarks/spread.py                                  fp32 and bf16 on the CPU
    python benchmarks/spread.py --device cuda --dtypes bf16 fp16 --model Qwen/Qwen3-Reranker-0.6B
    python benchmarks/spread.py --quick                          a tiny model: a smoke test

Each pair is scored alone and in packs of several sizes, in shuffled order. Its spread is its
largest margin less its smallest; the table also shows how far margins are from those of fp32 alone,
and how often a query's best document changes.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import MEASURED, TINY, build_model, surroundings
from engine import score_all
from text import Work, in_own_process, make_requests

from rerankfleet.workers.batching.packing import Limit

PACKS = (256, 1024, 4096)
QUERIES, DOCUMENTS = 5, 10


def margins_by_packing(
    folder: str, requests: list[dict[str, Any]], dtype: str, device: str
) -> list[list[float]]:
    """Margins [packings][pairs]: alone, then in packs of each size."""
    from rerankfleet.workers.engine import load_engine

    engine = load_engine(folder, dtype=dtype, device=device)
    rng = random.Random(1)
    margins = [score_all(engine, requests, Limit(1))]
    for tokens in PACKS:
        order = rng.sample(range(len(requests)), len(requests))
        scored = iter(score_all(engine, [requests[i] for i in order], Limit(tokens)))
        by_request = {i: [next(scored) for _ in requests[i]["documents"]] for i in order}
        margins.append([m for i in range(len(requests)) for m in by_request[i]])
    return margins


def describe(margins: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Figures of [packings, pairs] margins, compared with those of fp32 alone."""
    spread = margins.max(0) - margins.min(0)
    best = margins.reshape(len(margins), -1, DOCUMENTS).argmax(-1)
    return {
        "spread_max": round(float(spread.max()), 6),
        "spread_mean": round(float(spread.mean()), 6),
        "from_fp32_max": round(float(np.abs(margins - exact).max()), 6),
        "from_fp32_mean": round(float(np.abs(margins - exact).mean()), 6),
        "best_document_changes": round(float((best != best[0]).any(0).mean()), 3),
        "margins_from": round(float(exact.min()), 3),
        "margins_to": round(float(exact.max()), 3),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a model folder or hub name; a random model by default")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args(arguments)
    before = surroundings()
    with tempfile.TemporaryDirectory(prefix="rerank-bench-") as folder:
        model = options.model or folder
        if not options.model:
            in_own_process(build_model, Path(folder), TINY if options.quick else MEASURED)
        requests, _ = make_requests(Work("spread", QUERIES, DOCUMENTS, 85), model)
        exact, results = None, {}
        for dtype in dict.fromkeys(["fp32", *options.dtypes]):
            run = in_own_process(margins_by_packing, model, requests, dtype, options.device)
            margins = np.array(run)
            exact = margins[0] if exact is None else exact
            if dtype in options.dtypes:
                results[dtype] = describe(margins, exact)
    for dtype, figures in results.items():
        print(f"{dtype}: " + "  ".join(f"{name} {value:g}" for name, value in figures.items()))
    header = {"benchmark": "spread", "device": options.device, **before}
    print(json.dumps({**header, "dtypes": results}))


if __name__ == "__main__":
    main()
