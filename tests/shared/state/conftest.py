"""A calm fleet, and jobs made in one line."""

from __future__ import annotations

import pytest

from rerankfleet.shared.state.records import OpenShard
from rerankfleet.shared.state.store import Store
from tests.support.records import open_, spec_of


@pytest.fixture
def calm(store: Store, client) -> None:
    """The coordinator ticks, and no amnesty is under way."""
    store.coordination.pulse()
    client.set(store.keys.amnesty, 0)


@pytest.fixture
def make(store: Store):
    """`make("a", (0, 10), ...)`: a job with these shards open."""

    def job(job_id: str, *ranges: tuple[int, int], sealed: bool = True, **options) -> str:
        store.jobs.create(job_id, spec_of(**options), "digest")
        shards = [OpenShard(start, end, f"0-{start}-{end}-x") for start, end in ranges]
        assert open_(store, job_id, "", "1", shards, sealed=sealed) == "opened"
        return job_id

    return job
