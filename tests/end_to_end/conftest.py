"""One stack of real processes for all tests here, and the margins of an undisturbed run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from tests.support.stack import Stack, StartStack
from tests.support.wait import patient, wait_until

REQUESTS = 90
DOCUMENTS = 20


@pytest.fixture(scope="session")
def requests() -> list[dict[str, Any]]:
    """Short texts, enough for a job of a few seconds."""
    words = re.sub(r"\s+", " ", " ".join(topics.values())).split(" ")
    texts = [" ".join(words[at : at + 24]) for at in range(0, 24 * REQUESTS * DOCUMENTS, 24)]
    texts = (texts * 2)[: REQUESTS * DOCUMENTS]
    return [
        {
            "id": f"r{i}",
            "query": " ".join(words[i * 50 : i * 50 + 6]),
            "documents": texts[i * DOCUMENTS : (i + 1) * DOCUMENTS],
        }
        for i in range(REQUESTS)
    ]


@pytest.fixture(scope="session")
def source(requests: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The requests as a file."""
    path = tmp_path_factory.mktemp("input") / "input.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests))
    return path


@pytest.fixture(scope="session")
def expected(requests: list[dict[str, Any]]) -> list[list[float]]:
    """The margins of each request's documents, from the engine in this process, undisturbed."""
    from rerankfleet import Reranker

    # one thread: beside busy processes several of them would wait for one another
    reranker = Reranker("pocket-text", engine={"threads": 1})
    return [reranker.margins(request) for request in requests]


@pytest.fixture(scope="session")
def stack(start_stack: StartStack) -> Iterator[Stack]:
    """A running `rerank up`."""
    with start_stack("pocket-text") as stack:
        yield stack


@pytest.fixture
def check(
    stack: Stack, requests: list[dict[str, Any]], expected: list[list[float]]
) -> Callable[[str], None]:
    """`check(job_id)`: wait for the end; every pair has one result, with its undisturbed margin."""

    def every_pair_once(job_id: str) -> None:
        status = stack.client.wait(job_id, timeout_s=patient(120))
        assert status.state == "done"
        assert status.progress.scored == REQUESTS * DOCUMENTS
        lines = list(stack.client.results(job_id))
        assert [line["id"] for line in lines] == [request["id"] for request in requests]
        for line, margins in zip(lines, expected, strict=True):
            assert line["errors"] == []
            scores = {result["index"]: result["margin"] for result in line["results"]}
            assert len(scores) == len(line["results"]) == DOCUMENTS
            assert [scores[i] for i in range(DOCUMENTS)] == pytest.approx(margins, abs=1e-4)

    return every_pair_once


@pytest.fixture
def job(stack: Stack, source: Path) -> str:
    """A started job: some pairs are scored, most are not."""
    wait_until(stack.ready_workers, 60, "a worker is ready")
    job_id = stack.client.submit(source, model="pocket-text")
    wait_until(lambda: stack.client.status(job_id).progress.scored, 60, "the first commit")
    return job_id
