"""A small window, an input with some bad lines, and jobs without a client."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.job_spec import InputRef, make_spec
from tests.support.fleet import MODEL


@pytest.fixture
def control(store, fleet, objects, hints, change) -> Control:
    """Shards of three pairs, four open at the most."""
    return Control(store, objects, hints, change(shard_pairs_max=3, window_min=4))


@pytest.fixture
def impatient(control) -> Control:
    """The same, except that a storage which refuses is waited for once."""
    settings = control.settings.model_copy(update={"storage_wait_s": 0.001})
    return replace(control, settings=settings)


@pytest.fixture
def lines() -> list[Any]:
    """Twelve requests of one to five documents, and some that are bad."""
    requests: list[Any] = [
        {
            "id": f"r{n}",
            "query": f"query {n}",
            "documents": [f"doc {n} {i}" for i in range(n % 5 + 1)],
        }
        for n in range(12)
    ]
    requests[3] = b"no json"
    requests[7] = {"id": "r7", "query": "query 7", "documents": ["good", 5, "fails", "good too"]}
    return requests


@pytest.fixture
def submit(control, settings, jsonl):
    """`submit(lines, top_n=3)`: a job of the store, without a hint."""

    def make(lines, data: bytes | None = None, job_id: str = "j", **options) -> str:
        path = jsonl(*lines, name=f"{job_id}.jsonl") if data is None else None
        name = "input.jsonl" if data is None else "input.gz"
        uri = control.objects.at("jobs", job_id, name)
        control.objects.write(uri, path.read_bytes() if path else data)
        stat = control.objects.stat(uri)
        spec = make_spec(
            model=MODEL, input=InputRef(uri=uri, size=stat.size, tag=stat.tag), **options
        )
        return control.store.jobs.create(job_id, spec, "digest")

    return make
