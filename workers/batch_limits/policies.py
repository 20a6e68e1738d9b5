"""How large packs may be: four policies turn a worker's observations into its next limit. Pure.

    model       the device's latency is fitted; the limit meets the latency target, costs little
                throughput and stays below what ran out of memory
    thresholds  mean latency above 1000 ms: half as many pairs; below 200 ms: twice as many
    aimd        a few tokens more while no pack is late, else a share less
    fixed       the limit that was set

All of them stay below a ceiling once a pack ran out of memory, and none raises a limit because of
packs that were small for want of pairs. No clock, no randomness: the same observations give the
same limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.latency import Fit
from rerankfleet.workers.batch_limits.memory import learn_memory
from rerankfleet.workers.batch_limits.model_policy import model
from rerankfleet.workers.batch_limits.rules import aimd, fixed, thresholds
from rerankfleet.workers.batch_limits.settings import Policy, PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

#: Figures above these cannot be true: an hour, and more than any device holds.
_SECONDS_MAX = 3600.0
_COST_MAX = 1e8
_PAIRS_MAX = 1_000_000
_BYTES_MAX = 1 << 50

_POLICIES: dict[
    Policy, Callable[[PolicySettings, PolicyState, Sequence[Observation], float], PolicyState]
] = {"model": model, "thresholds": thresholds, "aimd": aimd, "fixed": fixed}


def start(
    settings: PolicySettings,
    tokens: int,
    pairs: int | None = None,
    rates: tuple[float, float] | None = None,
) -> PolicyState:
    """A worker's first limit. `rates`: seconds per pack and per token, measured by its
    self-test."""
    pairs = settings.pairs_max if pairs is None else pairs
    known = rates is not None and all(_within(rate, 0, _SECONDS_MAX) for rate in rates)
    fit = Fit.guessed(*rates) if known and rates else None
    state = PolicyState(
        tokens=tokens,
        pairs=pairs,
        reason="set" if settings.policy == "fixed" else "measured at start",
        first_tokens=tokens,
        first_pairs=pairs,
        fit=fit if settings.policy == "model" else None,
    )
    tokens = settings.tokens_max if settings.policy == "thresholds" else tokens
    return state.with_limit(settings, tokens, pairs)


def decide(
    settings: PolicySettings,
    state: PolicyState,
    observations: Sequence[Observation],
    now_s: float,
) -> PolicyState:
    """The limit after these observations, oldest first. Those that cannot be true are ignored.

    `now_s` is the caller's clock; the workers' clocks are not relied on.
    """
    observations = [one for one in observations if credible(one)]
    state = learn_memory(state, observations, now_s)
    if any(pack.interactive for pack in observations):
        state = state.model_copy(update={"interactive_at_s": now_s})
    packs = [pack for pack in observations if pack.oom or not pack.warm_up]
    if not packs:
        return state.model_copy(update={"changed": False})
    before = state.tokens, state.pairs
    state = _POLICIES[settings.policy](settings, state, packs, now_s)
    changed = (state.tokens, state.pairs) != before
    return state.model_copy(update={"changed": changed})


def credible(observation: Observation) -> bool:
    """Whether an observation can be true: finite figures of the right type, within reason."""
    flags = (observation.oom, observation.interactive, observation.warm_up)
    return (
        _within(observation.cost, 1, _COST_MAX)
        and _within(observation.forward_s, 0, _SECONDS_MAX)
        and (observation.forward_s > 0 or observation.oom is True)
        and _whole(observation.pairs, 1, _PAIRS_MAX)
        and _whole(observation.memory_bytes, 0, _BYTES_MAX)
        and _whole(observation.limit_tokens, 0, _BYTES_MAX)
        and _whole(observation.limit_pairs, 0, _BYTES_MAX)
        and observation.limited_by in ("limit", "empty")
        and all(isinstance(flag, bool) for flag in flags)
    )


def _within(value: object, least: float, most: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and _within(value, least, most)
