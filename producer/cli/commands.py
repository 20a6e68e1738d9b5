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
from rerankfleet.producer.cli.keys import key
from rerankfleet.producer.cli.query import query
from rerankfleet.producer.cli.reports import profiles, stats
from rerankfleet.producer.cli.servers import coordinator, demo, gateway, health, up
from rerankfleet.producer.cli.submit import submit
from rerankfleet.shared.command_help import FILES, FLEET, SCORES, WAITS, below


def commands(app: typer.Typer) -> None:
    """Add the sub-commands, in the order of `rerank --help`."""
    of_fleet, of_files = below(*FLEET), below(*FLEET, *FILES)
    follows = below(*FLEET, *FILES, codes=WAITS)
    verbs: dict[Callable[..., None], str] = {
        up: below(
            *("gateway_port", "gateway_host", "api_keys_file", "api_keys"),
            *(*FLEET, *FILES, "allowed_hosts"),
            note="The page and the HTTP routes are at http://127.0.0.1:8080, or on the next port "
            "that is free; the address is printed. --help of `rerank gateway` says more.",
        ),
        demo: below(),
        coordinator: of_files,
        gateway: below(
            *("gateway_port", "gateway_host", "api_keys_file", "api_keys", "upload_bytes_max"),
            *(*FLEET, "storage"),
            note="The page is at the address that it listens on, the routes are under /v1, their "
            "description at /docs.",
        ),
        key: below("api_keys_file"),
        query: below(
            *(*FLEET, "interactive_deadline_s", "inline_bytes_max", "profiles"), codes=SCORES
        ),
        submit: below(*FLEET, *FILES, "profiles", codes=WAITS),
        status: of_fleet,
        watch: follows,
        results: of_files,
        **dict.fromkeys((cancel, pause, resume, retry, jobs, workers), of_fleet),
        profiles: below("profiles"),
        stats: of_fleet,
        top: of_fleet,
        health: below(*FLEET, "gateway_host", "gateway_port"),
    }
    for verb, text in verbs.items():
        app.command(epilog=text)(verb)
