"""A worker's rates over the last seconds, by a clock that the test sets."""

from __future__ import annotations

import pytest

from rerankfleet.shared.observations import Observation
from rerankfleet.workers import meter as module
from rerankfleet.workers.meter import WINDOW_S, Meter
from tests.support.fleet import an_observation


class Clock:
    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def observed(
    pairs: int, tokens: int, forward_s: float, *, oom: bool = False, waiting_s: float = 0.0
) -> Observation:
    return an_observation(
        pairs=pairs,
        text_tokens=tokens,
        shared_tokens=0,
        cost=tokens,
        waiting_s=waiting_s,
        forward_s=forward_s,
        memory_bytes=0,
        limited_by="empty",
        oom=oom,
    )


def test_before_the_first_pack_the_rate_is_that_of_the_self_test(clock):
    assert Meter(tokens_per_s=1234).rates() == {
        "pairs_per_s": 0.0,
        "tokens_per_s": 1234,
        "busy_share": 0.0,
        "preparing_share": 0.0,
        "latency_s": 0.0,
        "latency_p50_s": 0.0,
        "latency_p95_s": 0.0,
        "waiting_share": 0.0,
        "pairs": 0,
        "ooms": 0,
        "memory_bytes": 0,
    }


def test_rates_are_of_the_last_seconds(clock):
    meter = Meter(tokens_per_s=1)
    for _ in range(20):
        clock.now_s += 1
        meter.sample(holding=True)
        meter.pack(observed(30, 600, 0.5))

    rates = meter.rates()

    assert rates["pairs_per_s"] == pytest.approx(30, rel=0.15)
    assert rates["tokens_per_s"] == 1200
    assert rates["busy_share"] == pytest.approx(0.5, rel=0.15)
    assert rates["preparing_share"] == pytest.approx(0.5, rel=0.15)
    assert rates["latency_s"] == 0.5
    assert rates["pairs"] == 600


def test_an_idle_worker_keeps_its_measured_speed_and_nothing_else(clock):
    meter = Meter(tokens_per_s=1)
    meter.pack(observed(30, 600, 0.5))
    for _ in range(5):
        clock.now_s += WINDOW_S / 2
        meter.sample(holding=False)

    rates = meter.rates()

    assert (rates["pairs_per_s"], rates["busy_share"], rates["preparing_share"]) == (0, 0, 0)
    assert rates["tokens_per_s"] == 1200


def test_a_young_worker_is_not_measured_over_time_it_did_not_live(clock):
    meter = Meter(tokens_per_s=1)
    clock.now_s += 2
    meter.pack(observed(30, 600, 1.0))

    assert meter.rates()["pairs_per_s"] == 15.0
    assert meter.rates()["busy_share"] == 0.5


def test_a_pack_that_did_not_fit_is_no_measure(clock):
    meter = Meter(tokens_per_s=7)
    meter.pack(observed(30, 600, 9.0, oom=True))

    assert meter.rates()["tokens_per_s"] == 7
    assert meter.rates()["pairs"] == 0
    assert meter.rates()["ooms"] == 1


def test_shares_stay_between_0_and_1(clock):
    meter = Meter(tokens_per_s=1)
    clock.now_s += 1
    meter.sample(holding=True)
    meter.pack(observed(1, 1, 50.0))

    assert meter.rates()["busy_share"] == 1.0
    assert meter.rates()["preparing_share"] == 0.0


def test_latencies_are_reported_as_quantiles(clock):
    meter = Meter(tokens_per_s=1)
    for number in range(1, 101):
        meter.pack(observed(1, 1, number / 100))

    rates = meter.rates()

    assert (rates["latency_p50_s"], rates["latency_p95_s"]) == (0.5, 0.95)


def test_waiting_is_a_share_of_the_time_from_prepared_to_scored(clock):
    meter = Meter(tokens_per_s=1)
    meter.pack(observed(1, 1, 0.5, waiting_s=1.5))
    meter.pack(observed(1, 1, 0.5, waiting_s=0.5), memory_bytes=7)
    meter.pack(observed(1, 1, 0.0, oom=True), memory_bytes=9)

    assert meter.rates()["waiting_share"] == pytest.approx(2 / 3, abs=1e-3)
    assert meter.rates()["memory_bytes"] == 9
