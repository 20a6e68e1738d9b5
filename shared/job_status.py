"""The state of a job: counts and progress."""

from __future__ import annotations

from typing import Literal

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.options import NO_PROFILE
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.score_distribution import ScoreDistribution


class ShardSummary(Frozen):
    """The counts that a commit adds to its job and to the statistics."""

    scored: int = 0
    errors: int = 0
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0
    crowded: int = 0
    requests: int = 0
    """Requests that begin in the shard; of a catalog, images."""
    scores: ScoreDistribution = ScoreDistribution()
    profile: str = NO_PROFILE
    priority: Priority = Priority.normal

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, without those that are 0."""
        named = self.model_dump(exclude={"scores", "profile", "priority"}) | self.scores.fields()
        return {name: count for name, count in named.items() if count}


class Progress(Frozen):
    """A job's counts. `total` is known once the whole input has been read."""

    lines: int = 0
    fed: int = 0
    total: int | None = None
    scored: int = 0
    errors: int = 0
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0
    crowded: int = 0

    @property
    def done(self) -> int:
        """Items with an outcome."""
        return self.scored + self.errors + self.rejected + self.cancelled


JobState = Literal["running", "paused", "finishing", "done", "cancelled"]


class JobStatus(Frozen):
    """What `rerank status` shows."""

    id: str
    state: JobState
    reason: str = ""
    """What the job waits for, in words."""
    model: str
    priority: Priority
    progress: Progress
    open_shards: int = 0
    leased_shards: int = 0
    created_s: float
    finished_s: float | None = None
    pairs_per_s: float = 0.0
    eta_s: float | None = None
    name: str = ""
    round: int = 0
    output: str | None = None
    passed_over: str = ""
    """What the job does not take of its prefix or folder, in one line."""
    scores: ScoreDistribution = ScoreDistribution()
    """The distribution of its scores so far: sigmoid(margin / temperature), before top_p."""
