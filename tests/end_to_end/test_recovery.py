"""A worker's death is known before its leases run out."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.end_to_end.conftest import DOCUMENTS, REQUESTS
from tests.support.stack import StartStack
from tests.support.wait import patient, wait_until


def test_the_successor_of_a_killed_worker_ends_its_leases(
    start_stack: StartStack, source: Path
) -> None:
    # given leases that are longer than anyone waits, and a job of which some pairs are scored
    with start_stack("pocket-text", {"RERANK_LEASE_S": "3600"}) as stack:
        job_id = stack.client.submit(source, model="pocket-text")
        wait_until(lambda: stack.client.status(job_id).progress.scored, 60, "the first commit")
        wait_until(lambda: stack.client.status(job_id).leased_shards, 60, "shards are held")
        # when the only worker is killed
        os.kill(stack.ready_workers()[0].pid, signal.SIGKILL)
        # then the one that its launcher starts lets its shards be taken
        status = stack.client.wait(job_id, timeout_s=patient(120))
        assert (status.state, status.progress.scored) == ("done", REQUESTS * DOCUMENTS)
