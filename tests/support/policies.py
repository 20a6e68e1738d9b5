"""Rounds of observations on a device without noise, for the batch policies."""

from __future__ import annotations

from typing import Any

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.policies import decide
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

OVERHEAD_S, S_PER_TOKEN = 0.05, 1e-4
RATES = (OVERHEAD_S, S_PER_TOKEN)
NOW_S = 1000.0


def clock(later_s: float) -> str:
    """The time of day this long after NOW_S, as written in reasons."""
    return f"00:16:{40 + later_s:02.0f} UTC"


def seconds(cost: float) -> float:
    return OVERHEAD_S + S_PER_TOKEN * cost


def pack(cost: float, forward_s: float | None = None, **other: Any) -> Observation:
    """A full pack on a device without noise by default."""
    figures: dict[str, Any] = {
        "at_s": 0.0,
        "pairs": max(int(cost // 100), 1),
        "text_tokens": int(cost),
        "image_tokens": 0,
        "shared_tokens": 0,
        "cost": cost,
        "waiting_s": 0.0,
        "preparing_s": 0.0,
        "forward_s": seconds(cost) if forward_s is None else forward_s,
        "memory_bytes": 0,
        "limited_by": "limit",
    }
    return Observation(**figures | other)


def policy(name: str = "model", **other: Any) -> PolicySettings:
    return PolicySettings.model_validate({"policy": name, **other})


def after(settings: PolicySettings, state: PolicyState, *rounds: list[Observation]) -> PolicyState:
    """The state after these decisions, 2 s apart."""
    for number, observations in enumerate(rounds):
        state = decide(settings, state, observations, NOW_S + 2 * number)
    return state


def working(
    settings: PolicySettings, state: PolicyState, decisions: int, slow: float = 1.0, **other: Any
) -> PolicyState:
    """The state after full packs at the current limit, three for each decision."""
    for number in range(decisions):
        cost = float(state.tokens)
        packs = [pack(cost, seconds(cost) * slow, limit_tokens=state.tokens, **other)] * 3
        state = decide(settings, state, packs, NOW_S + 2 * number)
    return state
