"""The distribution of the scores of a job, a profile or a model: counts that can be added up.

A score is sigmoid(margin / T) as users read it, before top_p, which would make it 0 or 1. Sums are
integers of 1 / UNITS, so that shards add up to the same in any order. Pure arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict, computed_field

from rerankfleet.shared.calibration import relevance_score

BINS = 20
"""Equal bins of 0..1; a score of 1 is in the last."""
HIGH, LOW = 0.9, 0.1
"""A score above HIGH says yes, one below LOW says no."""
UNITS = 10**9
"""The value of a score of 1 in the integer sums."""

_COUNTS = ("scores", "score_sum", "score_squares", "score_above", "score_below")
_BIN_FIELDS = tuple(f"score_bin_{number}" for number in range(BINS))
_BARS = "▁▂▃▄▅▆▇█"


class ScoreDistribution(BaseModel):
    """Exact counts of scores; mean and standard deviation to 1e-6 or better."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    count: int = 0
    sum_units: int = 0
    """Sum of the scores, in 1 / UNITS."""
    squares_units: int = 0
    """Sum of their squares, in 1 / UNITS."""
    above: int = 0
    """Scores above HIGH."""
    below: int = 0
    """Scores below LOW."""
    bins: tuple[int, ...] = (0,) * BINS

    @classmethod
    def of(cls, margins: Iterable[float], temperature: float = 1.0) -> ScoreDistribution:
        """The distribution of sigmoid(margin / temperature)."""
        scores = [relevance_score(margin, temperature) for margin in margins]
        bins = [0] * BINS
        for score in scores:
            bins[min(int(score * BINS), BINS - 1)] += 1
        return cls(
            count=len(scores),
            sum_units=round(math.fsum(scores) * UNITS),
            squares_units=round(math.fsum(score * score for score in scores) * UNITS),
            above=sum(score > HIGH for score in scores),
            below=sum(score < LOW for score in scores),
            bins=tuple(bins),
        )

    @classmethod
    def from_fields(cls, fields: Mapping[str, str | int]) -> ScoreDistribution:
        """The distribution whose `fields`, possibly added up, are among these."""
        count, total, squares, above, below = (int(fields.get(name, 0)) for name in _COUNTS)
        return cls(
            count=count,
            sum_units=total,
            squares_units=squares,
            above=above,
            below=below,
            bins=tuple(int(fields.get(name, 0)) for name in _BIN_FIELDS),
        )

    def fields(self) -> dict[str, int]:
        """Flat counters that can be added up by name, without those that are 0."""
        counts = (self.count, self.sum_units, self.squares_units, self.above, self.below)
        named = zip(_COUNTS + _BIN_FIELDS, counts + self.bins, strict=True)
        return {name: value for name, value in named if value}

    def __add__(self, other: ScoreDistribution) -> ScoreDistribution:
        mine, theirs = self.fields(), other.fields()
        return ScoreDistribution.from_fields(
            {name: mine.get(name, 0) + theirs.get(name, 0) for name in mine | theirs}
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float:
        """Mean score; 0 without scores."""
        return self.sum_units / UNITS / self.count if self.count else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def spread(self) -> float:
        """Standard deviation of the scores (of the population, not of a sample)."""
        if not self.count:
            return 0.0
        # in integers: the difference of two large sums must stay exact
        squared = self.count * self.squares_units * UNITS - self.sum_units**2
        return math.sqrt(max(squared, 0)) / UNITS / self.count

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share_above(self) -> float:
        """Share of scores above HIGH."""
        return self.above / self.count if self.count else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def share_below(self) -> float:
        """Share of scores below LOW."""
        return self.below / self.count if self.count else 0.0

    def bars(self) -> str:
        """The histogram as BINS characters: blank for an empty bin, full for the largest."""
        most = max(self.bins)
        return "".join(_bar(count, most) for count in self.bins)

    def describe(self) -> str:
        """The figures in words."""
        return (
            f"mean {self.mean:.3f}, spread {self.spread:.3f}, {self.share_above:.0%} above {HIGH}, "
            f"{self.share_below:.0%} below {LOW}"
        )


def _bar(count: int, most: int) -> str:
    """A count as a character; any count above 0 is visible."""
    return _BARS[min(count * len(_BARS) // (most + 1), len(_BARS) - 1)] if count else " "
