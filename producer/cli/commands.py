"""The sub-commands that submit and look: thin shells over `rerankfleet.producer.client.Client`."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankfleet.shared.cli import INTERRUPTED, PARTIAL
from rerankfleet.shared.content.command_options import (
    AdaptiveTemperatureOption,
    ExplainOption,
    ForceOption,
    ImagePresetOption,
    InstructionForOption,
    InstructionOption,
    MaxCropOption,
    MaxErrorRateOption,
    MaxLengthOption,
    MaxPixelsOption,
    MaxTokensPerDocOption,
    MinPixelsOption,
    ProfileOption,
    QualityActionOption,
    QualityThresholdOption,
    ResizeModeOption,
    TemperatureOption,
    TopPOption,
    VideoFpsOption,
    VideoMaxFramesOption,
    VideoTotalPixelsOption,
    by_language,
)
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.job_spec import OutputFormat, Priority

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client
    from rerankfleet.shared.job_status import JobStatus

JobArgument = Annotated[str, typer.Argument(help="the job's id, as `rerank submit` printed it")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON for machines")]
POCKET = "pocket-text"


class Only(StrEnum):
    """What `rerank retry` scores again."""

    all = "all"
    errors = "errors"


class Role(StrEnum):
    """What `rerank health` looks at."""

    worker = "worker"
    coordinator = "coordinator"
    gateway = "gateway"


def commands(app: typer.Typer) -> None:
    """Add the sub-commands."""
    verbs: tuple[Callable[..., None], ...] = (
        *(up, demo, coordinator, gateway),
        *(query, submit, status, watch, results, cancel, pause, resume, retry),
        *(jobs, workers, profiles, stats, top, health),
    )
    for verb in verbs:
        app.command()(verb)


def _client() -> Client:
    from rerankfleet.producer.client import Client

    return Client()


# ---- the stack ----------------------------------------------------------------------------------


def up(
    model: Annotated[
        str | None, typer.Option(help="a model folder or hub name; pocket-text to try it out")
    ] = None,
) -> None:
    """Run the whole stack on this machine in the foreground: server, coordinator, worker, gateway.

    Example: rerank up --model Qwen/Qwen3-Reranker-0.6B
    """
    from rerankfleet.producer.local import stack
    from rerankfleet.shared.settings import read_environment

    settings = read_environment()  # not the address of another `rerank up`
    if model is None:
        model = POCKET
        sys.stderr.write(
            f"No --model was named: this serves {POCKET}, a DEMONSTRATION MODEL that knows little "
            "more than shared words.\nFor real scores: rerank up --model Qwen/Qwen3-Reranker-0.6B\n"
        )
    no_gateway = "pip install 'rerankfleet[gateway]' adds it"
    with stack(settings, model, gateway=True) as local:
        from rerankfleet.shared.settings import mask

        sys.stderr.write(
            f"Redis    {mask(local.settings.redis_address)}\n"
            f"storage  {local.settings.storage_uri}\n"
            f"state    {settings.state_dir}\n"
            f"gateway  {local.gateway or no_gateway}\n"
            "The worker is loading the model. In another terminal:\n"
            f"  rerank submit pairs.jsonl -o ranked.jsonl --model {model} --wait\n"
            "Ctrl-C stops everything and keeps the data.\n"
        )
        local.supervisor.wait()
        sys.stderr.write("stopping\n")


def demo() -> None:
    """Run the main job once, on free ports: a small stack, the example, its ranking, the figures.

    Example: rerank demo
    """
    from rerankfleet.producer.demo import run_demo

    run_demo()


def coordinator() -> None:
    """Run what feeds, finishes and monitors jobs. Any number may run.

    Example: RERANK_REDIS_URL=redis://redis:6379/0 rerank coordinator
    """
    from rerankfleet.producer.coordinator.process import children
    from rerankfleet.shared.processes import Supervisor
    from rerankfleet.shared.settings import load_settings
    from rerankfleet.shared.state.connection import connect

    settings = load_settings()
    connect(settings).close()
    Supervisor(children(settings)).run()


def gateway(
    host: Annotated[str | None, typer.Option(help="else RERANK_GATEWAY_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="else RERANK_GATEWAY_PORT")] = None,
) -> None:
    """Serve the fleet over HTTP: /v1/rerank and its kin, jobs, uploads, metrics, the page.

    Example: rerank gateway --port 8080
    """
    from rerankfleet.shared.settings import load_settings

    given = {"gateway_host": host, "gateway_port": port}
    settings = load_settings(**{name: v for name, v in given.items() if v is not None})
    try:
        from rerankfleet.producer.gateway.app import serve
    except ImportError as error:
        raise UsageError(
            f"the gateway needs {error.name}", hint="pip install 'rerankfleet[gateway]'"
        ) from error
    serve(settings)


# ---- a question ---------------------------------------------------------------------------------


def query(
    text: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="what is looked for, in words")
    ] = None,
    doc: Annotated[list[str] | None, typer.Option(help="a candidate of text; repeatable")] = None,
    image: Annotated[
        list[str] | None, typer.Option(help="a candidate image, a path or URI; repeatable")
    ] = None,
    query_image: Annotated[
        list[str] | None, typer.Option(help="an image that belongs to the query; repeatable")
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(help="candidates, one a line: text or JSON content; - for stdin"),
    ] = None,
    top_n: Annotated[int | None, typer.Option(min=1, help="show the best N")] = None,
    model: Annotated[str | None, typer.Option(help="a model that the fleet serves")] = None,
    instruction: Annotated[str | None, typer.Option(help="the task; English is best")] = None,
    max_tokens_per_doc: MaxTokensPerDocOption = None,
    image_preset: ImagePresetOption = "general",
    resize_mode: ResizeModeOption = "crop",
    max_crop: MaxCropOption = 0.15,
    min_pixels: MinPixelsOption = None,
    max_pixels: MaxPixelsOption = None,
    video_fps: VideoFpsOption = None,
    video_max_frames: VideoMaxFramesOption = None,
    video_total_pixels: VideoTotalPixelsOption = None,
    quality_threshold: QualityThresholdOption = 0.65,
    quality_action: QualityActionOption = "off",
    explain: ExplainOption = False,
    as_json: JsonOption = False,
) -> None:
    """Rank a few candidates for one query now. Their order: --doc, --image, --file.

    Example: rerank query "a red chair" --image a.jpg --image s3://shop/b.jpg --doc "a red stool"

    Example: ls | rerank query "the page about money" --file -
    """
    from rerankfleet.producer.terminal import tables
    from rerankfleet.producer.terminal.query import Request, ranking

    client = _client()
    request = Request(client.settings.inline_bytes_max)
    asked = request.query(text, query_image or [])
    for words in doc or []:
        request.add_text(words)
    for uri in image or []:
        request.add_image(uri)
    for path in file or []:
        request.add_file(path)
    if not request.candidates:
        raise UsageError("there are no candidates", hint="give some with --doc, --image or --file")
    line = client.rerank(
        asked,
        [candidate.document for candidate in request.candidates],
        model=model,
        instruction=instruction,
        top_n=top_n,
        max_tokens_per_doc=max_tokens_per_doc,
        image_preset=image_preset,
        resize_mode=resize_mode,
        max_crop=max_crop,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        video_fps=video_fps,
        video_max_frames=video_max_frames,
        video_total_pixels=video_total_pixels,
        quality_threshold=quality_threshold,
        quality_action=quality_action,
        explain=explain,
    )
    if as_json:
        tables.as_json(line)
    else:
        tables.console().print(ranking(line, request.candidates))
    if line["errors"]:
        raise typer.Exit(PARTIAL)


# ---- jobs ---------------------------------------------------------------------------------------


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
            "or a listing: URIs one a line, CSV or Parquet with the columns image, id, text"
        ),
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="of a catalog: one query a line, text or JSON content")
    ] = None,
    format: Annotated[OutputFormat, typer.Option(help="of a catalog's rows")] = "jsonl",
    model: Annotated[str | None, typer.Option(help="a model that the fleet serves")] = None,
    profile: ProfileOption = None,
    instruction: InstructionOption = None,
    instruction_for: InstructionForOption = None,
    temperature: TemperatureOption = None,
    top_p: TopPOption = None,
    adaptive_temperature: AdaptiveTemperatureOption = None,
    max_length: MaxLengthOption = None,
    max_tokens_per_doc: MaxTokensPerDocOption = None,
    top_n: Annotated[
        int | None, typer.Option(help="results kept per request; of a catalog ranked per query")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="take the first N requests, or images of a catalog")
    ] = None,
    image_preset: ImagePresetOption = None,
    resize_mode: ResizeModeOption = "crop",
    max_crop: MaxCropOption = 0.15,
    min_pixels: MinPixelsOption = None,
    max_pixels: MaxPixelsOption = None,
    video_fps: VideoFpsOption = None,
    video_max_frames: VideoMaxFramesOption = None,
    video_total_pixels: VideoTotalPixelsOption = None,
    quality_threshold: QualityThresholdOption = 0.65,
    quality_action: QualityActionOption = "off",
    explain: ExplainOption = False,
    max_error_rate: MaxErrorRateOption = 0.5,
    priority: Annotated[Priority, typer.Option(help="whose turn comes first")] = Priority.normal,
    key: Annotated[
        str | None, typer.Option(help="your name for this job: submitting it twice is harmless")
    ] = None,
    force: ForceOption = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="wait for the end; write the output")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a job of a file, or of a catalog of images, and print its id.

    Example: rerank submit pairs.jsonl -o ranked.jsonl --model Qwen/Qwen3-Reranker-0.6B --wait

    Example: rerank submit --catalog s3://shop/images/ --queries queries.txt -o s3://shop/ranked/
    """
    client = _client()
    make = _what_to_make(client, input, catalog, queries, format)
    job_id = make(
        output=output,
        model=model,
        profile=profile,
        instruction=instruction,
        instructions=by_language(instruction_for),
        temperature=temperature,
        top_p=top_p,
        adaptive_temperature=adaptive_temperature,
        max_length=max_length,
        max_tokens_per_doc=max_tokens_per_doc,
        top_n=top_n,
        limit=limit,
        image_preset=image_preset,
        resize_mode=resize_mode,
        max_crop=max_crop,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        video_fps=video_fps,
        video_max_frames=video_max_frames,
        video_total_pixels=video_total_pixels,
        quality_threshold=quality_threshold,
        quality_action=quality_action,
        explain=explain,
        max_error_rate=max_error_rate,
        priority=priority,
        key=key,
        force=force,
    )
    if wait:
        _follow(client, job_id, as_json=as_json, output=output)
        return
    if as_json:
        sys.stdout.write(json.dumps({"id": job_id}) + "\n")
        return
    sys.stdout.write(f"{job_id}\n")
    sys.stderr.write(f"watch it:  rerank watch {job_id}\n")


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


def status(job: JobArgument, as_json: JsonOption = False) -> None:
    """Show a job's progress, and what holds it back.

    Example: rerank status 1f2e3d4c5b6a
    """
    from rerankfleet.producer.terminal import tables

    found = _client().status(job)
    tables.as_json(found) if as_json else tables.console().print(tables.job_panel(found))


def watch(job: JobArgument, as_json: JsonOption = False) -> None:
    """Follow a job to its end; Ctrl-C leaves it running. Writes the output that submit named.

    Example: rerank watch 1f2e3d4c5b6a
    """
    _follow(_client(), job, as_json=as_json)


def _follow(client: Client, job_id: str, *, as_json: bool, output: str | None = None) -> None:
    """Wait with live progress, write a local output, and end with the job's exit code."""
    from rerankfleet.producer.terminal import tables

    try:
        with tables.live_progress() as progress:
            found = client.wait(job_id, on_progress=progress)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nThe job goes on. Come back with:  rerank watch {job_id}\n")
        raise typer.Exit(INTERRUPTED) from None
    target = client.store.jobs.get(job_id).spec.local_output
    if output is not None and "://" not in output:
        target = str(Path(output).resolve())
    if target:
        client.fetch(job_id, target)
        found = found.model_copy(update={"output": target})
    tables.as_json(found) if as_json else tables.console().print(tables.job_panel(found))
    _exit(found)


def _exit(found: JobStatus) -> None:
    progress = found.progress
    if progress.errors or progress.rejected or progress.cancelled:
        raise typer.Exit(PARTIAL)


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
    """
    from rerankfleet.shared.formats.output import dump_line
    from rerankfleet.shared.storage.objects import publish_file

    client = _client()
    if output is None:
        for line in client.results(job, partial=partial):
            sys.stdout.buffer.write(dump_line(line))
        return
    if Path(output).exists() and not force:
        raise UsageError(f"the output {output} exists", hint="use --force to replace it")
    if not partial:
        client.fetch(job, output)
        return
    with publish_file(Path(output)) as out:
        for line in client.results(job, partial=True):
            out.write(dump_line(line))


def cancel(job: JobArgument, as_json: JsonOption = False) -> None:
    """Stop a job. What was scored is kept and published.

    Example: rerank cancel 1f2e3d4c5b6a
    """
    client = _client()
    client.cancel(job)
    _say(client, job, f"cancelled; what was scored:  rerank results {job}", as_json=as_json)


def pause(job: JobArgument, as_json: JsonOption = False) -> None:
    """Hold a job; shards in hand are finished.

    Example: rerank pause 1f2e3d4c5b6a
    """
    client = _client()
    client.pause(job)
    _say(client, job, f"paused; go on with:  rerank resume {job}", as_json=as_json)


def resume(job: JobArgument, as_json: JsonOption = False) -> None:
    """Let a paused job go on.

    Example: rerank resume 1f2e3d4c5b6a
    """
    client = _client()
    client.resume(job)
    _say(client, job, f"resumed:  rerank watch {job}", as_json=as_json)


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
    client = _client()
    client.retry(job, only.value)
    _say(client, job, f"retrying:  rerank watch {job}", as_json=as_json)


def _say(client: Client, job_id: str, text: str, *, as_json: bool) -> None:
    """What a verb did: a line for people, the job's status for machines."""
    if as_json:
        from rerankfleet.producer.terminal import tables

        tables.as_json(client.status(job_id))
    else:
        sys.stderr.write(f"{text}\n")


def jobs(
    count: Annotated[int, typer.Option("-n", help="how many, newest first")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest jobs.

    Example: rerank jobs --json
    """
    from rerankfleet.producer.terminal import tables

    none = "no jobs yet:  rerank submit pairs.jsonl -o ranked.jsonl"
    tables.listing(_client().jobs(count), tables.jobs_table, none=none, json=as_json)


def workers(as_json: JsonOption = False) -> None:
    """List the worker processes.

    Example: rerank workers
    """
    from rerankfleet.producer.terminal import tables

    none = "no workers:  rerank worker --model Qwen/Qwen3-Reranker-0.6B"
    tables.listing(_client().workers(), tables.workers_table, none=none, json=as_json)


def profiles(as_json: JsonOption = False) -> None:
    """List the profiles: the built-in ones, and those of the file that RERANK_PROFILES names.

    Example: rerank profiles
    """
    from rerankfleet.producer.terminal import tables
    from rerankfleet.shared.profiles import load_profiles
    from rerankfleet.shared.settings import read_environment

    found = load_profiles(read_environment().profiles)
    if as_json:
        tables.as_json({name: one.model_dump(mode="json") for name, one in found.items()})
    else:
        tables.console().print(tables.profiles_table(found))


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
    client = _client()
    if forget_temperature:
        if profile is None:
            raise UsageError("--forget-temperature needs a profile", hint="add --profile NAME")
        client.store.statistics.forget_temperature(profile)
    if job is not None:
        found = statistics.report_on_job(client, job)
    elif profile is not None:
        found = statistics.report_on_profile(client, profile, hours)
    else:
        found = statistics.report_on_fleet(client, hours)
    tables.as_json(found) if as_json else tables.console().print(statistics.render(found))


def top(
    interval: Annotated[
        float, typer.Option(min=0.2, help="seconds between two looks at the fleet")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="print it once; so it is where no terminal is")
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

    load_settings()  # a wrong setting is no reason to wait for anything
    console = tables.console()
    if as_json:
        tables.as_json(look(_client()))
    elif once or not console.is_terminal or console.is_dumb_terminal:
        drawn = frame(look(_client()), width=console.width)
        console.print(drawn, crop=False, soft_wrap=True)
    else:
        watch(interval)


def health(
    role: Annotated[
        Role,
        typer.Argument(help="what to look at; `worker` and `gateway` mean: on this host"),
    ],
) -> None:
    """Say whether a role is well: exit code 0 or 1, and one sentence. For container health checks.

    Example: rerank health worker
    """
    look = {
        Role.worker: _worker_health,
        Role.coordinator: _coordinator_health,
        Role.gateway: _gateway_health,
    }
    well, said = look[role]()
    sys.stderr.write(f"{said}\n")
    if not well:
        raise typer.Exit(1)


def _worker_health() -> tuple[bool, str]:
    import socket

    here = [w for w in _client().workers() if w.host == socket.gethostname()]
    ready = [w for w in here if w.state != "loading"]
    said = f"{len(ready)} of {len(here)} workers of this host have loaded their model"
    return bool(ready), said


def _coordinator_health() -> tuple[bool, str]:
    from rerankfleet.shared.advice import silent_limit_s

    client = _client()
    client.objects.check(client.objects.at("jobs"))
    silent_s = client.store.coordination.silent_s()
    said = f"the coordinator gave a sign of life {silent_s:.0f} s ago"
    return silent_s < silent_limit_s(client.settings.tick_s), said


def _gateway_health() -> tuple[bool, str]:
    from http.client import HTTPConnection, HTTPException

    from rerankfleet.shared.settings import load_settings

    settings = load_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.gateway_host, settings.gateway_host)
    connection = HTTPConnection(host, settings.gateway_port, timeout=5)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return False, f"the gateway at {host}:{settings.gateway_port} does not answer ({error})"
    finally:
        connection.close()
    return status == 200, f"the gateway answers with {status}"
