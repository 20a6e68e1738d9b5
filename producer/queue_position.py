"""Where small requests stand in their queues, looked at once for all who ask.

To find one hint among those that wait, all of them must be read: for each of many waiters that
would be work by the square of their number.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from rerankfleet.shared.state.store import Store

LOOK_S = 0.3
"""For so long what was seen of a queue is told."""


@dataclass(frozen=True, slots=True)
class QueuePosition:
    """Where a small request stands."""

    ahead: int | None
    """Shards before it in its queue; None once a worker has begun with it."""
    done: int
    total: int
    """Of its pairs, those that have an outcome, and all."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a queue."""

    at_s: float
    waiting: int
    places: Mapping[str, int]
    """Of each job, how many hints are taken before its first."""


class QueuePositions:
    """The broker's lists, as they were a moment ago. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._looks: dict[str, _Look] = {}

    def ahead(self, list_key: str, job_id: str, since_s: float) -> int:
        """How many hints of a list are taken before the first of a job, all of whose hints were
        sent before `since_s` (`time.monotonic`); 0 where it has none there."""
        look = self._look(list_key)
        if job_id in look.places:
            return look.places[job_id]
        return look.waiting if look.at_s < since_s else 0  # it came behind all that were seen

    def _look(self, list_key: str) -> _Look:
        with self._lock:  # the others wait for what one of them sees
            found, now_s = self._looks.get(list_key), time.monotonic()
            if found is None or now_s - found.at_s > LOOK_S:
                waiting, places = self._store.broker.hint_positions(list_key)
                found = self._looks[list_key] = _Look(now_s, waiting, places)
            return found
