"""The policy `model` grows to its target, and stays below what ran out of memory."""

from __future__ import annotations

import math

import pytest

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.memory import CEILING_S, MEMORY_SHARE
from rerankfleet.workers.batch_limits.policies import decide, start
from rerankfleet.workers.batch_limits.traffic import INTERACTIVE_S
from tests.support.policies import (
    NOW_S,
    OVERHEAD_S,
    RATES,
    S_PER_TOKEN,
    after,
    clock,
    pack,
    policy,
    seconds,
    working,
)


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


def test_after_out_of_memory_the_ceiling_follows_from_the_memory_that_the_pack_had():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    packs = [pack(c, memory_bytes=int(2e9 + 1e6 * c)) for c in (1000.0, 4000.0)]
    failed = pack(8000.0, oom=True, memory_bytes=8_000_000_000)  # enough for 6,000
    state = after(settings, state, packs, [failed])
    assert 5500 < state.tokens < 6000


def test_starved_packs_never_raise_a_limit_but_teach():
    settings = policy()
    state = start(settings, 1000, rates=(0.5, 1e-3))
    # when all packs are ended by an empty queue, on a device faster than its self-test estimated
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


def test_without_observations_nothing_changes():
    settings = policy()
    state = start(settings, 1000, rates=RATES)
    assert decide(settings, state, [], NOW_S) == state
