"""Jobs of a few lines, carried to their end without processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.state.store import Store
from tests.support.fleet import Worker, run
from tests.support.wait import wait_until

LINES = [{"id": n, "query": f"q{n}", "documents": ["a", "b", f"c{n}"]} for n in range(4)]


def do(control: Control, job_id: str, **options: Any) -> None:
    """Carry a submitted job to its end."""
    control.hints.feed(job_id)
    run(control, Worker(control, **options))


def stored(tmp_path: Path) -> list[str]:
    """The files of a test's storage."""
    root = tmp_path / "storage"
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def open_shards(store: Store, job_id: str) -> list[str]:
    """The shards of a job that have no result yet."""
    return store.client.hkeys(store.keys.job_open(job_id))


def feed_until_paused(control: Control, job_id: str = "j") -> None:
    """Feed a job whose storage refuses, until its patience is over."""
    wait_until(lambda: [feed(job_id, control), control.store.jobs.get(job_id).paused][1])
