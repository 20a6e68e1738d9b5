"""The state of a job: counts and progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.options import NO_PROFILE
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.score_distribution import ScoreDistribution

CODE = "code_"
"""How the names of a job's counts of errors begin; the code follows."""


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
    bad_lines: int = 0
    """Of the errors: lines of input that could not be read, which have no pair."""
    codes: Mapping[str, int] = {}
    """The errors by their code."""
    scores: ScoreDistribution = ScoreDistribution()
    profile: str = NO_PROFILE
    priority: Priority = Priority.normal

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, without those that are 0."""
        named = self.model_dump(exclude={"scores", "profile", "priority", "codes"})
        named |= self.scores.fields()
        named |= {f"{CODE}{code}": count for code, count in self.codes.items()}
        return {name: count for name, count in named.items() if count}


class Progress(Frozen):
    """A job's counts. `fed`, `total` and `done` are of items: each pair is one, and so is each line
    of input that could not be read. `total` is known once the whole input has been read."""

    lines: int = 0
    fed: int = 0
    total: int | None = None
    scored: int = 0
    errors: int = 0
    """Items with an error: pairs, and `bad_lines`."""
    bad_lines: int = 0
    """Lines that could not be read, as far as their shards are done."""
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0
    crowded: int = 0

    @property
    def done(self) -> int:
        """Items with an outcome."""
        return self.scored + self.errors + self.rejected + self.cancelled

    @property
    def pairs(self) -> int:
        """Pairs with an outcome."""
        return self.done - self.bad_lines

    @property
    def pairs_total(self) -> int | None:
        """All pairs, where the input has been read; a line that could not be read counts as one
        until its shard is done."""
        return None if self.total is None else self.total - self.bad_lines


FAILED = "failed"
"""What people read instead of "done" when nothing of a job could be scored."""
JobState = Literal["running", "paused", "finishing", "done", "cancelled"]


class JobStatus(Frozen):
    """What `rerank status` shows."""

    id: str
    state: JobState
    reason: str = ""
    """What limits the job, or why nothing could be scored, in words."""
    held_back: bool = False
    """Whether nothing of it moves until the reason is gone."""
    nothing_scored: bool = False
    """Whether it is done, and none of its items could be scored."""
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
    owner: str = ""
    """The name of the API key that made it; empty without one."""
    round: int = 0
    output: str | None = None
    passed_over: str = ""
    """What the job does not take of its prefix or folder, in one line."""
    scores: ScoreDistribution = ScoreDistribution()
    """The distribution of its scores so far: sigmoid(margin / temperature), before top_p."""

    @property
    def shown_state(self) -> str:
        """The state for people: a job is not called done when nothing of it could be scored."""
        return FAILED if self.nothing_scored else self.state
