"""A profile's temperature follows its jobs' scores."""

from __future__ import annotations

import pytest

from rerankfleet.shared.calibration import adapted_temperature


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
