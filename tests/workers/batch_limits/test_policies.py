"""How large packs may be: each policy, on what a worker saw."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from pydantic import ValidationError

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.latency import Fit
from rerankfleet.workers.batch_limits.memory import CEILING_S, MEMORY_SHARE
from rerankfleet.workers.batch_limits.policies import decide, start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState
from rerankfleet.workers.batch_limits.traffic import INTERACTIVE_S

OVERHEAD_S, S_PER_TOKEN = 0.05, 1e-4
RATES = (OVERHEAD_S, S_PER_TOKEN)
NOW_S = 1000.0


def clock(later_s: float) -> str:
    """The time of day so long after NOW_S, as reasons tell it."""
    return f"00:16:{40 + later_s:02.0f} UTC"


def seconds(cost: float) -> float:
    return OVERHEAD_S + S_PER_TOKEN * cost


def pack(cost: float, forward_s: float | None = None, **other: Any) -> Observation:
    """A full pack on a device without noise, unless said otherwise."""
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
    """The memory after these decisions, 2 s apart."""
    for number, observations in enumerate(rounds):
        state = decide(settings, state, observations, NOW_S + 2 * number)
    return state


def working(
    settings: PolicySettings, state: PolicyState, decisions: int, slow: float = 1.0, **other: Any
) -> PolicyState:
    """The memory after full packs at whatever the limit is, three for each decision."""
    for number in range(decisions):
        cost = float(state.tokens)
        packs = [pack(cost, seconds(cost) * slow, limit_tokens=state.tokens, **other)] * 3
        state = decide(settings, state, packs, NOW_S + 2 * number)
    return state


# ---- model ---------------------------------------------------------------------------------------


def test_model_grows_from_the_worst_limit_to_the_latency_target():
    # given a device of which a pack of 9,500 tokens takes a second
    settings = policy()
    # when its packs are as large as the limit, from 64 tokens on
    state = working(settings, start(settings, 64), 20)
    # then the limit is near, the more below it the less sure the noise is, and says why
    assert 7500 < state.tokens <= 9500
    assert state.reason.startswith(f"latency: a pack of {state.tokens:,} tokens takes 0.")
    assert state.reason.endswith(" s at p95, target 1.00 s")


def test_model_at_most_doubles_what_was_tried():
    settings = policy()
    state = after(settings, start(settings, 1000, rates=RATES), [pack(900.0), pack(1000.0)])
    assert state.tokens == 2000
    assert state.reason == "probing: no pack above 1,000 tokens was tried yet"


def test_model_grows_where_no_two_pairs_fit():
    # given pairs of which two are just above the limit
    settings = policy()
    state = start(settings, 199, rates=RATES)
    # when all packs hold one
    state = after(settings, state, [pack(100.0, limit_tokens=199)] * 2)
    # then the limit is that of packs of more, though none was seen
    assert state.tokens == 398


def test_model_stops_where_larger_packs_gain_little():
    # given a device with so little overhead that 2,450 tokens are within 2 % of its best
    settings, rate, overhead_s = policy(), 1e-5, 5e-4
    state = start(settings, 512, rates=(overhead_s, rate))
    # when packs are as large as the limit
    for number in range(30):
        cost = float(state.tokens)
        packs = [pack(cost, overhead_s + rate * cost)] * 5
        state = decide(settings, state, packs, NOW_S + 2 * number)
    # then it grows no further, far below the latency target; where exactly matters little
    assert 2450 * 0.75 <= state.tokens < 2450 * 2
    assert state.reason.startswith("throughput: more than ")
    assert state.reason.endswith(" tokens gains less than 2 %")


def test_model_stays_below_what_ran_out_of_memory_until_the_ceiling_rises():
    settings = policy()
    state = working(settings, start(settings, 64, rates=RATES), 6)
    worked = state.largest.cost
    # when a pack runs out of memory
    state = after(settings, state, [pack(4000.0, oom=True)])
    # then the limit is at once at what had worked, and says so for a while
    assert state.tokens == worked < 4000
    assert state.reason == (reason := f"memory: out of memory with 4,000 tokens at {clock(0)}")
    state = decide(settings, state, [pack(worked)] * 3, NOW_S + 40)
    assert state.tokens == worked
    assert state.reason == reason
    # and later rises slowly
    state = decide(settings, state, [pack(worked)] * 3, NOW_S + 1.25 * CEILING_S)
    assert worked < state.tokens < 1.25 * worked


def test_a_ceiling_that_was_too_high_holds_longer_the_next_time():
    settings = policy()
    state = working(settings, start(settings, 64, rates=RATES), 6)
    state = decide(settings, state, [pack(4000.0, oom=True)], NOW_S)
    first = state.ceiling
    # a pack above the ceiling, planned before it, says nothing new
    state = decide(settings, state, [pack(4100.0, oom=True)], NOW_S + 2)
    assert state.ceiling == first
    # one below it does
    state = decide(settings, state, [pack(1800.0, oom=True)], NOW_S + 4)
    assert state.ceiling.tokens < 1800
    assert state.ceiling.holds_s == 2 * first.holds_s


def test_model_knows_from_two_sizes_how_much_memory_a_third_needs():
    # given a device of 10 GB, of which a token takes 1 MB beside the model's 2 GB
    settings = policy(memory_bytes_max=10_000_000_000)
    state = start(settings, 1000, rates=RATES)

    def packs(*costs: float) -> list[Observation]:
        return [pack(cost, memory_bytes=int(2e9 + 1e6 * cost)) for cost in costs]

    # when packs of different sizes worked
    state = after(settings, state, packs(1000, 2000), packs(3000, 4000), packs(5000, 6000))
    # then the limit is what fits, before anything ran out
    assert state.tokens == (MEMORY_SHARE * 10e9 - 2e9) / 1e6
    assert state.reason == "memory: a pack of 6,500 tokens needs 8.5 of 10.0 GB"


def test_after_out_of_memory_the_memory_that_it_had_tells_the_ceiling():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    packs = [pack(c, memory_bytes=int(2e9 + 1e6 * c)) for c in (1000.0, 4000.0)]
    failed = pack(8000.0, oom=True, memory_bytes=8_000_000_000)  # enough for 6,000
    state = after(settings, state, packs, [failed])
    assert 5500 < state.tokens < 6000


def test_starved_packs_never_raise_a_limit_but_teach():
    settings = policy()
    state = start(settings, 1000, rates=(0.5, 1e-3))
    # when all packs are ended by an empty queue, on a device faster than its self-test said
    starved = [pack(cost, limited_by="empty") for cost in (200.0, 900.0, 400.0)]
    state = after(settings, state, starved, starved, starved)
    # then the limit stays, and yet the device's speed is known
    assert state.tokens == 1000
    since = "starved: the queue was empty, unchanged since: "
    assert state.reason.startswith(since)
    assert not state.reason.removeprefix(since).startswith("starved")
    assert math.isclose(state.fit.s_per_token, S_PER_TOKEN, rel_tol=0.3)
    # and the next full packs raise it
    assert after(settings, state, [pack(1000.0)] * 3).tokens > 1000


def test_starved_packs_lower_a_limit_that_is_too_high():
    settings = policy()
    state = start(settings, 100_000, rates=RATES)
    state = after(settings, state, [pack(c, limited_by="empty") for c in (2000.0, 6000.0)] * 3)
    assert state.tokens < 9500


def test_running_out_of_memory_counts_in_a_warm_up_too():
    settings = policy()
    state = start(settings, 4000, rates=RATES)
    state = after(settings, state, [pack(3000.0, oom=True, warm_up=True)])
    assert state.tokens == 1500


def test_warm_up_packs_do_not_count():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    decided = after(settings, state, [pack(1000.0, 30.0, warm_up=True)] * 5)
    assert decided.fit == state.fit
    assert (decided.tokens, decided.changed) == (1000, False)


@pytest.mark.parametrize("slow", [2.0, 0.5])
def test_model_notices_a_change_of_speed_within_three_packs(slow):
    # given a settled limit
    settings = policy(tokens_max=100_000)
    state = working(settings, start(settings, 64, rates=RATES), 40)
    settled = state.tokens
    # when packs take twice or half as long
    cost = float(settled)
    state = decide(settings, state, [pack(cost, slow * seconds(cost))] * 3, NOW_S)
    # then the expectation follows at once, and the limit with it
    expected_s = state.fit.overhead_s + state.fit.s_per_token * cost
    assert math.isclose(expected_s, slow * seconds(cost), rel_tol=0.05)
    assert (state.tokens < 0.6 * settled) if slow > 1 else (state.tokens > 1.5 * settled)


def test_one_slow_pack_changes_nothing():
    settings = policy()
    state = working(settings, start(settings, 64, rates=RATES), 40)
    cost = float(state.tokens)
    decided = decide(settings, state, [pack(cost), pack(cost, 4.0), pack(cost)], NOW_S)
    assert decided.tokens == state.tokens
    assert not decided.changed


def test_model_probes_when_packs_are_too_alike_to_tell_overhead_from_rate():
    # given packs of one size, as large as the target allows, and a self-test that may be wrong
    settings = policy(latency_target_ms=530)
    state = start(settings, 4000, rates=(0.2, 5e-5))
    alike = [pack(4000.0), pack(4010.0), pack(3990.0)]
    state = after(settings, state, alike)
    # then a smaller size is tried
    assert state.reason == (
        "probing: packs of 3,990 to 4,010 tokens are too alike to tell overhead from rate"
    )
    probed = state.tokens
    assert probed < 8010 / 1.9
    # and then the limit is what both sizes say
    state = after(settings, state, [pack(probed / 2)] * 3)
    assert not state.reason.startswith("probing: packs")


def test_recent_interactive_traffic_halves_its_target_for_every_pack():
    settings = policy(latency_target_ms=1000, interactive_latency_target_ms=400)
    state = working(settings, start(settings, 64, rates=RATES), 30)
    bulk = state.tokens
    # when an interactive pair comes, a pack may take 0.2 s
    cost = float(bulk)
    state = decide(settings, state, [pack(cost), pack(300.0, interactive=True)], NOW_S)
    assert state.fit.p95_s(state.tokens) <= 0.2
    assert state.reason.endswith(
        f"at p95, target 0.20 s, half of the interactive one: such pairs came at {clock(0)}"
    )
    # and once none came for a while, a second again
    later_s = NOW_S + INTERACTIVE_S + 1
    state = decide(settings, state, [pack(float(state.tokens))] * 3, later_s)
    assert state.tokens > 0.9 * bulk


def test_an_interactive_pair_is_heard_of_through_the_monitors_clock_alone():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    decided = decide(settings, state, [pack(300.0, interactive=True, at_s=-5e9)], NOW_S)
    assert decided.interactive_at_s == NOW_S


def test_a_device_that_cannot_meet_the_target_gets_packs_of_twice_its_overhead():
    settings = policy(latency_target_ms=40)
    state = working(settings, start(settings, 1000, rates=RATES), 5)
    assert state.tokens == pytest.approx(OVERHEAD_S / S_PER_TOKEN, rel=0.1)
    assert state.reason.startswith("latency: a pack of ")


def test_nothing_seen_changes_nothing():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    assert decide(settings, state, [], NOW_S) == state


# ---- thresholds ----------------------------------------------------------------------------------


def pairs(count: int, forward_s: float, **other: Any) -> Observation:
    return pack(100.0 * count, forward_s, limit_pairs=count, **other)


def test_thresholds_doubles_when_fast_and_halves_when_slow_within_4_to_16_pairs():
    settings = policy("thresholds")
    state = start(settings, 4096, 2)
    assert (state.tokens, state.pairs) == (settings.tokens_max, 4)
    state = after(settings, state, [pairs(4, 0.19)])
    assert state.pairs == 8
    assert state.reason == ("latency: 190 ms on average over 1 full packs, less than 200 ms: twice")
    state = after(settings, state, [pairs(8, 0.19)], [pairs(16, 0.1)])
    assert state.pairs == 16
    assert state.reason.startswith("bound: 16 pairs, 100 ms on average over 1 packs")
    state = after(settings, state, [pairs(16, 2.0)] * 2)
    assert state.pairs == 8
    assert state.reason.endswith("more than 1,000 ms: half")
    state = after(settings, state, [pairs(8, 2.0)], [pairs(4, 2.0)], [pairs(4, 2.0)])
    assert state.pairs == 4


def test_thresholds_averages_the_packs_since_the_last_change():
    settings = policy("thresholds")
    state = start(settings, 4096, 8)
    # given an average of 900 ms, then of 1,100 ms
    state = after(settings, state, [pairs(8, 0.9), pairs(8, 0.9)])
    assert state.pairs == 8
    assert state.reason == "steady: 900 ms on average over 2 packs"
    state = after(settings, state, [pairs(8, 1.5)])
    assert state.pairs == 4
    # then packs that were planned before the change count no more
    state = after(settings, state, [pairs(8, 5.0)])
    assert state.reason == "steady: 0 ms on average over 0 packs"


def test_thresholds_notices_another_speed_after_an_hour_at_one():
    # given an hour of packs that were neither fast nor slow
    settings = policy("thresholds")
    state = start(settings, 2000, 16)
    steady = [pack(1600, 0.5, pairs=16, limit_pairs=16) for _ in range(50)]
    state = after(settings, state, *[steady] * 100)
    assert state.pairs == 16
    # when the device is six times as slow, then some packs later there are half as many pairs
    slow = [pack(1600, 3.0, pairs=16, limit_pairs=16) for _ in range(10)]
    state = after(settings, state, *[slow] * 2)
    assert state.pairs == 8


def test_a_target_below_the_overhead_leaves_packs_that_are_worth_it():
    # given a device whose overhead alone takes longer than half the interactive target
    settings = policy(tokens_max=16_384)
    state = start(settings, 4000, rates=(0.2, 0.001))
    rounds = [
        [pack(cost, 0.2 + 0.001 * cost, limit_tokens=int(cost)) for cost in (100.0, 300.0, 600.0)]
    ] * 10
    state = after(settings, state, *rounds)
    # when interactive pairs come
    observation = pack(200.0, 0.4, interactive=True)
    state = decide(settings, state, [observation], NOW_S + 40)
    # then packs are not so small that all of their time is overhead
    assert state.tokens == pytest.approx(200, rel=0.25)
    assert state.reason.startswith("latency")


def test_what_worked_is_not_ruled_out_by_a_full_device():
    # given a device whose memory is nearly full of the model and its caches
    settings = policy(memory_bytes_max=20 << 30)
    state = start(settings, 4096, rates=(0.01, 0.0001))
    packs = [
        pack(cost, 0.01 + 0.0001 * cost, memory_bytes=int(17.2 * 2**30 + 1000 * cost))
        for cost in (1000.0, 4096.0)
    ]
    # when packs of both sizes worked, then the limit stays where it worked
    assert decide(settings, state, packs, NOW_S).tokens >= 4096


def test_thresholds_are_settings():
    settings = policy(
        "thresholds", latency_low_ms=50, latency_high_ms=100, pairs_low=2, pairs_high=64
    )
    state = start(settings, 4096, 32)
    assert after(settings, state, [pairs(32, 0.04)]).pairs == 64
    assert after(settings, state, [pairs(32, 0.12)]).pairs == 16


# ---- aimd and fixed ------------------------------------------------------------------------------


def test_aimd_adds_while_no_pack_is_late_and_takes_a_part_when_one_is():
    settings = policy("aimd")
    state = start(settings, 4000)
    state = after(settings, state, [pack(3900.0, 0.5)])
    assert state.tokens == 4128
    assert state.reason == "increase: no pack took more than 0.50 s, target 1.00 s"
    state = after(settings, state, [pack(4100.0, 0.5), pack(4100.0, 1.2)])
    assert state.tokens == 3302
    assert state.reason == "latency: a pack took 1.20 s, target 1.00 s"
    # a pack that was planned before the change says nothing of the limit now
    late = pack(4100.0, 1.2, limit_tokens=4128)
    assert after(settings, state, [late]).tokens == 3302


def test_fixed_changes_for_out_of_memory_only_and_comes_back():
    settings = policy("fixed")
    state = start(settings, 4000, 50)
    assert (state.tokens, state.pairs, state.reason) == (4000, 50, "set")
    state = after(settings, state, [pack(4000.0, 9.0)], [pack(3900.0, oom=True)])
    assert (state.tokens, state.pairs) == (1950, 50)
    assert state.reason.startswith("memory: out of memory with 3,900 tokens")
    state = decide(settings, state, [pack(1000.0)], NOW_S + 4 * CEILING_S)
    assert (state.tokens, state.reason) == (4000, "set")


@pytest.mark.parametrize("name", ["model", "thresholds", "aimd", "fixed"])
def test_every_policy_obeys_a_ceiling(name):
    settings = policy(name)
    state = start(settings, 2000, 8, RATES)
    state = after(settings, state, [pack(1000.0), pack(2000.0)], [pack(1900.0, oom=True)])
    assert state.tokens < 1900
    assert "out of memory with 1,900 tokens" in state.reason


# ---- what cannot be true, and what is remembered -------------------------------------------------

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
def test_memory_survives_json(name):
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
def test_nonsense_is_no_memory(text):
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
def test_a_memory_with_a_wrong_field_is_no_memory(field, value):
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


# ---- the fit -------------------------------------------------------------------------------------


def test_a_fit_finds_overhead_and_rate_from_packs_of_different_sizes():
    fit = Fit.guessed(0.01, 5e-4)  # five times too little and as much too much
    fit = fit.learn([(cost, seconds(cost)) for cost in (500.0, 1000.0, 2000.0, 4000.0)] * 20)
    assert math.isclose(fit.overhead_s, OVERHEAD_S, rel_tol=0.1)
    assert math.isclose(fit.s_per_token, S_PER_TOKEN, rel_tol=0.05)


def test_a_fit_knows_how_slow_its_slow_packs_are():
    # given packs of which three in four are 10 % fast, and the fourth is 20 % slow
    fit = Fit.guessed(OVERHEAD_S, S_PER_TOKEN)
    times = [(c, seconds(c) * factor) for c in (1000.0, 2000.0) for factor in (0.9, 0.9, 0.9, 1.2)]
    fit = fit.learn(times * 60)
    # then 95 of 100 are below what the slow ones take
    assert math.isclose(fit.p95_s(1000.0), 1.2 * seconds(1000.0), rel_tol=0.05)


def test_packs_of_one_size_do_not_wash_away_what_others_told():
    fit = Fit.guessed(0.1, 3e-4).learn([(c, seconds(c)) for c in (500.0, 2000.0, 4000.0)] * 5)
    fit = fit.learn([(4000.0, seconds(4000.0))] * 500)
    assert math.isclose(fit.overhead_s, OVERHEAD_S, rel_tol=0.1)
