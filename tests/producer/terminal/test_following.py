"""A followed job without a terminal: a line at each change, and one a minute."""

from __future__ import annotations

from typing import Any

import pytest

from rerankfleet.producer.client import REDIS_AWAY
from rerankfleet.producer.terminal.following import PROGRESS_S, ProgressLines
from rerankfleet.shared.job_status import JobStatus, Progress
from tests.support.fleet import MODEL

NO_WORKER = f"no worker serves {MODEL}: start `rerank worker --model {MODEL}`"
MOVES = "device: 1 worker, 93% busy"


class Clock:
    """A clock that the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def look(clock, lines):
    """`look("running", reason, held_back=True)`: what is shown each second."""
    show = ProgressLines(lines.append, clock)

    def once(state: str, reason: str = "", **fields: Any) -> None:
        usual = {"id": "j", "model": MODEL, "priority": "normal", "created_s": 0.0}
        usual |= {"state": state, "reason": reason, "progress": Progress(total=6)}
        show(JobStatus(**(usual | fields)))
        clock.now_s += 1

    return once


def test_what_holds_a_job_back_is_told_once_and_again_when_it_changes(look, lines):
    for _ in range(3):
        look("running", NO_WORKER, held_back=True)
    for _ in range(3):
        look("running", "workers are loading the model", held_back=True)
    for share in (90, 91, 92):
        look("running", f"device: 1 worker, {share}% busy")
    look("paused", "lunch", held_back=True)
    look("done", progress=Progress(total=6, scored=6))

    assert lines == [
        f"job j running: 0/6 pairs · {NO_WORKER}",
        "job j running: 0/6 pairs · workers are loading the model",
        "job j running: 0/6 pairs · device: 1 worker, 91% busy",
        "job j paused: 0/6 pairs · lunch",
        "job j done: 6/6 pairs",
    ]


def test_a_moment_between_two_shards_and_other_figures_are_no_news(look, lines):
    look("running", MOVES)
    for ahead in (9, 8, 7):
        look("running", "queue: its shards wait for a worker", held_back=True)
        look("running", MOVES)
        look("running", f"device: 1 worker, {ahead}% busy")
    assert len(lines) == 1
    for ahead in (12, 11, 10):
        look("running", f"queue: its shards wait beside {ahead} of other jobs", held_back=True)
    assert len(lines) == 2


def test_a_job_that_goes_on_is_told_of_every_minute(look, lines, clock):
    for _ in range(3):
        look("running", MOVES, pairs_per_s=2.0, eta_s=3.0, progress=Progress(total=6, scored=2))
        clock.now_s += PROGRESS_S

    assert lines == ["job j running: 2/6 pairs · 2/s · 3s left"] * 3


def test_a_job_that_is_held_back_shows_that_and_not_when_it_would_end(look, lines):
    look("running", REDIS_AWAY, held_back=True, pairs_per_s=2.0, eta_s=3.0)

    assert lines == [f"job j running: 0/6 pairs · 2/s · {REDIS_AWAY}"]


def test_bad_lines_are_told_from_pairs_and_a_job_without_scores_from_others(look, lines):
    progress = Progress(total=4, errors=3, bad_lines=1, rejected=1)
    look("done", "nothing could be scored", nothing_scored=True, progress=progress)

    assert lines == [
        "job j failed: 3/3 pairs · 3 errors (1 is a line that could not be read), 1 rejected"
        " · nothing could be scored"
    ]
