"""Pairs submitted together with their future, and each pair while it waits for the device."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.prompting.prompts import Prompt

Outcome = float | ItemError


class Submission:
    """Pairs submitted together: their future and the outcomes so far. Settled once."""

    __slots__ = ("apart", "future", "left", "outcomes", "settled", "stop")

    def __init__(self, size: int, stop: threading.Event | None, *, apart: bool = False) -> None:
        self.future: Future[list[Outcome]] = Future()
        self.outcomes: list[Outcome | None] = [None] * size
        self.left = size
        self.settled = False
        self.stop = stop
        self.apart = apart

    @property
    def unwanted(self) -> bool:
        """Whether its remaining pairs need no scores: stopped, cancelled or failed."""
        return self.settled or self.future.cancelled() or bool(self.stop and self.stop.is_set())

    def put(self, index: int, outcome: Outcome) -> None:
        """Add one outcome; the last one completes the future."""
        self.outcomes[index] = outcome
        self.left -= 1
        if self.left == 0 and self._settle():
            self.future.set_result([o for o in self.outcomes if o is not None])

    def fail(self, error: Exception) -> None:
        """End the future with an error."""
        if self._settle():
            self.future.set_exception(error)

    def cancel(self) -> None:
        """End the future as cancelled."""
        if not self.settled:
            self.future.cancel()
            self._settle()

    def _settle(self) -> bool:
        """True for the one caller that may set the future's outcome."""
        if self.settled:
            return False
        self.settled = True
        return self.future.set_running_or_notify_cancel()


@dataclass(slots=True, eq=False)
class Item:
    """A waiting pair, and where its outcome goes."""

    prompt: Prompt
    lane: int
    submission: Submission
    index: int
    entered_s: float

    @property
    def tokens(self) -> int:
        """Its own tokens while it waits; a prefix with images belongs to a single query."""
        prompt = self.prompt
        query = len(prompt.prefix) if prompt.prefix.visuals else len(prompt.query)
        return query + len(prompt.document)

    def deliver(self, margin: float) -> None:
        """Deliver its margin; one that is not finite is an error, never a score."""
        if math.isfinite(margin):
            self.submission.put(self.index, margin)
            return
        error = ItemError(
            "non_finite_score",
            f"the model gave {margin} for this pair",
            hint="try dtype fp32; if that does not help, the weights are damaged",
        )
        self.submission.put(self.index, error)

    def reject_as_too_large(self) -> None:
        """Deliver an error: it ran out of device memory in a pack of its own."""
        error = ItemError(
            "out_of_memory",
            f"this pair alone ({len(self.prompt)} tokens) does not fit into the device's memory",
            hint="lower max_length or use a larger device",
        )
        self.submission.put(self.index, error)
