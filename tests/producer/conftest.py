"""The command against a whole stack."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from tests.support.stack import RERANK, Stack
from tests.support.wait import patient

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(vl_stack: Stack) -> Command:
    """`command("query", "red", columns=80)`: the real command in a process of its own."""

    def run(
        *arguments: object, columns: int = 100, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RERANK, *map(str, arguments)],
            env=os.environ | vl_stack.settings.environment() | {"COLUMNS": str(columns)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=patient(120),
        )

    return run
