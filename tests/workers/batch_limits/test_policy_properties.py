"""Limits stay within bounds whatever is observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.policies import credible, decide, start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

anything: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
)


def or_lies(true: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return true | true | true | true | anything


def observed(*, lies: bool, oom: bool | None = None) -> st.SearchStrategy[Observation]:
    """Packs of any kind; with `lies`, some of their figures are anything."""
    wrap = or_lies if lies else (lambda true: true)
    return st.builds(
        Observation,
        at_s=wrap(st.floats(0, 1e9)),
        pairs=wrap(st.integers(1, 5000)),
        text_tokens=wrap(st.integers(0, 200_000)),
        image_tokens=wrap(st.integers(0, 200_000)),
        shared_tokens=wrap(st.integers(0, 200_000)),
        cost=wrap(st.floats(1, 300_000)),
        waiting_s=wrap(st.floats(0, 100)),
        preparing_s=wrap(st.floats(0, 100)),
        forward_s=wrap(st.floats(1e-6, 600)),
        memory_bytes=wrap(st.integers(0, 1 << 40)),
        limited_by=wrap(st.sampled_from(["limit", "empty"])),
        oom=wrap(st.booleans() if oom is None else st.just(oom)),
        interactive=wrap(st.booleans()),
        limit_tokens=wrap(st.integers(0, 200_000)),
        limit_pairs=wrap(st.integers(0, 5000)),
        warm_up=wrap(st.booleans()),
    )


rounds = st.lists(
    st.tuples(st.lists(observed(lies=True), max_size=4), st.floats(-100, 2000)), max_size=6
)


@st.composite
def all_settings(draw: st.DrawFn) -> PolicySettings:
    tokens = sorted(draw(st.lists(st.integers(1, 200_000), min_size=2, max_size=2)))
    pairs = sorted(draw(st.lists(st.integers(1, 200), min_size=2, max_size=2)))
    return PolicySettings(
        policy=draw(st.sampled_from(["model", "thresholds", "aimd", "fixed"])),
        latency_target_ms=draw(st.floats(1, 10_000)),
        interactive_latency_target_ms=draw(st.floats(1, 10_000)),
        tokens_min=tokens[0],
        tokens_max=tokens[1],
        pairs_max=draw(st.integers(1, 2000)),
        pairs_low=pairs[0],
        pairs_high=pairs[1],
        memory_bytes_max=draw(st.just(0) | st.integers(1, 1 << 40)),
    )


rates = st.none() | st.tuples(st.floats(0, 10), st.floats(0, 1))


def history(
    settings: PolicySettings, state: PolicyState, rounds: Sequence[tuple[list[Observation], float]]
) -> list[PolicyState]:
    """The states after each round, stored as JSON in between."""
    states, now_s = [state], 1e6
    for observations, passed_s in rounds:
        now_s += passed_s
        stored = PolicyState.from_json(states[-1].to_json())
        assert stored == states[-1]
        states.append(decide(settings, stored, observations, now_s))
    return states


@given(all_settings(), st.integers(1, 200_000), st.integers(1, 5000), rates, rounds)
def test_limits_stay_within_bounds_and_decisions_are_the_same_again(
    settings, tokens, pairs, seeds, rounds
):
    state = start(settings, tokens, pairs, seeds)
    states = history(settings, state, rounds)
    low, high = (
        (settings.pairs_low, settings.pairs_high)
        if settings.policy == "thresholds"
        else (1, settings.pairs_max)
    )
    for before, each in zip([state, *states], states, strict=False):
        assert settings.tokens_min <= each.tokens <= settings.tokens_max
        assert low <= each.pairs <= high
        assert each.reason
        assert each.changed == ((before.tokens, before.pairs) != (each.tokens, each.pairs))
        assert len(each.to_json()) < 6000
    assert history(settings, state, rounds) == states


@given(
    all_settings(),
    st.integers(1, 200_000),
    rates,
    st.lists(observed(lies=False, oom=False), min_size=1, max_size=6),
    observed(lies=False, oom=True),
    st.lists(st.lists(observed(lies=False, oom=False), max_size=3), max_size=5),
)
def test_no_limit_is_above_the_ceiling_before_that_rises(
    settings, tokens, seeds, before, failed, after
):
    # given packs that worked, then one that ran out of memory
    state = decide(settings, start(settings, tokens, rates=seeds), before, 1e6)
    state = decide(settings, state, [failed], 1e6)
    ceiling = state.ceiling
    assert ceiling.tokens < failed.cost
    # when any packs follow within the time that the ceiling holds
    for number, packs in enumerate(after):
        state = decide(settings, state, packs, 1e6 + ceiling.holds_s * number / 8)
        # then the limit is at most the ceiling, or the least allowed
        assert state.tokens <= max(ceiling.tokens, settings.tokens_min) or not packs


@given(
    all_settings(),
    st.integers(1, 200_000),
    rates,
    st.lists(
        st.lists(
            observed(lies=False, oom=False).map(
                lambda observation: replace(observation, limited_by="empty")
            ),
            max_size=3,
        ),
        max_size=5,
    ),
)
def test_starved_packs_never_raise_a_limit(settings, tokens, seeds, rounds):
    state = start(settings, tokens, rates=seeds)
    states = history(settings, state, [(packs, 2.0) for packs in rounds])
    for before, each in pairwise(states):
        assert each.tokens <= before.tokens
        assert each.pairs <= before.pairs


@given(st.lists(observed(lies=True), max_size=8))
def test_lies_among_the_truth_change_nothing(rounds):
    settings = PolicySettings()
    state = start(settings, 1000, rates=(0.05, 1e-4))
    true = [observation for observation in rounds if credible(observation)]
    assert decide(settings, state, rounds, 1e6) == decide(settings, state, true, 1e6)
