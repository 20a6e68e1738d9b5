"""Counts and times, from the start of a process; a snapshot of them travels as `metrics.Counts`.

What can be counted, and under which labels, is declared in `shared.metrics`. A call takes about a
microsecond; memory is bounded by the labels' values. No Redis.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager

from rerankfleet.shared.metrics import FAMILIES, STAGES, Counts, Family, Labels


class Tally:
    """Counters, gauges and histograms of one process. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # starting at 0, so that the first increment shows as an increase
        self._numbers: dict[str, dict[Labels, float]] = {
            family.name: dict.fromkeys(family.all_labels, 0) if family.kind == "counter" else {}
            for family in FAMILIES
            if family.kind != "histogram"
        }
        self._histograms: dict[str, dict[Labels, list[float]]] = {
            family.name: {} for family in FAMILIES if family.kind == "histogram"
        }

    def add(self, family: Family, *labels: str, amount: float = 1) -> None:
        """Increase a counter. Labels that the family does not list are not counted."""
        with self._lock:
            samples = self._numbers[family.name]
            if labels in samples:
                samples[labels] += amount

    def set(self, family: Family, *labels: str, value: float) -> None:
        """Set a gauge, or a counter that is kept elsewhere."""
        with self._lock:
            self._numbers[family.name][labels] = value

    def observe(self, family: Family, *labels: str, value: float) -> None:
        """Put a value into its bucket of a histogram."""
        with self._lock:
            samples = self._histograms[family.name]
            if labels not in samples:
                samples[labels] = [0] * (len(family.buckets) + 2)
            samples[labels][bisect_left(family.buckets, value)] += 1
            samples[labels][-1] += value

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Observe how long the block takes, whether it succeeds or not."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.observe(STAGES, stage, value=time.monotonic() - began_s)

    def counts(self) -> Counts:
        """A snapshot of everything."""
        with self._lock:
            numbers = {name: dict(samples) for name, samples in self._numbers.items()}
            histograms = {
                name: {labels: [*counts[:-1], round(counts[-1], 6)] for labels, counts in s.items()}
                for name, s in self._histograms.items()
            }
        return {**numbers, **histograms}
