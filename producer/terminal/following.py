"""A job that is followed to its end: a bar where stderr is a terminal, else a line at each change.

Whoever waits must see why nothing happens: no worker for the model, a pause, no coordinator.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rerankfleet.producer.terminal.tables import duration, outcomes, pairs_of_total
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.shown import one_line, tell

PROGRESS_S = 60.0
"""How long nothing is said of a job that goes on without a change."""

Show = Callable[[JobStatus], None]


@contextmanager
def live_progress() -> Iterator[Show]:
    """Yields what shows a job's status on stderr, each time that it is called."""
    if not sys.stderr.isatty():
        yield ProgressLines(tell)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, text="")

        def show(status: JobStatus) -> None:
            bar.update(
                task,
                description=status.shown_state,
                completed=status.progress.done,
                total=status.progress.total,
                text=figures(status),
            )

        yield show


class ProgressLines:
    """Writes a line when a job's state changes, when something holds it back, when that changes or
    is gone, and else every minute."""

    def __init__(
        self, write: Callable[[str], object], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._clock_s = clock_s
        self._state = self._told = self._seen = ""
        self._written_s = 0.0

    def __call__(self, status: JobStatus) -> None:
        """Look at a status, once a second or so."""
        held = _without_figures(status.reason) if status.held_back else ""
        # what is there for one look alone, as between two shards, holds nothing back
        changed = held != self._told and held == self._seen
        self._seen = held
        due = self._clock_s() - self._written_s >= PROGRESS_S
        if status.shown_state != self._state or changed or due:
            self._state, self._told, self._written_s = status.shown_state, held, self._clock_s()
            self._write(f"job {status.id} {status.shown_state}: {figures(status)}")


def _without_figures(reason: str) -> str:
    """What a reason says, whatever its counts are now."""
    return re.sub(r"\d[\d.,]*", "", reason)


def figures(status: JobStatus) -> str:
    """How far a job is, and what limits it, in one line."""
    progress = status.progress
    parts = [f"{pairs_of_total(progress)} pairs"]
    if status.pairs_per_s:
        parts.append(f"{status.pairs_per_s:,.0f}/s")
    if unscored := outcomes(progress.model_copy(update={"scored": 0})):
        parts.append(unscored)
    if status.eta_s and not status.held_back:
        parts.append(f"{duration(status.eta_s)} left")
    elif status.reason:
        parts.append(one_line(status.reason))
    return " · ".join(parts)
