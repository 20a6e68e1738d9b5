"""Margins become scores; a profile's temperature follows its jobs' scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.calibration import adapted_temperature, relevance_score


@pytest.mark.parametrize(
    ("temperature", "mean", "to"),
    [
        (0.5, 0.95, 0.55),
        (0.95, 0.95, 1.0),  # up to 1.0
        (1.0, 0.95, 1.0),
        (1.5, 0.95, 1.5),  # never down because of a bound
        (1.0, 0.5, 0.9),
        (0.32, 0.5, 0.3),  # down to 0.3
        (0.3, 0.5, 0.3),
        (0.2, 0.5, 0.2),
        (0.7, 0.75, 0.7),
        (0.7, 0.9, 0.7),
        (0.7, 0.6, 0.7),
    ],
)
def test_a_temperature_follows_the_mean_within_bounds(temperature, mean, to):
    assert adapted_temperature(temperature, mean) == to


@given(st.floats(-1e6, 1e6), st.floats(0.1, 2))
def test_a_score_is_symmetric_and_between_0_and_1(margin, temperature):
    score = relevance_score(margin, temperature)

    assert 0 <= score <= 1
    assert math.isclose(score + relevance_score(-margin, temperature), 1, abs_tol=1e-12)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.1, 2))
def test_temperature_never_changes_an_order(one, other, temperature):
    if one <= other:
        assert relevance_score(one, temperature) <= relevance_score(other, temperature)


def test_the_nucleus_makes_a_likely_answer_certain():
    assert relevance_score(0.42, 0.3, top_p=0.8) == 1.0
    assert relevance_score(-0.42, 0.3, top_p=0.8) == 0.0
    assert relevance_score(0.40, 0.3, top_p=0.8) == pytest.approx(0.791, abs=1e-3)
    assert relevance_score(50.0, top_p=1.0) == pytest.approx(1.0)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature 0 must be above 0"):
        relevance_score(1.0, 0)
