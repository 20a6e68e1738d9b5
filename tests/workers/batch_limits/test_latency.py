"""A fit of the time of packs."""

from __future__ import annotations

import math

from rerankfleet.workers.batch_limits.latency import Fit
from tests.support.policies import (
    OVERHEAD_S,
    S_PER_TOKEN,
    seconds,
)


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


def test_packs_of_one_size_do_not_wash_out_what_others_taught():
    fit = Fit.guessed(0.1, 3e-4).learn([(c, seconds(c)) for c in (500.0, 2000.0, 4000.0)] * 5)
    fit = fit.learn([(4000.0, seconds(4000.0))] * 500)
    assert math.isclose(fit.overhead_s, OVERHEAD_S, rel_tol=0.1)
