"""Statistics are added up, and percentiles come from buckets."""

from __future__ import annotations

import math
import random

import pytest

from rerankfleet.shared.statistics import Latency, Statistics, statistics_of


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_is_at_most_a_tenth_off(share):
    draw = random.Random(3)
    latencies = [max(round(draw.lognormvariate(6, 2)), 1) for _ in range(3000)]
    fields = {"latency_ms": str(sum(latencies))}
    for latency in latencies:
        name = f"latency_{math.floor(4 * math.log(latency) / math.log(2))}"
        fields[name] = str(int(fields.get(name, 0)) + 1)

    found = statistics_of("model", "m", [fields]).latency

    exact_s = sorted(latencies)[math.ceil(share * len(latencies)) - 1] / 1000
    assert found.percentile_s(share) == pytest.approx(exact_s, rel=0.1)
    assert found.mean_s == pytest.approx(sum(latencies) / len(latencies) / 1000)
    assert found.count == 3000


def test_no_latency_has_no_percentile():
    assert (Latency().mean_s, Latency().p50_s, Latency().p95_s) == (0, 0, 0)


def test_statistics_survive_json():
    row = statistics_of("model", "m", [{"latency_4": "2", "latency_ms": "5", "scored": "2"}])
    assert Statistics.model_validate_json(row.model_dump_json()) == row
