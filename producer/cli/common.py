"""What several families of commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client

JobArgument = Annotated[str, typer.Argument(help="the job's id, as `rerank submit` printed it")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def connected() -> Client:
    """A client of the fleet that the settings name."""
    from rerankfleet.producer.client import Client

    return Client()
