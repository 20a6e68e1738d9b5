"""The sub-commands that submit and look: thin shells over `rerankfleet.producer.client.Client`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from rerankfleet.producer.cli.fleet import top, workers
from rerankfleet.producer.cli.jobs import (
    cancel,
    jobs,
    pause,
    results,
    resume,
    retry,
    status,
    watch,
)
from rerankfleet.producer.cli.query import query
from rerankfleet.producer.cli.reports import profiles, stats
from rerankfleet.producer.cli.servers import coordinator, demo, gateway, health, up
from rerankfleet.producer.cli.submit import submit


def commands(app: typer.Typer) -> None:
    """Add the sub-commands, in the order of `rerank --help`."""
    verbs: tuple[Callable[..., None], ...] = (
        *(up, demo, coordinator, gateway),
        *(query, submit, status, watch, results, cancel, pause, resume, retry),
        *(jobs, workers, profiles, stats, top, health),
    )
    for verb in verbs:
        app.command()(verb)
