"""The command that makes an API key of the gateway."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from rerankfleet.shared.shown import tell


def key(
    name: Annotated[str, typer.Argument(help="whose key it is: logs, metrics and jobs show it")],
    rights: Annotated[
        str, typer.Option(help="comma-separated: rerank, jobs, metrics, admin")
    ] = "rerank,jobs",
    rate: Annotated[
        str | None, typer.Option(help="requests per second, minute, hour or day: 600/minute")
    ] = None,
) -> None:
    """Make an API key of the gateway: shown once, on standard error, and kept nowhere. Printed are
    the lines for the file that RERANK_API_KEYS_FILE names: they hold its hash.

    Example: rerank key search-team --rate 600/minute >> keys.toml

    Example: rerank key prometheus --rights metrics >> keys.toml
    """
    from rerankfleet.producer.api_keys import new_key, table_of

    made = new_key()
    named = [right for part in rights.split(",") if (right := part.strip())]
    table = table_of(name, made, named, rate)
    tell(f"The key of {name}, shown only now:  {made}")
    sys.stdout.write(f"\n{table}\n")
