"""The records of the state: a job, an open shard, a lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.job_status import CODE, Progress
from rerankfleet.shared.score_distribution import ScoreDistribution

LOOK_AGAIN_MS = 10_000
"""After this time without a change, the monitor looks at an unfinished job."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Redis has it: its spec, and its facts as text."""

    id: str
    spec: JobSpec
    facts: dict[str, str]
    open_shards: int

    def with_facts(self, facts: Mapping[str, str]) -> Job:
        """The job with facts that were written after it was read."""
        return replace(self, facts={**self.facts, **facts})

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
        """Why it is paused, or None."""
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
            "bad_lines",
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
    def error_codes(self) -> dict[str, int]:
        """Its errors by their code."""
        names = [name for name in self.facts if name.startswith(CODE) and self.number(name)]
        return {name.removeprefix(CODE): self.number(name) for name in names}

    @property
    def scores(self) -> ScoreDistribution:
        """The distribution of its scores."""
        return ScoreDistribution.from_fields(self.facts)


@dataclass(frozen=True, slots=True)
class OpenShard:
    """A shard that a feed step cut: items [start, end), which `file` describes."""

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
