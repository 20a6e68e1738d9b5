"""How large a pack the device's memory allows, learned from packs that fitted and from those that
did not. Pure.

Below a pack that ran out of memory there is a ceiling, which rises again after a while: memory may
have been short because of a neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import CEILING_MAX_S, Ceiling, PackMemory, PolicyState
from rerankfleet.workers.batch_limits.traffic import clock

#: After out-of-memory nothing larger is tried for this long, doubled each time that it happens
#: again; then the ceiling rises, doubling in the same time.
CEILING_S = 600.0
#: A size whose memory was only extrapolated, not observed, is trusted to this share.
COMPUTED_SHARE = 0.95
#: The share of a device's memory to plan with; the rest is for fragmentation and other processes.
MEMORY_SHARE = 0.85


def learn_memory(
    state: PolicyState, observations: Sequence[Observation], now_s: float
) -> PolicyState:
    """The smallest and largest packs that fitted, and a lower ceiling when one did not."""
    fitted = [
        PackMemory(cost=p.cost, memory_bytes=p.memory_bytes) for p in observations if not p.oom
    ]
    if fitted:
        known = [pack for pack in (state.smallest, state.largest) if pack] + fitted
        update = {
            "smallest": min(known, key=lambda pack: pack.cost),
            "largest": max(known, key=lambda pack: pack.cost),
        }
        state = state.model_copy(update=update)
    failed = [pack for pack in observations if pack.oom]
    if failed:
        state = _lower_ceiling(state, min(failed, key=lambda pack: pack.cost), now_s)
    return state


def _lower_ceiling(state: PolicyState, failed: Observation, now_s: float) -> PolicyState:
    """A ceiling below the failed pack: the largest size that fitted, or should fit.

    A pack above the present ceiling (planned before it, or a single pair too large for it) tells
    nothing new.
    """
    if state.ceiling and failed.cost >= state.ceiling.at(now_s):
        return state
    proven = state.largest
    if proven is None or proven.cost >= failed.cost:  # it fitted once, and does not any more
        proven = PackMemory(cost=failed.cost / 2, memory_bytes=0)
        state = state.model_copy(update={"largest": proven})
    computed = min(_cost_filling(state, failed.memory_bytes) or 0.0, failed.cost)
    tokens = max(proven.cost, COMPUTED_SHARE * computed)
    holds_s = CEILING_S
    if state.ceiling:
        holds_s = min(2 * state.ceiling.holds_s, CEILING_MAX_S)
    ceiling = Ceiling(oom_tokens=failed.cost, tokens=tokens, at_s=now_s, holds_s=holds_s)
    return state.model_copy(update={"ceiling": ceiling})


def _cost_filling(state: PolicyState, memory_bytes: float) -> float | None:
    """The cost of a pack that uses this much memory, on the line through the smallest and the
    largest one that fitted; None until there are two, one twice as large as the other."""
    low, high = state.smallest, state.largest
    if low is None or high is None or high.cost < 2 * low.cost:
        return None
    if not 0 < low.memory_bytes < high.memory_bytes:
        return None
    bytes_per_token = (high.memory_bytes - low.memory_bytes) / (high.cost - low.cost)
    return low.cost + (memory_bytes - low.memory_bytes) / bytes_per_token


def ceiling(state: PolicyState, now_s: float) -> tuple[float, str]:
    """The most tokens below what ran out of memory, and the reason in words."""
    if state.ceiling is None:
        return math.inf, ""
    failed = f"{state.ceiling.oom_tokens:,.0f} tokens at {clock(state.ceiling.at_s)}"
    return state.ceiling.at(now_s), f"memory: out of memory with {failed}"


def within_memory(settings: PolicySettings, state: PolicyState) -> tuple[float, str]:
    """The most tokens that should fit into the device's memory, and the reason in words."""
    usable_bytes = MEMORY_SHARE * settings.memory_bytes_max
    tokens = _cost_filling(state, usable_bytes) if usable_bytes else None
    if tokens is None:
        return math.inf, ""
    if state.largest:  # what fitted has fitted: caches are full, and the line is only a guess
        tokens = max(tokens, state.largest.cost)
    gb, of_gb = usable_bytes / 1e9, settings.memory_bytes_max / 1e9
    return tokens, f"memory: a pack of {tokens:,.0f} tokens needs {gb:.1f} of {of_gb:.1f} GB"
