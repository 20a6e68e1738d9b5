"""What the fleet did in the last minutes, sampled by this process: for the page's curves.

Redis keeps no history of rates. A gateway that was started just now has a short one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from producer.client import Client
from shared.fleet import WorkerRow
from shared.store import REDIS_ERRORS

SAMPLE_S = 2.0
SAMPLES = 900
"""Half an hour."""
CHANGES = 200
"""Changes of one worker's batch size."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at one moment."""

    at_s: float
    pairs_per_s: float
    queue: int
    """Open shards of all models."""


@dataclass(frozen=True, slots=True)
class BatchChange:
    """A worker's batch size from a moment on."""

    at_s: float
    tokens: int
    pairs: int
    reason: str


class History:
    """Samples the fleet in a thread of its own while it runs. Bounded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._changes: dict[str, deque[BatchChange]] = {}
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to sample."""
        threading.Thread(target=self._run, name="history", daemon=True).start()

    def stop(self) -> None:
        """Sample no more."""
        self._stop.set()

    def samples(self) -> list[dict[str, Any]]:
        """The fleet's rate and queue over time, oldest first."""
        return [asdict(sample) for sample in list(self._samples)]

    def batch_sizes(self) -> dict[str, list[dict[str, Any]]]:
        """Per living worker, how its batch size changed and why."""
        return {name: [asdict(c) for c in list(found)] for name, found in self._changes.items()}

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                self.sample()
            except REDIS_ERRORS as error:
                log.warning("no sample of the fleet", error=str(error))

    def sample(self) -> None:
        """Look at the fleet once."""
        client, now_s = self._client, time.time()
        workers = client.workers()
        queue = sum(client.store.backlog(model) for model in client.store.models())
        rate = sum(worker.pairs_per_s for worker in workers)
        self._samples.append(Sample(now_s, rate, queue))
        before = self._changes
        self._changes = {
            w.id: _changed(before.get(w.id, deque(maxlen=CHANGES)), w, now_s) for w in workers
        }


def _changed(before: deque[BatchChange], worker: WorkerRow, now_s: float) -> deque[BatchChange]:
    found = (worker.batch_tokens, worker.batch_pairs, worker.batch_reason)
    last = before[-1] if before else None
    if any(found) and (last is None or (last.tokens, last.pairs, last.reason) != found):
        before.append(BatchChange(now_s, *found))
    return before
