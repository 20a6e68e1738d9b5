"""The positions of small requests in their queues, read once for all that want to know.

To find one hint among those that wait, the whole list must be read: for each of many requests that
would be work by the square of their number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rerankfleet.shared.state.store import Store

MAX_AGE_S = 0.3
"""How long a list that was read is used again."""


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """How far a small request has come."""

    ahead: int | None
    """Shards before it in its queue; None once a worker has claimed the first of its own."""
    done: int
    """Its pairs that have an outcome."""
    total: int
    """All its pairs."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A queue's list as it was read."""

    at_s: float
    waiting: int
    positions: Mapping[str, int]
    """Of each job, how many hints are taken before its first."""


class QueuePositions:
    """Positions in the broker's lists, up to MAX_AGE_S old. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._readings: dict[str, _Reading] = {}

    def ahead(self, list_key: str, job_id: str, since_s: float) -> int:
        """How many hints of a list are taken before the first of a job, all of whose hints were
        sent before `since_s` (`time.monotonic`); 0 if it has none there."""
        reading = self._read(list_key)
        if job_id in reading.positions:
            return reading.positions[job_id]
        return reading.waiting if reading.at_s < since_s else 0  # it was sent after the reading

    def _read(self, list_key: str) -> _Reading:
        with self._lock:  # one thread reads, the others wait for its reading
            reading, now_s = self._readings.get(list_key), time.monotonic()
            if reading is None or now_s - reading.at_s > MAX_AGE_S:
                waiting, positions = self._store.broker.hint_positions(list_key)
                reading = self._readings[list_key] = _Reading(now_s, waiting, positions)
            return reading
