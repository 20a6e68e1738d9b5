"""The folder of the storage goes away under real processes, and comes back: the job goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.support.stack import Stack
from tests.support.wait import patient, wait_until

AWAY_S = 3.0


def test_a_folder_that_is_renamed_away_and_back_costs_time_only(
    stack: Stack, source: Path, check: Callable[[str], None]
) -> None:
    # given a job of which some pairs are scored
    wait_until(stack.ready_workers, 60, "a worker is ready")
    job_id = stack.client.submit(source, model="pocket-text")
    wait_until(lambda: stack.client.status(job_id).progress.scored, 60, "the first commit")
    # when the folder of its files is away for a few seconds
    folder = Path(stack.settings.storage_uri.removeprefix("file://"))
    away = folder.with_name("elsewhere")
    folder.rename(away)
    try:
        wait_until(
            lambda: "waiting for the storage: " in stack.client.status(job_id).reason,
            30,
            "the status says what it waits for",
        )
        time.sleep(patient(AWAY_S))
        job = stack.client.store.jobs.get(job_id)
        assert job.paused is None
        # then nobody makes it anew, and nobody is to blame
        assert not folder.exists()
        records = stack.client.store.client.hvals(stack.client.store.keys.job_open(job_id))
        assert not [text for text in records if '"suspect"' in text or '"deaths"' in text]
    finally:
        away.rename(folder)
    # and once it is back every pair is scored, without anybody's help
    check(job_id)
    assert [w for w in stack.client.workers() if w.waiting_for] == []
