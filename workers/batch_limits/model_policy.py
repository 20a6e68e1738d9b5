"""The policy `model`: the device's latency is fitted, and the limit follows from the fit. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.latency import Fit
from rerankfleet.workers.batch_limits.memory import ceiling, within_memory
from rerankfleet.workers.batch_limits.rules import fixed
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState
from rerankfleet.workers.batch_limits.traffic import starved, target, unchanged

#: Larger packs that raise throughput by less than this are not worth their latency and memory.
GAIN = 0.02
#: A limit is at most this many times the largest pack that is known to work.
GROWTH = 2.0
#: Half the limit is tried when the fit's relative deviation at that size is larger than this.
DOUBT = 0.1
#: Smaller relative differences leave a limit as it is: when packs are late, when larger ones would
#: gain little throughput, and in all other cases.
LATE_TOLERANCE = 0.05
GAIN_TOLERANCE = 0.25
TOLERANCE = 0.1


def model(
    settings: PolicySettings, state: PolicyState, packs: Sequence[Observation], now_s: float
) -> PolicyState:
    """As large as the latency target, the gain in throughput and the memory make sensible."""
    times = [(pack.cost, pack.forward_s) for pack in packs if not pack.oom]
    fit = state.fit or (Fit.of_first(times[0]) if times else None)
    if fit is None:  # the very first packs ran out of memory
        return fixed(settings, state, packs, now_s)
    fit = fit.learn(times)
    state = state.model_copy(update={"fit": fit})
    tokens, reason = _best(settings, state, fit, _tried(state, packs), now_s)
    if tokens > state.tokens and starved(packs):
        tokens, reason = state.tokens, unchanged(state)
    elif _near(tokens, state.tokens, reason):
        tokens = min(state.tokens, ceiling(state, now_s)[0])
    if reason.startswith("latency"):
        p95_s, (target_s, remark) = fit.p95_s(tokens), target(settings, state, now_s)
        reason = (
            f"latency: a pack of {tokens:,.0f} tokens takes {p95_s:.2f} s at p95, "
            f"target {target_s:.2f} s{remark}"
        )
    return state.with_limit(settings, tokens, settings.pairs_max, reason)


def _tried(state: PolicyState, packs: Sequence[Observation]) -> float:
    """The largest cost known to work: that of a pack, or the limit that ended one. The limit counts
    as twice the largest pack at most: the next pair may just not have fitted."""
    largest = state.largest.cost if state.largest else float(state.tokens)
    ended = [
        min(pack.limit_tokens, GROWTH * largest)
        for pack in packs
        if pack.limited_by == "limit" and not pack.oom and pack.pairs != pack.limit_pairs
    ]
    return max([largest, *ended])


def _best(
    settings: PolicySettings, state: PolicyState, fit: Fit, tried: float, now_s: float
) -> tuple[float, str]:
    """The limit by the fit, and why it is no larger."""
    target_s, _ = target(settings, state, now_s)
    gaining = fit.cost_gaining(GAIN)
    growing = max(GROWTH * tried, state.tokens)
    bounds = [
        (_cost_in_time(settings, fit, target_s), "latency"),
        (
            gaining,
            f"throughput: more than {gaining:,.0f} tokens gains less than {100 * GAIN:.0f} %",
        ),
        ceiling(state, now_s),
        within_memory(settings, state),
        (growing, f"probing: no pack above {tried:,.0f} tokens was tried yet"),
        (settings.tokens_max, f"bound: {settings.tokens_max:,} tokens is the most allowed"),
    ]
    tokens, reason = min(bounds, key=lambda bound: bound[0])
    tokens = max(tokens, settings.tokens_min)
    half = tokens / 2
    if tokens <= tried and half >= settings.tokens_min and fit.doubtful(half, DOUBT):
        low, high = min(fit.costs), max(fit.costs)
        alike = f"probing: packs of {low:,.0f} to {high:,.0f} tokens are too alike"
        return half, f"{alike} to tell overhead from rate"
    return tokens, reason


def _cost_in_time(settings: PolicySettings, fit: Fit, target_s: float) -> float:
    """The largest cost whose p95 meets the target. Where the overhead alone exceeds it, the cost
    that takes twice the overhead: smaller packs would be late all the same."""
    cost = fit.cost_within(target_s)
    return cost if cost >= settings.tokens_min else fit.overhead_s / fit.s_per_token


def _near(tokens: float, now: int, reason: str) -> bool:
    """Whether the change is too small to be worth making."""
    if reason.startswith("throughput"):
        return abs(tokens / now - 1) <= GAIN_TOLERANCE
    lower = LATE_TOLERANCE if reason.startswith("latency") else TOLERANCE
    return now * (1 - lower) <= tokens <= now * (1 + TOLERANCE)
