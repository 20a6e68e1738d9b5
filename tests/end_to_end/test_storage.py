"""A whole stack on a disk of its own: the disk fills, and is freed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rerankfleet.producer.client import Client
from rerankfleet.shared.errors import StorageFull
from tests.end_to_end.conftest import REQUESTS
from tests.support.small_disk import small_disk
from tests.support.stack import Stack, StartStack
from tests.support.wait import patient, wait_until

FREE_BYTES_MIN = 100_000


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A disk of 8 MiB."""
    with small_disk(8) as folder:
        yield folder


@pytest.fixture(scope="module")
def small(start_stack: StartStack, disk: Path) -> Iterator[Stack]:
    """A running `rerank up` whose storage is on the small disk."""
    env = {
        "RERANK_STORAGE": str(disk / "storage"),
        "RERANK_FREE_BYTES_MIN": str(FREE_BYTES_MIN),
    }
    with start_stack("pocket-text", env) as stack:
        yield stack


def fill(disk: Path) -> Path:
    """Take all of the disk. Returns the file that does."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as out:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                pass
    return filler


def test_a_job_on_a_full_disk_says_so_and_goes_on_when_there_is_room(
    small: Stack, disk: Path, source: Path
) -> None:
    # given a job that is being scored when the disk fills
    client = Client(small.settings.model_copy(update={"free_bytes_min": FREE_BYTES_MIN}))
    job_id = client.submit(source, model="pocket-text")
    wait_until(lambda: client.status(job_id).progress.scored, 60, "the first commit")
    filler = fill(disk)
    try:
        # then it waits, and says for what
        told = lambda: "its disk is full" in client.status(job_id).reason  # noqa: E731
        wait_until(told, 60, "it says that the disk is full")
        assert client.status(job_id).state == "running"
        # and nothing new is taken
        with pytest.raises(StorageFull, match="the disk of the storage has"):
            client.submit(source, model="pocket-text")
        answer = httpx.post(f"{small.gateway}/v1/uploads?name=a.csv", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    finally:
        os.unlink(filler)
    # when there is room again, it goes on by itself
    status = client.wait(job_id, timeout_s=patient(120))
    assert (status.state, status.progress.errors) == ("done", 0)
    assert len(list(client.results(job_id))) == REQUESTS
