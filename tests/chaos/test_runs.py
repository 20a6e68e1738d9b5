"""Short runs of the driver, with a fixed seed: every pair is accounted for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerankfleet.chaos.driver import Plan, run_on_own_cluster, run_on_test_cluster
from rerankfleet.chaos.report import Report
from tests.support.stack import StartStack
from tests.support.wait import patient

SMALL = Plan(
    seed=7,
    duration_s=10.0,
    every_s=0.6,
    workers=2,
    queries=8,
    documents=24,
    requests_max=20,
    result_ttl_s=patient(5),
    await_expiry=False,
)


def check(report: Report) -> None:
    """Nothing is lost, doubled, wrong, blamed or left, and something was checked."""
    assert report.findings == (), report.table()
    assert report.lost == report.double == report.wrong == report.invented == 0
    assert report.jobs
    assert report.pairs_checked
    assert sum(report.faults.values()) > 3
    assert json.loads(json.dumps(report.as_json()))["ok"]


@pytest.mark.whole_stack
def test_a_cluster_of_its_own_is_broken_and_every_pair_accounted_for(tmp_path: Path) -> None:
    report = run_on_own_cluster(SMALL, tmp_path)
    check(report)
    assert report.faults_by_group["killed"]
    assert report.faults_by_group["frozen"]


def test_a_test_cluster_of_somebody_is_broken_through_its_redis_alone(
    start_stack: StartStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a cluster with a prefix of its own
    monkeypatch.setenv("RERANK_KEY_PREFIX", "test")
    with start_stack("pocket-text") as stack:
        settings = stack.settings
        processes = {process.pid for process in stack.processes("")}
        # when it is broken
        check(run_on_test_cluster(SMALL, settings, "pocket-text", tmp_path))
        # then none of its processes has ended
        assert processes <= {process.pid for process in stack.processes("")}
