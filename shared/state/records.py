"""The records of the state: a job, an open shard, a lease."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rerankfleet.shared.errors import UnreadableJob
from rerankfleet.shared.job_spec import JobSpec
from rerankfleet.shared.job_status import CODE, Progress
from rerankfleet.shared.score_distribution import ScoreDistribution

LOOK_AGAIN_MS = 10_000
"""After this time without a change, the monitor looks at an unfinished job."""


_NUMBER = re.compile(r"-?\d{1,18}", re.ASCII)
_NUMBERS = (
    *(
        "created_ms",
        "began_ms",
        "finished_ms",
        "last_commit_ms",
        "newer_ms",
        "t0",
        "d0",
        "t1",
        "d1",
    ),
    *("base", "inline", "low_water", "round"),
)
"""Facts that are numbers, besides its counts."""


def damaged(job_id: str, what: str) -> UnreadableJob:
    """The error for a record that no version writes."""
    return UnreadableJob(
        f"a record of job {job_id} is damaged: {what}", hint="submit it again as a new job"
    )


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
        """A count among the facts; 0 when absent. Raises UnreadableJob for what is no number."""
        value = self.facts.get(name) or "0"
        if not _NUMBER.fullmatch(value):
            raise damaged(self.id, f"{name} is {value[:100]!a}")
        return int(value)

    def check(self) -> None:
        """Raise UnreadableJob unless its facts can be read as what they are."""
        for name in _NUMBERS:
            self.number(name)
        _ = self.progress, self.error_codes, self.scores

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
        return Progress(
            total=self.number("total") if "total" in self.facts else None,
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
        names = (name for name in self.facts if name.startswith("score"))
        return ScoreDistribution.from_fields({name: self.number(name) for name in names})


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
