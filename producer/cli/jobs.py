"""The commands that look at jobs, follow and steer them, and read their output."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankfleet.producer.cli.common import JobArgument, JsonOption, connected
from rerankfleet.shared.addresses import local_path
from rerankfleet.shared.cli import INTERRUPTED, PARTIAL, outcome_code
from rerankfleet.shared.command_options import ForceOption
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.sources import is_uri, source_of
from rerankfleet.shared.shown import tell

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client
    from rerankfleet.shared.job_status import JobStatus


class Only(StrEnum):
    """What `rerank retry` scores again."""

    all = "all"
    errors = "errors"


def status(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job's progress, and what holds it back.

    Example: rerank status 1f2e3d4c5b6a
    """
    _show(connected().status(job), as_json=as_json)


def watch(job: JobArgument, as_json: JsonOption = False) -> None:
    """Follow a job to its end; Ctrl-C leaves it running. Writes the output that submit named.

    Example: rerank watch 1f2e3d4c5b6a
    """
    follow(connected(), job, as_json=as_json)


def results(
    job: JobArgument,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="a path, or a folder; stdout else")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="what was scored so far of an unfinished job")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Print a job's output, or write it to a file.

    Example: rerank results 1f2e3d4c5b6a -o ranked.jsonl

    Example: rerank results 1f2e3d4c5b6a --partial | head -1
    """
    from rerankfleet.shared.formats.output import dump_line
    from rerankfleet.shared.formats.sources import output_errors
    from rerankfleet.shared.storage.local_files import publish_file

    client = connected()
    if output is None:
        for line in client.results(job, partial=partial):
            sys.stdout.buffer.write(dump_line(line))
        return
    _refuse_output(client, job, output, force=force, partial=partial)
    if not partial:
        client.fetch(job, output)
        return
    with output_errors(output), publish_file(Path(output)) as out:
        for line in client.results(job, partial=True):
            out.write(dump_line(line))


def _refuse_output(client: Client, job_id: str, output: str, *, force: bool, partial: bool) -> None:
    """Raise UsageError where a job's output cannot be copied to."""
    from rerankfleet.producer.inputs.catalog import refuse_existing_folder
    from rerankfleet.shared.formats.sources import refuse_existing

    if "://" in output or not output:
        raise UsageError(
            f"{output!r} is not a path", hint="name one, or submit with -o and the URI"
        )
    as_folder = client.store.jobs.get(job_id).spec.catalog and not partial
    refuse = refuse_existing_folder if as_folder else refuse_existing
    refuse(output, client.objects, force=force)


def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Stop a job. What was scored is kept and published.

    Example: rerank cancel 1f2e3d4c5b6a
    """
    client = connected()
    client.cancel(job)
    _report(client, job, f"cancelled; what was scored:  rerank results {job}", as_json=as_json)


def pause(job: JobArgument, as_json: JsonOption = False) -> None:
    """Hold a job; shards that workers hold are finished.

    Example: rerank pause 1f2e3d4c5b6a
    """
    client = connected()
    client.pause(job)
    _report(client, job, f"paused; go on with:  rerank resume {job}", as_json=as_json)


def resume(job: JobArgument, as_json: JsonOption = False) -> None:
    """Let a paused job go on.

    Example: rerank resume 1f2e3d4c5b6a
    """
    client = connected()
    client.resume(job)
    _report(client, job, f"resumed:  rerank watch {job}", as_json=as_json)


def retry(
    job: JobArgument,
    only: Annotated[
        Only, typer.Option(help="all that has no score, or errors: not what was cancelled")
    ] = Only.all,
    as_json: JsonOption = False,
) -> None:
    """Score again what has no score, and merge it into the same output.

    Example: rerank retry 1f2e3d4c5b6a --only errors
    """
    client = connected()
    client.retry(job, only.value)
    _report(client, job, f"retrying:  rerank watch {job}", as_json=as_json)


def _report(client: Client, job_id: str, text: str, *, as_json: bool) -> None:
    """What a verb did: a line for people, the job's status for machines."""
    if as_json:
        from rerankfleet.producer.terminal import tables

        tables.as_json(client.status(job_id))
    else:
        tell(text)


def jobs(
    count: Annotated[int, typer.Option("-n", min=1, help="how many, newest first")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest jobs.

    Example: rerank jobs --json
    """
    from rerankfleet.producer.terminal import tables

    none = "no jobs yet:  rerank submit pairs.jsonl -o ranked.jsonl"
    tables.listing(connected().jobs(count), tables.jobs_table, none=none, json=as_json)


def follow(client: Client, job_id: str, *, as_json: bool, output: str | None = None) -> None:
    """Wait with live progress, write a local output, and end with the job's exit code."""
    from rerankfleet.producer.submission import local_target
    from rerankfleet.producer.terminal.following import live_progress

    try:
        with live_progress() as show:
            status = client.wait(job_id, on_progress=show)
        target = client.store.jobs.get(job_id).spec.local_output
        if output is not None and not is_uri(source_of(output)):
            target = local_target(output)
        if target:
            _fetch(client, job_id, target)
            status = status.model_copy(update={"output": target})
    except KeyboardInterrupt:
        sys.stderr.write("\n")
        tell(f"The job goes on. Come back with:  rerank watch {job_id}")
        raise typer.Exit(INTERRUPTED) from None
    _show(status, as_json=as_json)
    progress = status.progress
    code = outcome_code(scored=progress.scored, unscored=progress.done - progress.scored)
    raise typer.Exit(PARTIAL if code and status.state == "cancelled" else code)


def _fetch(client: Client, job_id: str, target: str) -> None:
    """Copy the output of a job that was waited for; where that fails, say how to get it still."""
    try:
        client.fetch(job_id, local_path(target) if is_uri(target) else target)
    except UsageError as error:
        still = f"the job is done, so get its output with `rerank results {job_id} -o FILE`"
        raise UsageError(error.message, hint=f"{error.hint}; {still}") from error


def _show(status: JobStatus, *, as_json: bool) -> None:
    from rerankfleet.producer.terminal import tables

    tables.as_json(status) if as_json else tables.console().print(tables.job_panel(status))
