"""Compare batch-size policies on simulated devices, without a model or Redis.

    python benchmarks/controller.py             100 devices; a few minutes on one core
    python benchmarks/controller.py --quick     three devices: a smoke test
    python benchmarks/controller.py --tuning    the devices on which constants were chosen
    python benchmarks/controller.py --silent    no device reports its memory
    python benchmarks/controller.py --quick --plot docs/adaptive-batches.png

A device is drawn from its seed: overhead and rate, noise with rare slow packs, a memory too small
for larger packs, lengths of pairs, an occasionally empty queue, a wrong or missing self-test. It
reports its memory, but not how much of it is lost to fragmentation. A pack takes pairs off the
queue up to the limit; one that does not fit is scored in halves. A policy decides every 2 s of the
device's time. After 150 decisions the device becomes twice as slow, after 200 as fast as before.
Each policy starts at the worst limit: 64 tokens, or four pairs.

The baseline is `fixed` at the best of all fixed limits, computed with full knowledge of the device:
the highest throughput whose p95 meets the latency target and that never runs out of memory. The
best limit differs while the device is slow, which `fixed` cannot know: its recovery is not shown.

    settled      decisions until within 5 % of the best throughput, with a p95 of at most 1.05 × the
                 target, five in a row; all of the phase (150) when never
    late         packs over the latency target, decisions 40 to 150
    oom          times out of memory, in the whole run
    oscillation  mean relative change of the limit from decision to decision, decisions 40 to 150
    recovered    as settled, after the slow-down; all of that phase (50) when never
    throughput   of the limits over the best one's, decisions 40 to 150

Constants were chosen on seeds 0 to 1,999 (--tuning takes those from 1,000 on); the figures are of
seeds 2,000 and up.
Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random
from statistics import NormalDist, fmean
from typing import Any

from common import surroundings
from rich.console import Console
from rich.table import Table

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.policies import decide, start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

POLICIES = ("model", "thresholds", "aimd", "fixed")
DECISION_S = 2.0
#: Decisions at full speed, then at half speed, then at full speed again.
PHASES = (150, 50, 50)
SLOW = (1.0, 2.0, 1.0)
SETTLED_BY = 40
IN_A_ROW = 5
TARGET_S = 1.0
TOKENS_MIN, TOKENS_MAX = 64, 131_072
LENGTHS = 20_000
MODEL_BYTES, PACK_BYTES = 2_000_000_000, 8_000_000_000
TUNING_SEED, SEED = 1000, 2000
ROUGHLY = 0.05
COLUMNS: dict[str, Callable[[float], str]] = {
    "settled": "{:.0f}".format,
    "late": "{:.1%}".format,
    "oom": "{:.2g}".format,
    "oscillation": "{:.2%}".format,
    "recovered": "{:.0f}".format,
    "throughput": "{:.3f}".format,
}
COLOURS = {"model": "C0", "thresholds": "C1", "aimd": "C2", "fixed": "C7"}


@dataclass(frozen=True, slots=True)
class Device:
    """Parameters of a simulated device, in seconds, tokens and shares."""

    seed: int
    overhead_s: float
    s_per_token: float
    noise: float
    slow_share: float
    memory_tokens: float
    starved_share: float
    median_length: float
    length_spread: float
    rates: tuple[float, float] | None
    fragments: float | None
    """Share of the reported memory that packs cannot use; None: it reports no memory."""

    @classmethod
    def drawn(cls, seed: int) -> Device:
        """The device of a seed."""
        rng = Random(seed)
        rate = _log_uniform(rng, 1e-5, 1e-3)
        overhead_s = min(rate * _log_uniform(rng, 20, 1000), 0.15 * TARGET_S)
        rates = (
            overhead_s * rng.lognormvariate(0, 0.5),
            rate * rng.lognormvariate(0, 0.5),
        )
        return cls(
            seed=seed,
            overhead_s=overhead_s,
            s_per_token=rate,
            noise=rng.uniform(0.02, 0.1),
            slow_share=rng.uniform(0.002, 0.015),
            memory_tokens=TARGET_S / rate * _log_uniform(rng, 0.3, 10),
            starved_share=rng.choice([0.0, rng.uniform(0, 0.1)]),
            median_length=rng.uniform(60, 400),
            length_spread=rng.uniform(0.4, 0.9),
            rates=rng.choice([rates, None]),
            fragments=rng.uniform(0, 0.1),
        )

    def seconds(self, cost: float, slow: float) -> float:
        """Of a pack without noise."""
        return slow * (self.overhead_s + self.s_per_token * cost)

    def drawn_noise(self, rng: Random) -> float:
        """Random factor of the time of a pack."""
        spike = rng.uniform(2, 4) if rng.random() < self.slow_share else 1.0
        return rng.lognormvariate(0, self.noise) * spike

    def late_share(self, seconds: float, target_s: float) -> float:
        """Probability that a pack exceeds the target, from its seconds without noise."""

        def over(factor: float) -> float:
            return 1 - NormalDist().cdf(math.log(target_s / seconds / factor) / self.noise)

        spiked = fmean(over(factor) for factor in (2.2, 2.6, 3.0, 3.4, 3.8))
        return (1 - self.slow_share) * over(1.0) + self.slow_share * spiked

    def told_bytes(self) -> int:
        """The memory that it reports; 0 when it reports none."""
        if self.fragments is None:
            return 0
        return int((MODEL_BYTES + PACK_BYTES) / (1 - self.fragments))

    def longest(self) -> float:
        """The longest pair: alone it meets the target even on the slow device."""
        within = TARGET_S / max(SLOW) / 2 - self.overhead_s
        return min(within / self.s_per_token, self.memory_tokens / 2, 4096)


def _log_uniform(rng: Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


class Queue:
    """Pairs of random lengths, taken in order until one does not fit."""

    def __init__(self, device: Device, rng: Random) -> None:
        longest = device.longest()
        mu, sigma = math.log(min(device.median_length, longest / 4)), device.length_spread
        lengths = (min(max(rng.lognormvariate(mu, sigma), 8.0), longest) for _ in range(LENGTHS))
        self._before = list(accumulate(lengths, initial=0.0))
        self._at = 0

    def take(self, tokens: float, pairs: int) -> list[float]:
        """The lengths of the pairs of the next pack, at least one."""
        before, at = self._before, self._at
        end = bisect_right(before, before[at] + tokens, at) - 1
        end = min(max(end, at + 1), at + pairs, LENGTHS)
        self._at = end if end < LENGTHS else 0
        return [before[i + 1] - before[i] for i in range(at, end)]


class Worker:
    """A device with its queue: scores packs, obeys a limit, halves what does not fit."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.clock_s = 0.0
        self.packs: list[Observation] = []
        self._rng = Random(f"worker {device.seed}")
        self._queue = Queue(device, self._rng)
        self._ceiling = math.inf

    def work(self, until_s: float, state: PolicyState, slow: float) -> list[Observation]:
        """Score packs under a limit until a time."""
        self.packs = []
        while self.clock_s < until_s:
            tokens = min(state.tokens, self._ceiling)
            starved = self._rng.random() < self.device.starved_share
            budget = tokens * self._rng.random() if starved else tokens
            lengths = self._queue.take(budget, state.pairs)
            self._score(lengths, "empty" if starved else "limit", state, slow)
        return self.packs

    def _score(self, lengths: Sequence[float], ended: str, state: PolicyState, slow: float) -> None:
        device, cost = self.device, sum(lengths)
        oom = cost > device.memory_tokens
        seconds = device.seconds(cost, slow) * device.drawn_noise(self._rng)
        if oom:
            seconds *= self._rng.random()
        self.clock_s += seconds
        self.packs.append(self._observed(lengths, seconds, ended, state, oom))
        if not oom:
            if cost > self._ceiling / 2:
                self._ceiling *= 1 + 1 / 64
            return
        self._ceiling = min(self._ceiling, cost / 2)
        middle = len(lengths) // 2
        for half in (lengths[:middle], lengths[middle:]):
            self._score(half, "limit", state, slow)

    def _observed(
        self, lengths: Sequence[float], seconds: float, ended: str, state: PolicyState, oom: bool
    ) -> Observation:
        cost, full = sum(lengths), self.device.memory_tokens
        share = self._rng.uniform(0.85, 1.0) if oom else cost / full * self._rng.uniform(0.98, 1)
        return Observation(
            at_s=self.clock_s,
            pairs=len(lengths),
            text_tokens=int(cost),
            image_tokens=0,
            shared_tokens=0,
            cost=cost,
            waiting_s=0.0,
            preparing_s=0.0,
            forward_s=seconds,
            memory_bytes=int(MODEL_BYTES + PACK_BYTES * share),
            limited_by=ended,
            oom=oom,
            limit_tokens=state.tokens,
            limit_pairs=state.pairs,
        )


# ---- full knowledge ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Quality:
    """The expected throughput and latency of a limit."""

    cost: float
    """Of a pack."""
    tokens_per_s: float
    late: float
    """Share of packs over the target."""
    very_late: float
    """Share over 1.05 × the target."""


@lru_cache(maxsize=100_000)
def quality(device: Device, tokens: int, pairs: int, slow: float) -> Quality:
    """The quality of a fixed limit, without noise, over packs of the device's lengths."""
    queue = _queue(device)
    costs = [sum(queue.take(tokens, pairs)) for _ in range(60)]
    seconds = [device.seconds(cost, slow) for cost in costs]
    return Quality(
        fmean(costs),
        sum(costs) / sum(seconds),
        fmean(device.late_share(each, TARGET_S) for each in seconds),
        fmean(device.late_share(each, TARGET_S * (1 + ROUGHLY)) for each in seconds),
    )


@lru_cache(maxsize=1)
def _queue(device: Device) -> Queue:
    return Queue(device, Random(f"yardstick {device.seed}"))


@lru_cache(maxsize=1000)
def best(device: Device, slow: float) -> int:
    """The best of all fixed limits, in tokens."""
    steps = int(8 * math.log2(TOKENS_MAX / TOKENS_MIN))
    limits = [int(TOKENS_MIN * 2 ** (step / 8)) for step in range(steps + 1)]
    fitting = [limit for limit in limits if limit <= device.memory_tokens] or limits[:1]
    qualities = {limit: quality(device, limit, 1 << 20, slow) for limit in fitting}
    meeting = [limit for limit in fitting if qualities[limit].late <= ROUGHLY] or fitting[:1]
    return max(meeting, key=lambda limit: qualities[limit].tokens_per_s)


# ---- one run -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Decision:
    """One interval: its limit, the packs scored under it, and the quality of the limit."""

    slow: float
    tokens: int
    pairs: int
    packs: tuple[Observation, ...]
    worth: Quality
    throughput: float
    """Throughput of the limit, relative to the best limit."""
    reason: str

    @property
    def good(self) -> bool:
        """Within 5 % of the best throughput, and of the target."""
        return self.throughput >= 1 - ROUGHLY and self.worth.very_late <= ROUGHLY


def run(device: Device, policy: str) -> list[Decision]:
    """Run a policy on a device; all its decisions."""
    settings = PolicySettings.model_validate(
        {
            "policy": policy,
            "latency_target_ms": 1000 * TARGET_S,
            "tokens_min": TOKENS_MIN,
            "tokens_max": TOKENS_MAX,
            "pairs_max": 1 << 20,
            "memory_bytes_max": device.told_bytes(),
        }
    )
    tokens = best(device, 1.0) if policy == "fixed" else TOKENS_MIN
    state = start(settings, tokens, 4 if policy == "thresholds" else None, device.rates)
    worker, decisions = Worker(device), []
    for phase, slow in zip(PHASES, SLOW, strict=True):
        of_best = quality(device, best(device, slow), 1 << 20, slow).tokens_per_s
        for _ in range(phase):
            until_s = DECISION_S * (len(decisions) + 1)
            packs = worker.work(until_s, state, slow)
            worth = quality(device, state.tokens, state.pairs, slow)
            throughput = worth.tokens_per_s / of_best
            decisions.append(
                Decision(
                    slow, state.tokens, state.pairs, tuple(packs), worth, throughput, state.reason
                )
            )
            state = decide(settings, state, packs, until_s)
    return decisions


def judged(decisions: Sequence[Decision]) -> dict[str, float]:
    """The table's columns for one run."""
    first, slow = decisions[: PHASES[0]], decisions[PHASES[0] : sum(PHASES[:2])]
    steady = first[SETTLED_BY:]
    packs = [pack.forward_s > TARGET_S for decision in steady for pack in decision.packs]
    changes = [
        max(abs(now.tokens / last.tokens - 1), abs(now.pairs / last.pairs - 1))
        for last, now in pairwise(steady)
    ]
    return {
        "settled": _until_good(first),
        "late": fmean(packs) if packs else 0.0,
        "oom": sum(pack.oom for decision in decisions for pack in decision.packs),
        "oscillation": fmean(changes),
        "recovered": _until_good(slow),
        "throughput": fmean(decision.throughput for decision in steady),
    }


def _until_good(decisions: Sequence[Decision]) -> int:
    for first in range(len(decisions) - IN_A_ROW + 1):
        if all(decision.good for decision in decisions[first : first + IN_A_ROW]):
            return first
    return len(decisions)


# ---- all of them ---------------------------------------------------------------------------------


def compare(devices: Sequence[Device]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, 90th percentile and maximum of each column, for each policy."""
    runs: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
    for device in devices:
        for policy in POLICIES:
            runs[policy].append(judged(run(device, policy)))
    return {
        policy: {name: _summary([each[name] for each in by_scenario]) for name in COLUMNS}
        for policy, by_scenario in runs.items()
    }


def _summary(values: Sequence[float]) -> dict[str, float]:
    ranked = sorted(values)
    return {
        "mean": round(fmean(ranked), 5),
        "p90": round(ranked[int(0.9 * (len(ranked) - 1))], 5),
        "most": round(ranked[-1], 5),
        "least": round(ranked[0], 5),
    }


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print a row for each policy: the mean, with the 90th percentile and the maximum."""
    table = Table("policy", *COLUMNS, title="mean (90th percentile, most)")
    for policy, columns in results.items():
        cells = []
        for name, form in COLUMNS.items():
            if policy == "fixed" and name == "recovered":
                cells.append("–")
                continue
            mean, p90, most = (form(columns[name][part]) for part in ("mean", "p90", "most"))
            cells.append(f"{mean} ({p90}, {most})")
        table.add_row(policy, *cells)
    Console(width=150).print(table)


def draw_plot(device: Device, path: Path) -> None:
    """Draw the four traces on one device: the quality of each limit, without noise."""
    from matplotlib.figure import Figure

    figure = Figure((9, 7), layout="constrained")
    sizes, throughputs, late = panels = figure.subplots(3, 1, sharex=True)
    for policy in POLICIES:
        decisions = run(device, policy)
        style: dict[str, Any] = {"label": policy, "linewidth": 1.5, "color": COLOURS[policy]}
        sizes.plot([each.worth.cost for each in decisions], **style)
        throughputs.plot([each.throughput for each in decisions], **style)
        late.plot([each.worth.late for each in decisions], **style)
    sizes.set(yscale="log", ylabel="tokens of a pack")
    throughputs.set(ylim=(0, 1.3), ylabel="throughput / best within target")
    late.set(ylabel="packs over the target", xlabel="decisions, one every 2 s")
    late.axhline(ROUGHLY, color="black", linestyle=":", label="at most")
    for panel in panels:
        panel.axvspan(PHASES[0], sum(PHASES[:2]), color="black", alpha=0.07)
        panel.grid(alpha=0.3)
    sizes.set_title("the device is twice as slow in the grey part", fontsize="medium")
    late.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="three devices")
    parser.add_argument("--devices", type=int, default=100, help="number of devices (100)")
    parser.add_argument("--tuning", action="store_true", help="use the seeds for tuning")
    parser.add_argument("--silent", action="store_true", help="devices hide their memory's size")
    parser.add_argument("--plot", type=Path, help="draw the traces of one device to this PNG")
    parser.add_argument(
        "--plot-seed", type=int, default=8, help="seed of the device of the plot (8)"
    )
    options = parser.parse_args(arguments)
    before = surroundings()
    first, count = TUNING_SEED if options.tuning else SEED, 3 if options.quick else options.devices
    devices = [Device.drawn(seed) for seed in range(first, first + count)]
    devices = [replace(d, fragments=None) for d in devices] if options.silent else devices
    results = compare(devices)
    print_table(results)
    if options.plot:
        draw_plot(Device.drawn(options.plot_seed), options.plot)
    config = {"seeds": [first, first + count], "silent": options.silent, "decisions": sum(PHASES)}
    print(json.dumps({"benchmark": "controller", **before, "config": config, "policies": results}))


if __name__ == "__main__":
    main()
