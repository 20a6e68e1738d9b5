"""Workers of which each dies at one stage of its first shard, the next at the next stage, until one
lives. Each death is a line of the file DEATHS_LOG. They are forked, so that what takes long to
import is imported once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import rerankfleet.workers.__main__ as process
from rerankfleet.shared.state.shards import Shards
from rerankfleet.workers import results, tasks
from rerankfleet.workers.engine.engine import Engine

DEATH = 9
DEATHS_LOG = "DEATHS_LOG"
STAGES = ("received", "claimed", "scoring", "written", "committed")
"""A hint was taken from the broker; its shard is claimed; in hand of the device; its part is
written; its part is committed, and nothing else was done."""


def die(stage: str) -> None:
    """End without cleaning up, like a killed process."""
    with open(os.environ[DEATHS_LOG], "a") as log:
        log.write(f"{stage}\n")
    os._exit(DEATH)


def before(stage: str) -> Callable[..., Any]:
    def dies(*_: Any, **__: Any) -> None:
        die(stage)

    return dies


def after(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def dies(*arguments: Any, **options: Any) -> None:
        function(*arguments, **options)
        die(stage)

    return dies


def die_at(stage: str) -> None:
    """Let this process die there."""
    if stage == "received":
        process.score_shard = before(stage)
    elif stage == "claimed":
        tasks._load = before(stage)
    elif stage == "scoring":
        load = tasks._load

        def load_and_wait(*arguments: Any) -> Any:  # the self-test scores too
            Engine.score = before(stage)  # type: ignore[method-assign]
            return load(*arguments)

        tasks._load = load_and_wait
    elif stage == "written":
        results.write = after(stage, results.write)
    else:
        Shards.commit = after(stage, Shards.commit)  # type: ignore[method-assign]


def launch() -> int:
    """Run one worker after the other; the status of the last one."""
    for stage in (*STAGES, None):
        worker = os.fork()
        if not worker:
            if stage:
                die_at(stage)
            sys.exit(process.main())
        _, status = os.waitpid(worker, 0)
        if os.waitstatus_to_exitcode(status) != DEATH:
            break
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(launch())
