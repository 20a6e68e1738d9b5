"""The commands that report profiles and statistics."""

from __future__ import annotations

from typing import Annotated

import typer

from rerankfleet.producer.cli.common import JsonOption, connected
from rerankfleet.shared.errors import UsageError


def profiles(as_json: JsonOption = False) -> None:
    """List the profiles: the built-in ones, and those of the file that RERANK_PROFILES names.

    Example: rerank profiles
    """
    from rerankfleet.producer.terminal import tables
    from rerankfleet.shared.profiles import load_profiles
    from rerankfleet.shared.settings import read_environment

    known = load_profiles(read_environment().profiles)
    if as_json:
        tables.as_json({name: profile.model_dump(mode="json") for name, profile in known.items()})
    else:
        tables.console().print(tables.profiles_table(known))


def stats(
    hours: Annotated[
        int, typer.Option(min=1, max=24, help="how many hours back, the present one included")
    ] = 24,
    profile: Annotated[
        str | None, typer.Option(help="of one profile, with the history of its temperature")
    ] = None,
    job: Annotated[str | None, typer.Option(help="of one job")] = None,
    forget_temperature: Annotated[
        bool, typer.Option("--forget-temperature", help="of --profile: drop what its jobs chose")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what was scored, how fast, how the scores are spread, and what to do about it.

    Example: rerank stats --hours 1
    """
    from rerankfleet.producer.terminal import stats as statistics
    from rerankfleet.producer.terminal import tables

    if profile is not None and job is not None:
        raise UsageError("--profile and --job are two reports", hint="ask for one of them")
    client = connected()
    if forget_temperature:
        if profile is None:
            raise UsageError("--forget-temperature needs a profile", hint="add --profile NAME")
        client.store.statistics.forget_temperature(profile)
    if job is not None:
        report = statistics.report_on_job(client, job)
    elif profile is not None:
        report = statistics.report_on_profile(client, profile, hours)
    else:
        report = statistics.report_on_fleet(client, hours)
    tables.as_json(report) if as_json else tables.console().print(statistics.render(report))
