"""The commands that show the fleet: its workers, and all of it live."""

from __future__ import annotations

from typing import Annotated

import typer

from rerankfleet.producer.cli.common import JsonOption, connected


def workers(as_json: JsonOption = False) -> None:
    """List the worker processes.

    Example: rerank workers
    """
    from rerankfleet.producer.terminal import tables

    none = "no workers:  rerank worker --model Qwen/Qwen3-Reranker-0.6B"
    tables.listing(connected().workers(), tables.workers_table, none=none, json=as_json)


def top(
    interval: Annotated[
        float, typer.Option(min=0.2, help="seconds between two looks at the fleet")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="print it once; the default where there is no terminal")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Watch the fleet: workers, batch sizes and why, queues, jobs. q or Ctrl-C ends it.

    Example: rerank top
    """
    from rerankfleet.producer.terminal import tables
    from rerankfleet.producer.terminal.drawing import frame
    from rerankfleet.producer.terminal.top import watch
    from rerankfleet.producer.terminal.view import look
    from rerankfleet.shared.settings import load_settings

    load_settings()  # a wrong setting is reported before anything is waited for
    console = tables.console()
    if as_json:
        tables.as_json(look(connected()))
    elif once or not console.is_terminal or console.is_dumb_terminal:
        drawn = frame(look(connected()), width=console.width)
        console.print(drawn, crop=False, soft_wrap=True)
    else:
        watch(interval)
