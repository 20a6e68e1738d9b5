"""From the margin, which ranks, to the relevance_score, which people read.

Not in the engine, because the output is assembled by processes that never load a model. Pure
arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MEAN_HIGH, MEAN_LOW = 0.9, 0.6
"""Mean scores beyond which a profile's temperature is adapted, if that option is set."""


def relevance_score(margin: float, temperature: float = 1.0, top_p: float = 1.0) -> float:
    """Return sigmoid(margin / temperature) in 0..1, after the two-way nucleus `top_p`.

    Temperature never changes an order. With top_p < 1 the less
    likely of the two answers is dropped when the other alone reaches top_p, so the score becomes
    0 or 1. Raises ValueError for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} must be above 0")
    scaled = margin / temperature
    # exp of a large positive number overflows; of a large negative one it is 0
    score = 1 / (1 + math.exp(-scaled)) if scaled >= 0 else 1 - 1 / (1 + math.exp(scaled))
    if max(score, 1 - score) >= top_p and top_p < 1:
        return 1.0 if score >= 0.5 else 0.0
    return score


def adapted_temperature(temperature: float, mean: float) -> float:
    """The temperature for later jobs of a profile, from the mean score of one at `temperature`.

    Above MEAN_HIGH it rises by a tenth up to 1.0, below MEAN_LOW it falls by a tenth down to 0.3;
    one already beyond such a bound stays. A low mean may only say that most candidates are
    irrelevant: so this is off by default.
    """
    if mean > MEAN_HIGH:
        return max(temperature, min(round(temperature * 1.1, 4), 1.0))
    if mean < MEAN_LOW:
        return min(temperature, max(round(temperature * 0.9, 4), 0.3))
    return temperature


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a job's margins become scores: what `relevance_score` takes."""

    temperature: float = 1.0
    top_p: float = 1.0

    def score(self, margin: float) -> float:
        """The relevance_score of a margin."""
        return relevance_score(margin, self.temperature, self.top_p)


PLAIN = Calibration()
"""The sigmoid alone."""
