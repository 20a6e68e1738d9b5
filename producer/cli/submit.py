"""`rerank submit`: a job of a file, or of a catalog of images."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankfleet.producer.cli.common import JsonOption, connected
from rerankfleet.producer.cli.jobs import follow
from rerankfleet.shared.command_options import ForceOption, ProfileOption, with_scoring_options
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.sources import is_uri, source_of
from rerankfleet.shared.job_spec import OutputFormat, Priority
from rerankfleet.shared.shown import tell

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client


@with_scoring_options()
def submit(
    input: Annotated[
        str | None,
        typer.Argument(help="JSON Lines, also gzip; a path, - for stdin, file:// or s3://"),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", help="a path, or file:// or s3:// for the coordinator; or a folder"
        ),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            help="instead of a file: images that each query meets. s3://bucket/prefix/, a folder, "
            "or a listing: URIs one a line, CSV, TSV or Parquet with the columns image, id, text"
        ),
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="of a catalog: one a line, text or JSON; or a table")
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="of a catalog's rows")] = "jsonl",
    model: Annotated[str | None, typer.Option(help="a model that the fleet serves")] = None,
    profile: ProfileOption = None,
    priority: Annotated[Priority, typer.Option(help="whose turn comes first")] = Priority.normal,
    key: Annotated[
        str | None, typer.Option(help="your name for this job: submitting it twice is harmless")
    ] = None,
    force: ForceOption = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="wait for the end; write the output")
    ] = False,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Make a job of a file, or of a catalog of images, and print its id.

    Example: rerank submit pairs.jsonl -o ranked.jsonl --model Qwen/Qwen3-Reranker-0.6B --wait

    Example: rerank submit --catalog s3://shop/images/ --queries queries.txt -o s3://shop/ranked/
    """
    client = connected()
    make = _what_to_make(client, input, catalog, queries, format)
    job_id = make(
        output=output,
        model=model,
        profile=profile,
        priority=priority,
        key=key,
        force=force,
        **options,
    )
    made = {"id": job_id} | (_passed_over(client, job_id, as_json=as_json) if catalog else {})
    if wait:
        follow(client, job_id, as_json=as_json, output=output)
    else:
        _tell(client, made, output, as_json=as_json)


def _tell(client: Client, made: dict[str, str], output: str | None, *, as_json: bool) -> None:
    """Print a job that is not waited for, how to go on, and where its output will be. Machines know
    where it is unless they name it."""
    job_id = made["id"]
    try:
        sys.stdout.write(f"{json.dumps(made) if as_json else job_id}\n")
    finally:  # the id must not be lost with an output that cannot be written
        if not as_json:
            tell(f"watch it:  rerank watch {job_id}")
    if output is not None or not as_json:
        tell(_who_writes(client, job_id, output))


def _who_writes(client: Client, job_id: str, output: str | None) -> str:
    """Which process writes the output that was named, where and when."""
    if output is None:
        return f"its output stays in the storage: `rerank results {job_id}` prints it"
    output = source_of(output)
    if output.startswith("file://"):
        return f"the coordinator writes {output}, on its own machine, when the job is done"
    if is_uri(output):
        return f"the coordinator writes {output} when the job is done"
    from rerankfleet.producer.submission import local_target

    path = local_target(output)
    fetch = f"rerank results {job_id} -o {shlex.quote(path)}"
    if client.store.jobs.get(job_id).spec.local_output != path:  # its key is of an earlier submit
        return f"{path} is written by this command, when the job is done:  {fetch}"
    return (
        f"{path} is not written until you ask for it on this machine: `rerank watch {job_id}` "
        f"waits for the end and writes it; once the job is done, so does `{fetch}`"
    )


def _passed_over(client: Client, job_id: str, *, as_json: bool) -> dict[str, str]:
    """What the job does not take of its folder, as a field; people are told at once."""
    passed_over = client.status(job_id).passed_over
    if passed_over and not as_json:
        tell(passed_over)
    return {"passed_over": passed_over} if passed_over else {}


def _what_to_make(
    client: Client,
    input: str | None,
    catalog: str | None,
    queries: str | None,
    format: OutputFormat,
) -> Callable[..., str]:
    """A job of a file or of a catalog. Raises UsageError when it is not clear which."""
    if input is not None and catalog is None and queries is None:
        return functools.partial(client.submit, input)
    if input is None and catalog is not None and queries is not None:
        return functools.partial(client.submit_catalog, catalog, queries, format=format)
    raise UsageError(
        "a job is made of a file, or of a catalog and its queries",
        hint="rerank submit FILE, or rerank submit --catalog IMAGES --queries FILE",
    )
