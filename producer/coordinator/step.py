"""What the steps of a job share: feed and finish run under a lease, and wait for infrastructure."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Self

import structlog

from rerankfleet.shared.errors import RerankError, StorageRefused, Unavailable, UnreadableJob
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

LOOK_S = 1.0
"""How often a step in hand looks whether it is still wanted."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Control:
    """What the coordinator's steps work with."""

    store: Store
    objects: Objects
    hints: Hints
    settings: Settings

    def inputs_of(self, job: Job) -> Objects:
        """The objects that a job may read by the addresses it names, and its own."""
        return self.objects.for_inputs(job.id)

    def outputs_of(self, job: Job) -> Objects:
        """The objects that a job may write by the address it names, and its own."""
        return self.objects.for_outputs(job.id, over_http=job.spec.over_http)


class StepOver(Exception):
    """A step must not go on: its lease is lost, or its job was paused or cancelled meanwhile."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the step is over: {why}")
        self.why = why


class Step:
    """A step in hand. Its loops call `beat`, which renews its lease."""

    def __init__(self, job_id: str, control: Control) -> None:
        self.token = uuid.uuid4().hex
        self.until_cancelled = False
        """Whether a cancellation ends it."""
        self._job_id = job_id
        self._control = control
        self._looked_s = time.monotonic()

    @classmethod
    def begin(cls, job_id: str, control: Control) -> Self | None:
        """Lease a job, unless another step of it is running or it has ended."""
        step = cls(job_id, control)
        began = control.store.jobs.begin_step(job_id, step.token)
        return step if began == "yes" else None

    def beat(self) -> None:
        """Renew the lease when that is due. Raises StepOver."""
        if time.monotonic() - self._looked_s >= min(LOOK_S, self._control.settings.lease_s / 4):
            self.hold()

    def hold(self) -> None:
        """Renew the lease now. Raises StepOver."""
        self._looked_s = time.monotonic()
        answer = self._control.store.jobs.hold_step(self._job_id, self.token)
        if answer in ("lost", "paused") or (answer == "cancelled" and self.until_cancelled):
            raise StepOver(answer)

    def is_lost(self) -> bool:
        """Whether the step is another's, or the job ended."""
        return self._control.store.jobs.hold_step(self._job_id, self.token) == "lost"

    def end(self) -> None:
        """Release the lease."""
        self._control.store.jobs.end_step(self._job_id, self.token)

    def wait(self, error: RerankError) -> bool:
        """End the step for now, and say in the job what it waits for.

        Infrastructure that is away is waited for without end, a refusal for `storage_wait_s`: a
        folder that is mounted again in a moment looks like one that was deleted. Returns False when
        that time is over: then the step is still in hand.
        """
        if self.is_lost():
            return True
        passes = isinstance(error, Unavailable | UnreadableJob)  # a newer version may come
        jobs = self._control.store.jobs
        patience_s = None if passes else self._control.settings.storage_wait_s
        waits = jobs.wait(self._job_id, str(error), patience_s=patience_s)
        if waits.over:
            return False
        log.warning("a step is delayed", job=self._job_id, error=str(error))
        jobs.end_step(self._job_id, self.token, due_ms=waits.delay_ms)
        return True

    def resumes_s(self, error: RerankError) -> float:
        """After which time a job that is paused for an error looks again by itself; 0: never."""
        return self._control.settings.storage_wait_s if isinstance(error, StorageRefused) else 0
