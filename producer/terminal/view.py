"""What `rerank top` shows: the figures of a fleet at one moment, and how its queues went lately.

Reading them takes four round trips and writes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from rerankfleet.producer.client import Client
from rerankfleet.producer.status import describe
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot, ModelQueue

JOBS_MAX = 40
"""Unfinished jobs that are shown, the newest."""
FINISHED_SHOWN = 3
RECENT = 1000
"""How many jobs the fleet remembers in the order of their creation."""
MINUTE_S = 60.0
BLOCKS = "▁▂▃▄▅▆▇█"


class View(BaseModel):
    """The fleet at one moment of the server's clock."""

    model_config = ConfigDict(frozen=True)

    at_s: float
    silent_s: float | None = None
    """Seconds since a coordinator's last sign of life; None: there never was one."""
    coordinator_lives: bool = False
    workers: tuple[WorkerRow, ...] = ()
    queues: tuple[ModelQueue, ...] = ()
    jobs: tuple[JobStatus, ...] = ()
    """Unfinished ones, then those that finished last; the newest first."""
    unfinished: int = 0
    """How many unfinished jobs there are, shown or not."""

    @property
    def pairs_per_s(self) -> float:
        """Of all workers together."""
        return sum(worker.pairs_per_s for worker in self.workers)

    @property
    def tokens_per_s(self) -> float:
        """Of all workers together."""
        return sum(map(tokens_per_s, self.workers))


def tokens_per_s(worker: WorkerRow) -> float:
    """Its present rate: that of its device while it computes × the share in which it does."""
    return worker.tokens_per_s * worker.busy_share


def look(client: Client) -> View:
    """Read the figures of a fleet. Raises REDIS_ERRORS when the server goes away."""
    fleet = client.store.snapshot(unfinished_jobs=True)
    unfinished = set(fleet.unfinished_jobs)
    recent = client.store.jobs.recent(RECENT)
    running = [job_id for job_id in recent if job_id in unfinished]
    finished = [job_id for job_id in recent if job_id not in unfinished]
    jobs = client.store.jobs.get_many([*running[:JOBS_MAX], *finished[:FINISHED_SHOWN]])
    silent_s = fleet.coordinator_silent_s
    return View(
        at_s=fleet.at_ms / 1000,
        silent_s=silent_s if silent_s != float("inf") else None,
        coordinator_lives=fleet.coordinator_lives,
        workers=fleet.workers,
        queues=_queues(fleet),
        jobs=tuple(describe(job, fleet) for job in jobs),
        unfinished=len(running),
    )


def _queues(fleet: FleetSnapshot) -> tuple[ModelQueue, ...]:
    """Of models that are served or should be. Hints for any other may have been void for long."""
    served = set(fleet.served_models)
    return tuple(q for q in fleet.queues if q.model in served or q.open_shards)


class DepthHistory:
    """How many hints waited for each model in the last minute, while this process looked."""

    def __init__(self) -> None:
        self._depths: deque[tuple[float, Mapping[str, int]]] = deque()

    def add(self, view: View) -> None:
        """Remember a view and forget what is older than a minute, or of another clock."""
        if self._depths and view.at_s < self._depths[-1][0]:
            self._depths.clear()
        self._depths.append((view.at_s, {queue.model: queue.depth for queue in view.queues}))
        while view.at_s - self._depths[0][0] > MINUTE_S:
            self._depths.popleft()

    def sparkline(self, model: str, width: int) -> str:
        """The minute in `width` characters, the newest on the right; spaces before any look."""
        if not self._depths:
            return " " * width
        now_s = self._depths[-1][0]
        steps: list[int | None] = [None] * width
        for at_s, depths in self._depths:
            step = width - 1 - int((now_s - at_s) / MINUTE_S * width)
            if step >= 0:
                steps[step] = max(steps[step] or 0, depths.get(model, 0))
        return _sparks(steps)


def _sparks(steps: list[int | None]) -> str:
    """A block per step, relative to the highest; a step without a look repeats the one before."""
    highest = max((step for step in steps if step is not None), default=0)
    shown, last = "", " "
    for step in steps:
        if step is not None:
            last = BLOCKS[-(-step * (len(BLOCKS) - 1) // highest) if highest else 0]
        shown += last
    return shown
