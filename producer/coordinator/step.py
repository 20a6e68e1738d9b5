"""What the steps of a job share: feed and finish run under a lease, and wait for infrastructure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from rerankfleet.shared.errors import Unavailable
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

DELAY_MS = 5000
"""When a step that found infrastructure unavailable is tried again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Control:
    """What the coordinator's steps work with."""

    store: Store
    objects: Objects
    hints: Hints
    settings: Settings


def delay(job_id: str, token: str, control: Control, error: Unavailable) -> None:
    """End a step for now, and say in the job what it waits for."""
    log.warning("a step is delayed", job=job_id, error=str(error))
    control.store.jobs.set_facts(job_id, waiting_for=str(error))
    control.store.jobs.end_step(job_id, token, due_ms=DELAY_MS)


def lease_keeper(job_id: str, token: str, control: Control) -> Callable[[], None]:
    """A function for the loops of a step: it renews the step's lease when that is due."""
    interval_s = control.settings.lease_s / 4
    last = time.monotonic()

    def renew() -> None:
        nonlocal last
        if time.monotonic() - last > interval_s:
            last = time.monotonic()
            control.store.jobs.begin_step(job_id, token)

    return renew
