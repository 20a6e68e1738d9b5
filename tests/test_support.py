"""Waits of the tests: all of them are multiplied by RERANK_TEST_PATIENCE. And which tests share a
process."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support import schedule, wait
from tests.support.schedule import STACKS
from tests.support.wait import patient, wait_until

TESTS = Path(__file__).parent
KEYWORDS = ("timeout", "timeout_s")
METHODS = ("wait", "join", "result", "exception", "communicate", "settimeout", "acquire")
CLIENTS = ("httpx.Client", "cohere.ClientV2")
"""Their own default of a few seconds is not multiplied."""
SHORT_S = 1.0
"""A shorter wait paces a loop, or is for something that must not happen."""
UNDER_TEST: set[str] = set()
"""Waits whose length is what is tested, as they are written in the source."""


def test_patience_multiplies_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patient(3) == 3 * wait.PATIENCE
    monkeypatch.setattr(wait, "PATIENCE", 4.0)
    assert patient(0.05) == 0.2

    started_s = time.monotonic()
    with pytest.raises(AssertionError, match=r"did not happen within 0\.2 s: it rains"):
        wait_until(lambda: False, 0.05, "it rains")

    assert time.monotonic() - started_s >= 0.2


@pytest.mark.parametrize(("variable", "seconds"), [({}, "10.0"), ({"PATIENCE": "2.5"}, "25.0")])
def test_patience_is_read_from_the_environment(variable: dict[str, str], seconds: str) -> None:
    code = "from tests.support.wait import patient; print(patient(10))"
    environment = os.environ | {f"RERANK_TEST_{name}": value for name, value in variable.items()}

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=patient(60),
    )

    assert done.stdout.strip() == seconds, done.stderr


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("process.wait(20)", [1]),
        ("process.wait(patient(20))", []),
        ("ONE_S = 20\nprocess.wait(ONE_S)", [2]),
        ("ONE_S = patient(20)\nprocess.wait(ONE_S)", []),
        ("run(timeout=5.0)", [1]),
        ("run(timeout=0.5)", []),
        ("httpx.Client(base_url=url)", [1]),
        ("httpx.Client(timeout=patient(5))", []),
        ("wait_until(done, 30)", []),
        ("wait_until(done, patient(30))", [1]),
    ],
)
def test_a_wait_that_patience_does_not_multiply_is_found(
    tmp_path: Path, code: str, lines: list[int]
) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(code)

    assert [line for line, _ in faulty_waits(path)] == lines


def test_every_wait_of_the_tests_is_multiplied_by_patience() -> None:
    faults = [
        f"{path.relative_to(TESTS)}:{line}: {call}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, call in faulty_waits(path)
        if path != TESTS / "support" / "wait.py"
    ]

    assert faults == []


@pytest.mark.parametrize("stack", STACKS)
def test_the_files_that_share_a_stack_are_those_that_use_it(
    stack: str, request: pytest.FixtureRequest
) -> None:
    """A file that is missing in the table would start one more."""
    name, _, folder = stack.partition(" of ")
    users = {
        item.nodeid.partition("::")[0]
        for item in request.session.items
        if name in getattr(item, "fixturenames", ()) and folder in item.nodeid
        if schedule.needs_stack(item)
    }
    assert users <= set(STACKS[stack])
    assert all((TESTS.parent / file).exists() for file in STACKS[stack])


# ---- how they are found -------------------------------------------------------------------------


def faulty_waits(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and calls with a bare wait, or with one that is multiplied twice."""
    constants = constants_of(path)
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        source = ast.unparse(node)
        if source not in UNDER_TEST and is_faulty(node, constants):
            yield node.lineno, source


def is_faulty(call: ast.Call, constants: dict[str, ast.expr]) -> bool:
    """Whether a call waits for a bare number of seconds, or for twice the patience."""
    name = ast.unparse(call.func)
    keywords = {word.arg: word.value for word in call.keywords}
    if name == "wait_until":
        return any(is_patient(constants, value) for value in [*call.args, *keywords.values()])
    if name in CLIENTS and "timeout" not in keywords:
        return True
    waits = [value for word, value in keywords.items() if word in KEYWORDS]
    waits += call.args if isinstance(call.func, ast.Attribute) and call.func.attr in METHODS else []
    return any(is_bare(constants, value) for value in waits)


def is_bare(constants: dict[str, ast.expr], value: ast.expr) -> bool:
    """Whether an argument is a number, or a name for one."""
    value = constants.get(ast.unparse(value), value)
    return (
        isinstance(value, ast.Constant)
        and isinstance(value.value, int | float)
        and value.value >= SHORT_S
    )


def is_patient(constants: dict[str, ast.expr], value: ast.expr) -> bool:
    """Whether an argument is multiplied by patience already, or a name for one that is."""
    value = constants.get(ast.unparse(value), value)
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "patient"


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def constants_of(path: Path) -> dict[str, ast.expr]:
    """What the module's own names stand for, and those that it imports from other tests."""
    constants: dict[str, ast.expr] = {}
    for node in parsed(path).body:
        if isinstance(node, ast.Assign):
            constants |= {ast.unparse(target): node.value for target in node.targets}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tests."):
            constants |= imported(node)
    return constants


def imported(node: ast.ImportFrom) -> dict[str, ast.expr]:
    """What names stand for that come from another module of the tests."""
    path = TESTS.parent / (str(node.module).replace(".", "/") + ".py")
    there = constants_of(path) if path.exists() else {}
    return {a.asname or a.name: there[a.name] for a in node.names if a.name in there}
