"""The monitor adapts a worker's batch limit; without a monitor work continues."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from rerankfleet.shared.state.fleet import BatchLimit, Fleet, WorkerRow
from tests.support.stack import Stack
from tests.support.wait import wait_until

MODEL = "pocket-text"
MONITOR = "rerankfleet.workers.monitor"

Check = Callable[[str], None]


@pytest.fixture
def fleet(stack: Stack) -> Fleet:
    return stack.client.fleet


@pytest.fixture
def worker(stack: Stack) -> WorkerRow:
    wait_until(stack.ready_workers, 60, "a worker is ready")
    return stack.ready_workers()[0]


@contextmanager
def standing_still(stack: Stack, words: str) -> Iterator[None]:
    """Stop a process during the block."""
    stack.kill(words, signal.SIGSTOP)
    try:
        yield
    finally:
        stack.kill(words, signal.SIGCONT)


def set_limit(fleet: Fleet, worker_id: str, tokens: int) -> None:
    """Set a limit as the monitor does."""
    last = fleet.limit(worker_id)
    limit = BatchLimit(tokens=tokens, pairs=1024, reason="bound: a test wants it so", at_s=1.0)
    if last:
        kept = {"version": last.version + 1, "cursor": last.cursor, "memory": last.memory}
        limit = limit.model_copy(update=kept)
    assert fleet.set_limit(worker_id, limit)


def test_the_monitor_sets_a_limit_which_the_worker_obeys_and_shows(
    stack: Stack, worker: WorkerRow, fleet: Fleet, source: Path, check: Check
) -> None:
    # when a job runs through
    check(stack.client.submit(source, model=MODEL))
    # then the monitor has read its packs, and its limit is in force

    def obeyed() -> bool:
        limit, row = fleet.limit(worker.id), stack.ready_workers()[0]
        return limit is not None and (row.batch_tokens, row.batch_reason, row.batch_at_s) == (
            limit.tokens,
            limit.reason,
            limit.at_s,
        )

    wait_until(obeyed, 30, "the worker obeys")
    row = stack.ready_workers()[0]
    assert row.batch_reason
    assert row.batch_at_s > 0
    assert row.latency_p95_s >= row.latency_p50_s > 0
    assert row.memory_bytes > 0
    assert (row.ooms, row.oom_ceiling) == (0, 0)
    assert fleet.limits(worker.id)[-1].tokens == row.batch_tokens


def test_a_limit_that_changes_in_a_job_changes_no_margin_and_stays_without_a_monitor(
    stack: Stack, worker: WorkerRow, fleet: Fleet, source: Path, check: Check
) -> None:
    with standing_still(stack, MONITOR):
        # given a running job whose limits only the test decides
        job_id = stack.client.submit(source, model=MODEL)
        # when they go up and down
        for turn in count():
            tokens = (64, 4096, 300, 1500)[turn % 4]
            set_limit(fleet, worker.id, tokens)
            wait_until(
                lambda tokens=tokens: stack.ready_workers()[0].batch_tokens == tokens,
                30,
                "the worker obeys",
            )
            if stack.client.status(job_id).state == "done":
                break
        # then the job has every expected margin
        check(job_id)
        # and the last limit holds
        check(stack.client.submit(source, model=MODEL))
        assert stack.ready_workers()[0].batch_tokens == tokens
