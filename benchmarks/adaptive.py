"""Compare adaptive batch limits with the best fixed limit, with a real model and batcher.

    python benchmarks/adaptive.py             a random model on the CPU; about ten minutes
    python benchmarks/adaptive.py --quick     a tiny model and short runs: a smoke test
    python benchmarks/adaptive.py --images  the same for a catalog: new images, four queries each
    python benchmarks/adaptive.py --shape 0.6b --device cuda --dtype bf16 --tokens-max 131072

    fixed       limits from 64 tokens up, powers of two: before the policies and after each of them,
                since the speed of machines drifts; those far beyond the target only once
    model       the default policy, from a cold start at 64 tokens, knowing nothing of the device
    tested      the same, starting with the measurements of the self-test, as in a worker
    thresholds  the published rule, starting with its smallest packs

Each run has its own batcher over the same engine, which always has more pairs waiting than it can
score. A policy decides every 2 s, based on the packs since the last decision. "Best" is the
fixed limit with the highest throughput whose p95 meets the latency target, on the mean of its runs.
"Settled" is the second half of a policy's run. Throughput counts tokens of documents, so it shows
what sharing saves and what small packs cost.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from common import build_model, cpu_count, surroundings
from engine import SHAPES, prompts_of
from text import Work, in_own_process, make_requests
from vision import Work as Catalog
from vision import build_vl_model
from vision import requests_of as catalog_of

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.policies import decide, start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit, Pack
from rerankfleet.workers.prompting.prompts import Prompt

CATALOG = Catalog("catalog", queries=4, images=120, size=(256, 192))
#: Holds the features of a fifth of the images: a repeated image is no longer cached.
SEEN_BYTES = 10 << 20
TOKENS_MIN = 64
PAIRS_MAX = 1024
#: Pairs are submitted in runs of this size, and at most this many runs wait.
RUN_PAIRS = 256
WAITING_TOKENS = 200_000
#: A limit whose p95 is this many times the target is not measured again.
FAR_BEYOND = 1.5


@dataclass(frozen=True, slots=True)
class TimedPack:
    """A scored pack, and the tokens of its documents."""

    pack: Observation
    tokens: int


@dataclass(frozen=True, slots=True)
class Timing:
    """How long runs take, in seconds."""

    fixed_s: float
    policy_s: float
    tick_s: float


class Counting:
    """An engine that counts the tokens of the documents it scored last."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.prices = engine.prices
        self.tokens = 0

    def score(self, pack: Pack) -> list[float]:
        self.tokens = sum(map(len, pack.documents()))
        return self._engine.score(pack)

    def free(self) -> None:
        self._engine.free()


# ---- runs ---------------------------------------------------------------------------------------


def run(
    engine: Any,
    prompts: Sequence[Prompt],
    limit: Limit,
    seconds: float,
    steer: Callable[[Batcher, list[TimedPack]], None] = lambda batcher, packs: None,
    tick_s: float = 1.0,
) -> list[TimedPack]:
    """The packs of a batcher kept busy for some time; `steer` may set its limit at every tick."""
    engine.feature_cache.clear()  # or the images of the previous run would cost nothing
    counting, packs, stop = Counting(engine), list[TimedPack](), threading.Event()

    def on_pack(pack: Observation) -> None:
        packs.append(TimedPack(pack, counting.tokens))

    batcher = Batcher(counting, limit, waiting_tokens_max=WAITING_TOKENS, on_pack=on_pack)

    def feed() -> None:
        again = cycle(prompts)
        while not stop.is_set():
            batcher.submit([next(again) for _ in range(RUN_PAIRS)], stop=stop)

    feeder = threading.Thread(target=feed)
    feeder.start()
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(tick_s, left_s))
        steer(batcher, packs)
    stop.set()
    feeder.join()
    batcher.close(drain=False)
    return packs


def run_policy(
    engine: Any,
    prompts: Sequence[Prompt],
    settings: PolicySettings,
    timing: Timing,
    rates: tuple[float, float] | None,
) -> tuple[list[TimedPack], list[dict[str, Any]]]:
    """Run a policy from the worst limit: its packs, and its limits."""
    state = start(settings, TOKENS_MIN, settings.pairs_low, rates)
    if settings.policy != "thresholds":
        state = state.model_copy(update={"pairs": PAIRS_MAX})
    limits = [_summary(state, 0.0)]
    begin_s, read = time.monotonic(), 0

    def steer(batcher: Batcher, packs: list[TimedPack]) -> None:
        nonlocal state, read
        new = [each.pack for each in packs[read:]]
        read += len(new)
        state = decide(settings, state, new, time.time())
        batcher.limit = Limit(state.tokens, state.pairs)
        if state.changed:
            limits.append(_summary(state, time.monotonic() - begin_s))

    limit = Limit(state.tokens, state.pairs)
    return run(engine, prompts, limit, timing.policy_s, steer, timing.tick_s), limits


def _summary(state: PolicyState, at_s: float) -> dict[str, Any]:
    return {
        "at_s": round(at_s, 1),
        "tokens": state.tokens,
        "pairs": state.pairs,
        "reason": state.reason,
    }


# ---- figures ------------------------------------------------------------------------------------


def figures(packs: Sequence[TimedPack], target_s: float) -> dict[str, float]:
    """Throughput and latencies of packs; the first one only starts the clock."""
    first, rest = packs[0].pack, [each for each in packs[1:] if not each.pack.oom]
    if not rest:  # a single pack took all the time
        rest, since_s = list(packs), first.at_s - first.forward_s
    else:
        since_s = first.at_s
    seconds = rest[-1].pack.at_s - since_s
    latencies = sorted(each.pack.forward_s for each in rest)
    return {
        "tokens_per_s": round(sum(each.tokens for each in rest) / seconds, 1),
        "pairs_per_s": round(sum(each.pack.pairs for each in rest) / seconds, 2),
        "p95_s": round(latencies[math.ceil(0.95 * len(latencies)) - 1], 4),
        "late_share": round(sum(s > target_s for s in latencies) / len(latencies), 4),
        "device_share": round(sum(latencies) / seconds, 3),
        "packs": len(rest),
        "ooms": sum(each.pack.oom for each in packs),
    }


def mean_of(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure."""
    return {name: round(fmean(run[name] for run in runs), 4) for name in runs[0]}


def settled(packs: Sequence[TimedPack]) -> Sequence[TimedPack]:
    """The packs of the second half of the time."""
    middle_s = (packs[0].pack.at_s + packs[-1].pack.at_s) / 2
    return [each for each in packs if each.pack.at_s >= middle_s] or packs


def measure(engine: Any, prompts: Sequence[Prompt], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the fixed limits, then each policy followed by the fixed limits again."""
    timing: Timing = options.timing
    target_s = options.target_ms / 1000
    tested = engine.self_test()
    common = {
        "latency_target_ms": options.target_ms,
        "tokens_min": TOKENS_MIN,
        "tokens_max": options.tokens_max,
        "pairs_max": PAIRS_MAX,
    }
    sides = {
        "model": (PolicySettings(**common), None),
        "tested": (PolicySettings(**common), (tested.overhead_s, 1 / tested.tokens_per_s)),
        "thresholds": (PolicySettings(policy="thresholds", **common), None),
    }
    runs: dict[int, list[dict[str, float]]] = {
        1 << n: [] for n in range(6, options.tokens_max.bit_length())
    }

    def sweep() -> None:
        for tokens, earlier in runs.items():
            if not any(figure["p95_s"] > FAR_BEYOND * target_s for figure in earlier):
                packs = run(engine, prompts, Limit(tokens, PAIRS_MAX), timing.fixed_s)
                earlier.append(figures(packs, target_s))

    sweep()
    policies = {}
    for name, (settings, rates) in sides.items():
        packs, limits = run_policy(engine, prompts, settings, timing, rates)
        overall, late = figures(packs, target_s), figures(settled(packs), target_s)
        policies[name] = {"overall": overall, "settled": late, "limits": limits}
        sweep()
    fixed = [{"limit_tokens": tokens, **mean_of(run)} for tokens, run in runs.items()]
    allowed = [one for one in fixed if one["p95_s"] <= target_s] or fixed[:1]
    best = max(allowed, key=lambda one: one["tokens_per_s"])
    for policy in policies.values():
        for part in ("overall", "settled"):
            ratio = policy[part]["tokens_per_s"] / best["tokens_per_s"]
            policy[part]["of_best"] = round(ratio, 4)
    return {"fixed": fixed, "best_limit_tokens": best["limit_tokens"], "policies": policies}


def table(results: dict[str, Any], target_s: float) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("limit")
    for name in ("tokens/s", "pairs/s", "of best", "p95 ms", "late", "packs", "limits"):
        shown.add_column(name, justify="right")

    def row(name: str, figures: dict[str, float], limits: str = "") -> None:
        of_best = figures.get("of_best")
        shown.add_row(
            name,
            f"{figures['tokens_per_s']:,.0f}",
            f"{figures['pairs_per_s']:,.1f}",
            f"{of_best:.3f}" if of_best is not None else "",
            f"{figures['p95_s'] * 1000:,.0f}",
            f"{figures['late_share']:.1%}",
            f"{figures['packs']:,.0f}",
            limits,
        )

    for fixed in results["fixed"]:
        is_best = fixed["limit_tokens"] == results["best_limit_tokens"]
        row(f"{fixed['limit_tokens']:,}{' (best)' if is_best else ''}", fixed)
    shown.add_section()
    for name, policy in results["policies"].items():
        last = policy["limits"][-1]
        tokens, pairs = last["tokens"], last["pairs"]
        summary = f"{len(policy['limits'])}, last {tokens:,} tokens, {pairs:,} pairs"
        row(f"{name}, settled", policy["settled"], summary)
        row(f"{name}, whole run", policy["overall"])
    Console(width=110, highlight=False).print(shown)
    for name, policy in results["policies"].items():
        print(f"{name}: {policy['limits'][-1]['reason']}")
    print(f"latency target {target_s * 1000:,.0f} ms at p95")


# ---- the run ------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and short runs")
    parser.add_argument("--images", action="store_true", help="a random VL model, a catalog")
    parser.add_argument("--shape", choices=SHAPES, help="of the random model (small)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=cpu_count(), help="CPU threads (all)")
    parser.add_argument("--target-ms", type=float, default=1000.0, help="latency target (1000)")
    parser.add_argument("--tokens-max", type=int, help="largest limit (16,384)")
    parser.add_argument("--seconds", type=float, help="of a run of a fixed limit (8)")
    parser.add_argument("--policy-seconds", type=float, help="of a run of a policy (80)")
    options = parser.parse_args(arguments)
    options.shape = options.shape or ("tiny" if options.quick else "small")
    options.tokens_max = options.tokens_max or (512 if options.quick else 16_384)
    options.timing = Timing(
        options.seconds or (0.3 if options.quick else 8.0),
        options.policy_seconds or (1.5 if options.quick else 80.0),
        0.1 if options.quick else 2.0,
    )
    return options


def texts(folder: str, options: argparse.Namespace) -> tuple[Any, list[Prompt]]:
    """A random model, and the pairs of queries with 50 documents each."""
    in_own_process(build_model, Path(folder), SHAPES[options.shape])
    requests, _ = make_requests(Work("many documents", 4 if options.quick else 40, 50, 85), folder)
    engine = load(folder, options)
    return engine, prompts_of(engine, requests)


def images(folder: str, options: argparse.Namespace) -> tuple[Any, list[Prompt]]:
    """A random VL model, and the pairs of a catalog image by image, as in a job."""
    in_own_process(build_vl_model, Path(folder), options.quick)
    engine = load(folder, options, seen_bytes=SEEN_BYTES)
    catalog = replace(CATALOG, images=4) if options.quick else CATALOG
    encoded = engine.prompter.encode_all(catalog_of(catalog), max_length=8192)
    return engine, [p for of_image in zip(*encoded, strict=True) for p in of_image]


def load(folder: str, settings: argparse.Namespace, **options: Any) -> Any:
    from rerankfleet.workers.engine import load_engine

    where = {"device": settings.device, "dtype": settings.dtype, "threads": settings.threads}
    return load_engine(folder, **where, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    before = surroundings()
    with tempfile.TemporaryDirectory(prefix="rerank-bench-model-") as folder:
        engine, prompts = (images if options.images else texts)(folder, options)
        results = measure(engine, prompts, options)
    table(results, options.target_ms / 1000)
    config = {
        "model": "random VL" if options.images else {"random": asdict(SHAPES[options.shape])},
        "pairs": len(prompts),
        "dtype": options.dtype,
        "threads": options.threads,
        "latency_target_ms": options.target_ms,
        "mean_document_tokens": round(fmean(len(prompt.document) for prompt in prompts), 1),
        "timing": asdict(options.timing),
        "quick": options.quick,
    }
    load = {"load_average_after": surroundings()["load_average"]}
    header = {"benchmark": "adaptive", "device": engine.device_name, **before, **load}
    print(json.dumps({**header, "config": config, **results}))


if __name__ == "__main__":
    main()
