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

from rerankfleet.producer.client import Client

SAMPLE_S = 2.0
SAMPLES = 900
"""Half an hour."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sample:
    """The fleet at one moment."""

    at_s: float
    pairs_per_s: float
    queue: int
    """Open shards of all models."""


class History:
    """Samples the fleet in a thread of its own while it runs. Bounded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin to sample."""
        threading.Thread(target=self._run, name="history", daemon=True).start()

    def stop(self) -> None:
        """Sample no more."""
        self._stop.set()

    def samples(self, since_s: float = 0.0) -> list[dict[str, Any]]:
        """The fleet's rate and queue over time, oldest first; those after a moment."""
        return [asdict(sample) for sample in list(self._samples) if sample.at_s > since_s]

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                self.sample()
            except Exception as error:  # Redis is away, or holds what a newer version wrote
                log.warning("no sample of the fleet", error=str(error))

    def sample(self) -> None:
        """Look at the fleet once."""
        client, now_s = self._client, time.time()
        workers = client.workers()
        queue = sum(client.store.shards.backlog(model) for model in client.store.jobs.models())
        rate = sum(worker.pairs_per_s for worker in workers)
        self._samples.append(Sample(now_s, rate, queue))
