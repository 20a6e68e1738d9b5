"""The three simple policies: `thresholds`, `aimd` and `fixed`. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.memory import ceiling
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import Latencies, PolicyState
from rerankfleet.workers.batch_limits.traffic import starved, target, unchanged

#: The policy `aimd`: tokens added each time, and the share that a late pack leaves.
AIMD_STEP_TOKENS = 128
AIMD_DECREASE = 0.8


def thresholds(
    settings: PolicySettings, state: PolicyState, packs: Sequence[Observation], now_s: float
) -> PolicyState:
    """The published rule: by the mean latency of the packs since the last change, in pairs."""
    current = [pack for pack in packs if not pack.oom and pack.limit_pairs <= state.pairs]
    every = state.every.plus(current)
    full = state.full.plus([pack for pack in current if pack.limited_by == "limit"])
    high_ms, low_ms = settings.latency_high_ms, settings.latency_low_ms
    average = f"{every.mean_ms:,.0f} ms on average over {every.packs:,} packs"
    pairs, reason = state.pairs, f"steady: {average}"
    if every.mean_ms > high_ms:
        pairs, reason = pairs // 2, f"latency: {average}, more than {high_ms:,.0f} ms: half"
    elif full.packs and full.mean_ms < low_ms:
        pairs = pairs * 2
        reason = (
            f"latency: {full.mean_ms:,.0f} ms on average over {full.packs:,} full packs, "
            f"less than {low_ms:,.0f} ms: twice"
        )
    elif starved(packs):
        reason = unchanged(state)
    most_tokens, memory_reason = ceiling(state, now_s)
    tokens = min(settings.tokens_max, most_tokens)
    changed = state.with_limit(settings, tokens, pairs, reason)
    if changed.pairs != state.pairs:
        every = full = Latencies()
    elif pairs != state.pairs:
        reason = f"bound: {state.pairs} pairs, {average}"
    if changed.pairs == state.pairs and most_tokens < settings.tokens_max:
        reason = memory_reason
    return changed.model_copy(update={"every": every, "full": full, "reason": reason})


def aimd(
    settings: PolicySettings, state: PolicyState, packs: Sequence[Observation], now_s: float
) -> PolicyState:
    """Additive increase, multiplicative decrease, by the slowest pack since the last decision."""
    current = [pack for pack in packs if not pack.oom and pack.limit_tokens <= state.tokens]
    slowest_s = max((pack.forward_s for pack in current), default=0.0)
    target_s, remark = target(settings, state, now_s)
    tokens: float = state.tokens
    if slowest_s > target_s:
        tokens *= AIMD_DECREASE
        reason = f"latency: a pack took {slowest_s:.2f} s, target {target_s:.2f} s{remark}"
    elif not current or starved(current):
        reason = unchanged(state)
    else:
        tokens += AIMD_STEP_TOKENS
        reason = (
            f"increase: no pack took more than {slowest_s:.2f} s, target {target_s:.2f} s{remark}"
        )
    most_tokens, memory_reason = ceiling(state, now_s)
    if most_tokens < tokens:
        tokens, reason = most_tokens, memory_reason
    return state.with_limit(settings, tokens, settings.pairs_max, reason)


def fixed(
    settings: PolicySettings, state: PolicyState, packs: Sequence[Observation], now_s: float
) -> PolicyState:
    """The limit of the start, but below the ceiling."""
    tokens, reason = ceiling(state, now_s)
    if tokens >= state.first_tokens:
        tokens, reason = state.first_tokens, "set"
    return state.with_limit(settings, tokens, state.first_pairs, reason)
