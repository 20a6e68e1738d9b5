"""Score distributions: exact counts that add up, mean and spread."""

from __future__ import annotations

import json
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.score_distribution import BINS, ScoreDistribution

MARGINS = st.lists(st.floats(-40, 40), max_size=60)


@given(MARGINS, st.floats(0.1, 2.0))
def test_the_figures_are_those_of_the_scores(margins, temperature):
    found = ScoreDistribution.of(margins, temperature)

    scores = [relevance_score(margin, temperature) for margin in margins]
    assert found.count == sum(found.bins) == len(scores)
    assert found.above == sum(score > 0.9 for score in scores)
    assert found.below == sum(score < 0.1 for score in scores)
    if scores:
        assert found.mean == pytest.approx(statistics.fmean(scores), abs=1e-8)
        assert found.spread == pytest.approx(statistics.pstdev(scores), abs=1e-4)


@given(MARGINS, MARGINS)
def test_parts_add_up_to_the_whole(some, others):
    whole = ScoreDistribution.of(some + others)
    added = ScoreDistribution.of(some) + ScoreDistribution.of(others)

    exact = {"count", "above", "below", "bins"}
    assert added.model_dump(include=exact) == whole.model_dump(include=exact)
    assert added.mean == pytest.approx(whole.mean, abs=1e-8)


@given(MARGINS)
def test_flat_fields_and_json_give_it_back(margins):
    found = ScoreDistribution.of(margins)
    fields = {name: str(value) for name, value in found.fields().items()}

    assert "0" not in fields.values()
    assert ScoreDistribution.from_fields(fields | {"spec": "{}", "scored": "3"}) == found
    assert ScoreDistribution.model_validate_json(found.model_dump_json()) == found


def test_a_small_spread_among_many_scores_is_not_lost():
    """Given the sums of a hundred million scores between 0.5 and 0.5005."""
    shard = ScoreDistribution.of([0.0, 0.002] * 500).fields()
    many = ScoreDistribution.from_fields({name: value * 100_000 for name, value in shard.items()})

    assert many.count == 10**8
    assert many.spread == pytest.approx(0.00025, rel=0.01)


def test_the_bounds_are_in_the_first_and_the_last_bin():
    found = ScoreDistribution.of([-1000.0, 1000.0, 0.0])

    assert (found.bins[0], found.bins[BINS // 2], found.bins[-1]) == (1, 1, 1)


def test_without_scores_all_is_zero():
    none = ScoreDistribution()
    assert (none.mean, none.spread, none.share_above, none.share_below) == (0, 0, 0, 0)
    assert none.fields() == {}
    assert none.bars() == " " * BINS


def test_the_histogram_is_one_line_in_which_the_tallest_is_full():
    bars = ScoreDistribution.of([-9.0] * 99 + [0.0] * 50 + [9.0]).bars()

    assert len(bars) == BINS
    assert (bars[0], bars[10], bars[-1], bars[5]) == ("█", "▅", "▁", " ")


def test_machines_read_the_figures_too():
    found = json.loads(ScoreDistribution.of([0.0, 9.0]).model_dump_json())
    assert found["mean"] == pytest.approx(0.75, abs=1e-3)
    assert found["share_above"] == 0.5
