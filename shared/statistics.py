"""What workers, models, profiles and priorities did, hour by hour: counters that can be added up.

`commit.lua` adds each committed shard once. Latency is that of a shard, from its claim to its
commit, counted in buckets of which each is a factor 2^(1/4) wide: a percentile is the middle of its
bucket, at most 9.1 % from the exact one. Pure: `state/statistics.py` reads them from Redis.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, computed_field

from rerankfleet.shared.score_distribution import ScoreDistribution

Kind = Literal["worker", "model", "profile", "priority"]
KINDS: tuple[Kind, ...] = get_args(Kind)

HOURS_KEPT = 24
TTL_MS = (HOURS_KEPT + 1) * 3_600_000
"""How long an hour's counters are kept after their last commit."""
BUCKETS_PER_OCTAVE = 4
"""Latency buckets per doubling; `commit.lua` has the same number."""

_LATENCY = "latency_"
_COUNTS = (
    *("requests", "scored", "errors", "bad_lines", "rejected"),
    *("truncated", "crowded", "tokens", "shards"),
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Latency(_Frozen):
    """Latencies in logarithmic buckets: bucket b holds 2^(b/4) to 2^((b+1)/4) ms."""

    total_ms: int = 0
    buckets: dict[int, int] = {}

    @property
    def count(self) -> int:
        """How many latencies there are."""
        return sum(self.buckets.values())

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean_s(self) -> float:
        """The exact mean; 0 when there are none."""
        return self.total_ms / self.count / 1000 if self.count else 0.0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p50_s(self) -> float:
        """The median, at most 9.1 % off."""
        return self.percentile_s(0.50)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def p95_s(self) -> float:
        """The 95th percentile, at most 9.1 % off."""
        return self.percentile_s(0.95)

    def percentile_s(self, share: float) -> float:
        """The latency that `share` of all stay below (nearest rank); 0 when there are none."""
        left = share * self.count
        for bucket, count in sorted(self.buckets.items()):
            left -= count
            if left <= 0:
                return float(2 ** ((bucket + 0.5) / BUCKETS_PER_OCTAVE)) / 1000
        return 0.0


class Statistics(_Frozen):
    """What one worker, model, profile or priority did in some hours."""

    kind: Kind
    name: str
    requests: int = 0
    """Requests that began; of a catalog, images. Those of a retry count again."""
    scored: int = 0
    errors: int = 0
    """Pairs with an error, including those that a later retry scored; and `bad_lines`."""
    bad_lines: int = 0
    """Lines that could not be read, which have no pair."""
    rejected: int = 0
    truncated: int = 0
    """Scored pairs that max_length truncated."""
    crowded: int = 0
    """Scored pairs whose query left no room for the document."""
    tokens: int = 0
    shards: int = 0
    latency: Latency = Latency()
    scores: ScoreDistribution = ScoreDistribution()

    @computed_field  # type: ignore[prop-decorator]
    @property
    def pairs(self) -> int:
        """Pairs with an outcome."""
        return self.scored + self.errors + self.rejected - self.bad_lines


def statistics_of(kind: Kind, name: str, hours: Iterable[Mapping[str, str]]) -> Statistics:
    """Add up the counters of some hours."""
    total: Counter[str] = Counter()
    for fields in hours:
        total.update({field: int(count) for field, count in fields.items()})
    buckets = {
        int(field.removeprefix(_LATENCY)): count
        for field, count in total.items()
        if field.removeprefix(_LATENCY).isdecimal()
    }
    return Statistics(
        kind=kind,
        name=name,
        **{field: total[field] for field in _COUNTS},
        latency=Latency(total_ms=total["latency_ms"], buckets=buckets),
        scores=ScoreDistribution.from_fields(total),
    )


class TemperatureChange(_Frozen):
    """A change of a profile's temperature by a job's scores, for later jobs."""

    at_s: float
    job: str
    mean: float
    """Mean score of the job."""
    base: float | None = None
    """The profile's configured temperature then: the change is valid while it is the same."""
    before: float
    to: float
