"""Statistics are exact although workers die: they are counted where a shard is committed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from rerankfleet.shared.score_distribution import ScoreDistribution
from rerankfleet.shared.statistics import Statistics, statistics_of
from tests.end_to_end.conftest import DOCUMENTS
from tests.end_to_end.test_other_stories import MODEL, rerank
from tests.support.stack import Stack
from tests.support.wait import patient, wait_until

LINES = 20


def of_model(stack: Stack) -> Statistics:
    """The statistics of the model so far."""
    rows = stack.client.store.statistics.rows(24)
    matching = [row for row in rows if (row.kind, row.name) == ("model", MODEL)]
    return matching[0] if matching else statistics_of("model", MODEL, [])


def test_a_killed_worker_counts_nothing_twice(stack: Stack, source: Path) -> None:
    # given a job whose worker is killed in the middle
    wait_until(stack.ready_workers, 60, "a worker is ready")
    before = of_model(stack)
    job_id = stack.client.submit(source, model=MODEL, limit=LINES)
    wait_until(lambda: stack.client.status(job_id).progress.scored, 60, "the job has begun")
    stack.kill("-m rerankfleet.workers --model", signal.SIGKILL)
    # when another worker has finished it
    status = stack.client.wait(job_id, timeout_s=patient(120))
    # then every request, pair and score was counted once
    after, pairs = of_model(stack), LINES * DOCUMENTS
    assert after.requests - before.requests == LINES
    assert after.scored - before.scored == pairs
    lines = stack.client.results(job_id)
    margins = [result["margin"] for line in lines for result in line["results"]]
    assert status.scores.bins == ScoreDistribution.of(margins).bins
    assert after.scores.count - before.scores.count == pairs
    assert after.latency.p95_s >= after.latency.p50_s > 0


def test_a_small_request_is_counted_among_the_interactive_ones(stack: Stack) -> None:
    wait_until(stack.ready_workers, 60, "a worker is ready")
    stack.client.rerank("what is a list?", ["A list is a sequence.", "Bread."], model=MODEL)

    rows = {row.name: row for row in stack.client.store.statistics.rows(24)}

    assert rows["interactive"].requests >= 1
    assert rows["interactive"].latency.count >= 1


def test_a_running_stack_has_nothing_broken(stack: Stack) -> None:
    wait_until(stack.ready_workers, 60, "a worker is ready")
    done = rerank(stack, "doctor", "--model", MODEL, "--json")

    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0, checks
    assert checks["append-only file"]["verdict"] == "ok"
    shown = rerank(stack, "stats")
    assert (shown.returncode, MODEL in shown.stdout) == (0, True), shown.stderr
