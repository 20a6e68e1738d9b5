"""The policies `thresholds`, `aimd` and `fixed`."""

from __future__ import annotations

from typing import Any

import pytest

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.memory import CEILING_S
from rerankfleet.workers.batch_limits.policies import decide, start
from tests.support.policies import (
    NOW_S,
    RATES,
    after,
    pack,
    policy,
)

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


def test_fixed_changes_after_out_of_memory_only_and_recovers():
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
