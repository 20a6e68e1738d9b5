"""Hints that are recorded instead of sent."""

from __future__ import annotations

from rerankfleet.shared.job_spec import Priority

Hint = tuple[str, ...]


class RecordedHints:
    """Has the methods of `shared.queue.Hints`; `sent` holds (kind, job[, shard]) in order."""

    def __init__(self) -> None:
        self.sent: list[Hint] = []
        self.priorities: list[Priority] = []

    def shard(
        self, model: str, priority: Priority, job_id: str, shard: str, *, first: bool = False
    ) -> None:
        self.sent.append(("shard", job_id, shard))
        self.priorities.append(priority)

    def feed(self, job_id: str) -> None:
        self.sent.append(("feed", job_id))

    def finish(self, job_id: str) -> None:
        self.sent.append(("finish", job_id))

    def tick(self, expires_s: float) -> None:
        self.sent.append(("tick",))

    def take(self) -> list[Hint]:
        """The hints sent since the last take."""
        taken, self.sent = self.sent, []
        return taken
