"""How long a pack takes on a device: seconds = overhead + rate · cost, learned pack by pack. Pure.

Recursive least squares in two unknowns. Errors are relative to the expected time, since the noise
of a device grows with its packs. Forgetting means that the uncertainty grows: fast in the direction
of the device's speed (both unknowns together), slowly in that of its shape (overhead against rate),
so that many packs of one size do not wash out what was learned from other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist, median
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

#: The share of packs that must meet the latency target.
QUANTILE = 0.95
#: Packs after which the device's speed is forgotten; its shape is forgotten this factor later.
_MEMORY_PACKS = 50
_SHAPE_MEMORY = 6
#: Packs whose relative errors estimate the noise: rare slow packs, up to about one in fifty, stay
#: beyond the quantile.
_RATIOS = 256
#: The noise that is assumed at first, with the weight of this many packs.
_ASSUMED_NOISE = 0.1
_ASSUMED_PACKS = 64
_NOISE_MIN = 0.01
#: Errors are clipped at this many standard deviations: a single slow pack moves the fit little.
_OUTLIER = 3.0
#: This many outliers in a row to one side are none: the device changed its speed.
_CHANGED = 3
#: Packs that count as recent when their costs are compared.
_RECENT = 32

PackTime = tuple[float, float]
"""Cost and seconds of a pack."""


class _Estimate(NamedTuple):
    """Overhead a and rate b with their covariance: a Kalman filter's state."""

    a: float
    b: float
    aa: float
    ab: float
    bb: float

    def seconds(self, cost: float) -> float:
        return self.a + self.b * cost

    def deviation(self, cost: float) -> float:
        """Standard deviation of `seconds(cost)`, relative to it."""
        variance = self.aa + 2 * self.ab * cost + self.bb * cost * cost
        return math.sqrt(max(variance, 0.0)) / self.seconds(cost)

    def error(self, pack: PackTime) -> float:
        """Relative deviation of a pack from its expected time."""
        return pack[1] / self.seconds(pack[0]) - 1

    def after(self, pack: PackTime, noise: float, error: float) -> _Estimate:
        """The estimate after one more pack, with its relative noise and error."""
        cost, expected = pack[0], self.seconds(pack[0])
        pa, pb = (self.aa + self.ab * cost) / expected, (self.ab + self.bb * cost) / expected
        variance = (pa + pb * cost) / expected + noise**2
        return _Estimate(
            max(self.a + pa * error / variance, 0.0),
            max(self.b + pb * error / variance, 1e-12),
            self.aa - pa * pa / variance,
            self.ab - pa * pb / variance,
            self.bb - pb * pb / variance,
        )

    def forgetting(self, speed: float, shape: float) -> _Estimate:
        """Less certain, by these relative variances of both unknowns together and of each alone."""
        a, b = self.a, self.b
        own = speed + shape
        return self._replace(
            aa=max(self.aa, 0.0) + own * a * a,
            ab=self.ab + speed * a * b,
            bb=max(self.bb, 0.0) + own * b * b,
        )


def _assumed_ratios() -> tuple[float, ...]:
    normal = NormalDist()
    steps = [(i + 0.5) / _ASSUMED_PACKS for i in range(_ASSUMED_PACKS)]
    return tuple(round(math.exp(_ASSUMED_NOISE * normal.inv_cdf(step)), 4) for step in steps)


class Fit(BaseModel):
    """What is known of a device's speed. Small enough to be stored as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    overhead_s: FiniteFloat = Field(ge=0)
    s_per_token: FiniteFloat = Field(gt=0)
    covariance: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    """Of overhead and rate: variance, covariance, variance."""
    ratios: tuple[FiniteFloat, ...] = Field(_assumed_ratios(), min_length=1, max_length=_RATIOS)
    """Measured over expected seconds of the last packs."""
    costs: tuple[FiniteFloat, ...] = Field((), max_length=_RECENT)
    """Of the last packs."""
    suspects: tuple[tuple[FiniteFloat, FiniteFloat], ...] = Field((), max_length=_CHANGED)
    """The last packs, while all were outliers to one side: cost and seconds."""

    @classmethod
    def guessed(cls, overhead_s: float, s_per_token: float) -> Fit:
        """A fit that may be wrong by a factor of two or so, as a self-test's figures are."""
        b = max(s_per_token, 1e-9)
        a = max(overhead_s, 16 * b)
        return cls(overhead_s=a, s_per_token=b, covariance=(a * a, 0.0, b * b))

    @classmethod
    def of_first(cls, pack: PackTime) -> Fit:
        """A fit of a single pack: half of its time is taken as overhead."""
        return cls.guessed(pack[1] / 2, pack[1] / 2 / pack[0])

    @property
    def noise(self) -> float:
        """Relative standard deviation of packs, except rare slow ones."""
        ranked = sorted(self.ratios)
        low, high = (ranked[int(q * (len(ranked) - 1))] for q in (0.16, 0.84))
        return max((high - low) / 2, _NOISE_MIN)

    @property
    def slow_ratio(self) -> float:
        """p95 of measured over expected seconds, estimated high by one standard error."""
        ranked = sorted(self.ratios)
        n = len(ranked)
        rank = math.ceil(QUANTILE * n + math.sqrt(QUANTILE * (1 - QUANTILE) * n))
        return ranked[min(rank, n) - 1]

    def p95_s(self, cost: float) -> float:
        """p95 latency of packs of this cost."""
        return self._estimate().seconds(cost) * self.slow_ratio

    def cost_within(self, seconds: float) -> float:
        """The largest cost whose p95 is at most this long; 0 or less when there is none."""
        return (seconds / self.slow_ratio - self.overhead_s) / self.s_per_token

    def cost_gaining(self, gain: float) -> float:
        """The cost beyond which no size raises throughput by more than this share.

        The throughput cost / (a + b · cost) approaches 1 / b; it is within the share of it from
        a / b · (1 - gain) / gain on. An uncertain overhead counts as a larger one.
        """
        overhead_s = self.overhead_s + math.sqrt(self.covariance[0])
        return overhead_s / self.s_per_token * (1 - gain) / gain

    def doubtful(self, cost: float, doubt: float) -> bool:
        """Whether recent packs were too alike (less than twofold) to predict the time of this cost
        within this relative deviation."""
        alike = bool(self.costs) and max(self.costs) < 2 * min(self.costs)
        return alike and self._estimate().deviation(cost) > doubt

    def learn(self, packs: Iterable[PackTime]) -> Fit:
        """The fit after these packs, oldest first."""
        estimate, noise = self._estimate(), self.noise
        ratios, costs = list(self.ratios), list(self.costs)
        suspects = list(self.suspects)
        for pack in packs:
            costs.append(pack[0])
            error, doubt = estimate.error(pack), estimate.deviation(pack[0])
            most = _OUTLIER * math.hypot(doubt, noise)
            if doubt < noise:  # otherwise the error is the fit's rather than noise
                ratios.append(round(min(1 + error, 1e3), 4))
            suspects = _suspects(estimate, suspects, pack) if abs(error) > most else []
            if len(suspects) == _CHANGED:
                estimate = _changed(estimate, suspects, noise)
                del ratios[-min(_CHANGED, len(ratios) - 1) :]
                suspects = []
            else:
                estimate = estimate.after(pack, noise, min(max(error, -most), most))
            speed = (noise / _MEMORY_PACKS) ** 2
            estimate = estimate.forgetting(speed, speed / _SHAPE_MEMORY**2)
        return Fit(
            overhead_s=estimate.a,
            s_per_token=estimate.b,
            covariance=(estimate.aa, estimate.ab, estimate.bb),
            ratios=tuple(ratios[-_RATIOS:]),
            costs=tuple(costs[-_RECENT:]),
            suspects=tuple(suspects),
        )

    def _estimate(self) -> _Estimate:
        return _Estimate(self.overhead_s, self.s_per_token, *self.covariance)


def _suspects(estimate: _Estimate, before: Sequence[PackTime], pack: PackTime) -> list[PackTime]:
    """The outliers in a row: one to the other side starts a new row."""
    if before and (estimate.error(before[-1]) > 0) != (estimate.error(pack) > 0):
        return [pack]
    return [*before, pack]


def _changed(estimate: _Estimate, packs: Sequence[PackTime], noise: float) -> _Estimate:
    """The estimate after a change of speed: made as uncertain as these packs are off."""
    off = min(abs(median(estimate.error(pack) for pack in packs)), 10.0)
    estimate = estimate.forgetting(off**2, (off / 2) ** 2)
    for pack in packs:
        estimate = estimate.after(pack, noise, estimate.error(pack))
    return estimate
