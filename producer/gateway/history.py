"""The fleet's rate and queue over the last half hour, for the curves of the page.

Redis keeps no history of rates, so each gateway samples its own while it runs.
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
    """Samples the fleet in a thread. Bounded."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._stop = threading.Event()

    def start(self) -> None:
        """Start sampling."""
        threading.Thread(target=self._run, name="history", daemon=True).start()

    def stop(self) -> None:
        """Stop sampling."""
        self._stop.set()

    def samples(self, since_s: float = 0.0) -> list[dict[str, Any]]:
        """The samples taken after a moment, the oldest first."""
        return [asdict(sample) for sample in list(self._samples) if sample.at_s > since_s]

    def _run(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            try:
                self.sample()
            except Exception as error:  # Redis is away, or holds what a newer version wrote
                log.warning("no sample of the fleet", error=str(error))

    def sample(self) -> None:
        """Take one sample."""
        now_s, fleet = time.time(), self._client.store.snapshot()
        queue = sum(fleet.open_shards.values())
        self._samples.append(Sample(now_s, fleet.pairs_per_s, queue))
