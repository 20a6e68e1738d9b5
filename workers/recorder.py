"""Counts and times what a worker does, from its start; a snapshot goes with each heartbeat.

What can be counted, and under which labels, stands in `shared.metrics`. A call takes about a
microsecond; memory is bounded by the labels' values. No Redis.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.metrics import (
    BATCH_SPLITS,
    FAMILIES,
    PAIRS,
    STAGES,
    TOKENS,
    Counts,
    Family,
    Labels,
)
from rerankfleet.shared.observations import Observation


class Recorder:
    """Counters, gauges and histograms of one worker. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # from 0 on, so that the first increase is seen as one
        self._numbers: dict[str, dict[Labels, float]] = {
            family.name: dict.fromkeys(family.all_labels, 0) if family.kind == "counter" else {}
            for family in FAMILIES
            if family.kind != "histogram"
        }
        self._histograms: dict[str, dict[Labels, list[float]]] = {
            family.name: {} for family in FAMILIES if family.kind == "histogram"
        }

    def add(self, family: Family, *labels: str, amount: float = 1) -> None:
        """Count so many more. Labels that the family does not list are not counted."""
        with self._lock:
            samples = self._numbers[family.name]
            if labels in samples:
                samples[labels] += amount

    def set(self, family: Family, *labels: str, value: float) -> None:
        """What a gauge stands at, or what a counter that someone else keeps has come to."""
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
        """Observe how long a step of a stage takes, however it ends."""
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.observe(STAGES, stage, value=time.monotonic() - began_s)

    def counts(self) -> Counts:
        """All of it, up to now."""
        with self._lock:
            numbers = {name: dict(samples) for name, samples in self._numbers.items()}
            histograms = {
                name: {labels: [*counts[:-1], round(counts[-1], 6)] for labels, counts in s.items()}
                for name, s in self._histograms.items()
            }
        return {**numbers, **histograms}

    def pack(self, seen: Observation) -> None:
        """Count one forward pass."""
        self.observe(STAGES, "forward", value=seen.forward_s)
        if seen.oom:
            self.add(BATCH_SPLITS, "oom", amount=seen.pairs > 1)
            return
        self.add(TOKENS, "text", amount=seen.text_tokens)
        self.add(TOKENS, "image", amount=seen.image_tokens - seen.video_tokens)
        self.add(TOKENS, "video", amount=seen.video_tokens)
        self.add(TOKENS, "shared", amount=seen.shared_tokens)

    def pairs(self, slices: Sequence[Slice], outcomes: Sequence[SliceOutcome]) -> None:
        """Count the pairs of a shard that was committed, by what they hold and what became of
        them. What was decided at the door may not say what it holds."""
        modalities: dict[tuple[int, int | None], str] = {
            (piece.line, index): _modality(piece.query, document)
            for piece in slices
            for index, document in zip(piece.indices, piece.documents, strict=True)
        }
        found: Counter[Labels] = Counter()
        for outcome in outcomes:
            line = outcome.line
            for scored in outcome.results:
                found[modalities.get((line, scored.index), "unknown"), "ok"] += 1
            for failure in outcome.errors:
                modality = modalities.get((line, failure.index), "unknown")
                found[modality, "rejected" if failure.rejected else "error"] += 1
        for labels, count in found.items():
            self.add(PAIRS, *labels, amount=count)


def _modality(*contents: Content) -> str:
    if any(content.video for content in contents):
        return "video"
    return "image" if any(content.image for content in contents) else "text"
