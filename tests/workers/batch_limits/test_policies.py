"""How large packs may be: each policy, on what a worker observed."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from pydantic import ValidationError

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.policies import start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState
from tests.support.policies import (
    RATES,
    S_PER_TOKEN,
    after,
    pack,
    policy,
    working,
)

LIES: list[dict[str, Any]] = [
    {"cost": -1.0},
    {"cost": 0.0},
    {"cost": math.nan},
    {"cost": 1e30},
    {"cost": "900"},
    {"cost": None},
    {"forward_s": -0.1},
    {"forward_s": 0.0},
    {"forward_s": math.inf},
    {"forward_s": math.nan},
    {"forward_s": 1e9},
    {"forward_s": True},
    {"pairs": -4},
    {"pairs": 2.5},
    {"pairs": 10**30},
    {"memory_bytes": -1},
    {"memory_bytes": math.nan},
    {"limited_by": "boredom"},
    {"limited_by": ["limit"]},
    {"oom": "no"},
    {"interactive": 1},
    {"limit_tokens": "64"},
    {"limit_pairs": -1},
]


@pytest.mark.parametrize("name", ["model", "thresholds", "aimd", "fixed"])
@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_lying_observation_is_ignored(name, lie):
    settings = policy(name)
    state = start(settings, 1000, 8, RATES)
    true = [pack(900.0), pack(1000.0)]
    lying = replace(pack(500.0), **lie)
    assert after(settings, state, [lying]) == state
    assert after(settings, state, [*true, lying]) == after(settings, state, true)


@pytest.mark.parametrize("rates", [(math.nan, 1e-4), (-1.0, 1e-4), (0.1, math.inf), None])
def test_a_self_test_that_cannot_be_true_is_as_none(rates):
    assert start(policy(), 1000, rates=rates).fit is None


def test_a_self_test_without_overhead_leaves_room_for_some():
    settings = policy()
    state = working(settings, start(settings, 64, rates=(0.0, S_PER_TOKEN)), 40)
    assert 7500 < state.tokens <= 9500


@pytest.mark.parametrize("name", ["model", "thresholds", "aimd", "fixed"])
def test_a_state_survives_json(name):
    settings = policy(name)
    state = working(settings, start(settings, 64, 8, RATES), 10, interactive=True)
    state = after(settings, state, [pack(500.0, oom=True)])
    text = state.to_json()
    assert PolicyState.from_json(text) == state
    assert PolicyState.from_json(text.encode()) == state
    assert len(text) < 4096


@pytest.mark.parametrize(
    "text",
    [None, "", "{}", "[]", "null", "nonsense", '{"tokens": 1}', b"\xff\xfe"],
)
def test_nonsense_is_no_state(text):
    assert PolicyState.from_json(text) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", "many"),
        ("reason", 7),
        ("fit", {"overhead_s": -1}),
        ("ceiling", {"tokens": 5}),
        ("surprise", 1),
        ("interactive_at_s", math.nan),
    ],
)
def test_a_state_with_a_wrong_field_is_none(field, value):
    whole = json.loads(start(policy(), 1000, rates=RATES).to_json())
    assert PolicyState.from_json(json.dumps(whole | {field: value})) is None


def test_an_observation_survives_json():
    observation = pack(900.0, interactive=True)
    assert Observation(**json.loads(json.dumps(asdict(observation)))) == observation


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens_min": 100, "tokens_max": 99},
        {"pairs_low": 9, "pairs_high": 8},
        {"latency_low_ms": 500, "latency_high_ms": 400},
        {"latency_target_ms": math.nan},
        {"policy": "hope"},
    ],
    ids=str,
)
def test_settings_that_contradict_themselves_are_refused(wrong):
    with pytest.raises(ValidationError):
        PolicySettings.model_validate(wrong)
