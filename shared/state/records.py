"""What the state hands out: a job, an open shard, a lease."""

from __future__ import annotations

from dataclasses import dataclass, field

from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.job_status import Progress
from rerankfleet.shared.score_distribution import ScoreDistribution


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Redis has it: the spec and the raw facts."""

    id: str
    spec: JobSpec
    facts: dict[str, str]
    open_shards: int

    def number(self, name: str) -> int:
        """A count among the facts; 0 when absent."""
        return int(self.facts.get(name) or 0)

    @property
    def sealed(self) -> bool:
        """Whether the whole input was cut."""
        return self.facts.get("sealed") == "1"

    @property
    def cancelled(self) -> bool:
        """Whether someone cancelled it."""
        return "cancel" in self.facts

    @property
    def paused(self) -> str | None:
        """Why it stands still, or None."""
        return self.facts.get("paused")

    @property
    def finished(self) -> bool:
        """Whether its output is published."""
        return "finished_ms" in self.facts

    @property
    def round(self) -> int:
        """How many times it was retried."""
        return self.number("round")

    @property
    def progress(self) -> Progress:
        """Its counts."""
        names = (
            "lines",
            "fed",
            "scored",
            "errors",
            "rejected",
            "cancelled",
            "tokens",
            "truncated",
            "crowded",
        )
        total = self.facts.get("total")
        return Progress(
            total=int(total) if total is not None else None,
            **{name: self.number(name) for name in names},
        )

    @property
    def scores(self) -> ScoreDistribution:
        """How its scores are spread."""
        return ScoreDistribution.from_fields(self.facts)


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that one feed step cut: items [start, end) described in `file`."""

    start: int
    end: int
    file: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed shard."""

    job_id: str
    model: str
    shard: str
    token: str
    file: str
    poison: bool = False
    worker: str = ""
    waited_s: float = field(default=0.0, compare=False)
    """From when it was due until it was claimed."""
