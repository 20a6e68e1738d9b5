"""A whole stack that sees images, for what is shown of one; and the command against it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.support.stack import RERANK, Stack, running_stack
from tests.support.wait import patient

ENVIRONMENT = {"RERANK_DECODE_PROCESSES": "1", "RERANK_THREADS": "1"}

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running `rerank up` that serves `pocket-vl`."""
    with running_stack(tmp_path_factory.mktemp("seeing"), ENVIRONMENT, "pocket-vl") as stack:
        yield stack


@pytest.fixture
def command(seeing: Stack) -> Command:
    """`command("query", "red", columns=80)`: the real command in a process of its own."""

    def run(
        *arguments: object, columns: int = 100, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RERANK, *map(str, arguments)],
            env=os.environ | seeing.settings.environment() | {"COLUMNS": str(columns)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patient(120),
        )

    return run
