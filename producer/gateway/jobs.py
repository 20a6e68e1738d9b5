"""Routes about jobs: create, list, follow and change them, stream their results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParam
from pydantic import ConfigDict, Field
from starlette.responses import Response

from rerankfleet.producer.api_keys import ApiKey
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.admission import as_json, gateway_of, in_thread, taken
from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.fields import IDEMPOTENT, Fields, idempotency_key
from rerankfleet.producer.gateway.formats.scoring import Options
from rerankfleet.producer.gateway.json_bodies import JsonRoute
from rerankfleet.producer.gateway.rights import key_of
from rerankfleet.producer.gateway.streaming.events import KEEP_ALIVE, Events, event
from rerankfleet.producer.gateway.streaming.streams import stream_lines
from rerankfleet.producer.status import describe
from rerankfleet.shared.addresses import canonical
from rerankfleet.shared.content.options import AdaptationOptions, JobOptions, ResultOptions
from rerankfleet.shared.errors import Path, Unavailable, UnknownJob
from rerankfleet.shared.formats.sources import is_uri
from rerankfleet.shared.job_spec import OutputFormat, Priority
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.storage.errors import missing
from rerankfleet.shared.storage.uploads import OwnUploads

routes = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=JsonRoute)

EVENT_S = 1.0
"""How often the status of a followed job is sent."""

log = structlog.get_logger()


async def _own_job(
    request: Request, job_id: Annotated[str, PathParam(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
) -> str:
    """The id of a job, where the request's key may see it. Raises UnknownJob."""
    key = key_of(request)
    if not key.is_admin:
        await in_thread(gateway_of(request).client.store.jobs.refuse_foreign, job_id, key.name)
    return job_id


JobId = Annotated[str, Depends(_own_job)]
"""Of every route that is about one job: what another key made is unknown to it."""


class CatalogBody(Fields):
    """Makes a job a catalog: every query is scored with every image of the input."""

    model_config = ConfigDict(extra="forbid")

    queries: str | list[Any] = Field(description="a URI, or texts and contents")
    format: OutputFormat = "jsonl"


class JobBody(Options, ResultOptions, AdaptationOptions, JobOptions):
    """A job's input and options; only `input` is required."""

    model_config = ConfigDict(extra="forbid")

    input: str = Field(min_length=1, description="s3://, file:// or the uri of an upload")
    output: str | None = Field(default=None, description="s3:// or file://; unset: fetch /results")
    catalog: CatalogBody | None = None
    name: str | None = Field(default=None, max_length=200)
    key: str | None = Field(default=None, min_length=1, max_length=200)
    force: bool = False
    priority: Literal["normal", "bulk"] = "normal"

    def options(self) -> dict[str, Any]:
        """Those that were given, as options of a job."""
        name = {} if self.name is None else {"name": self.name}
        return super().options() | name | {"priority": Priority(self.priority)}


class RetryBody(Fields):
    """Which errors to score again."""

    model_config = ConfigDict(extra="forbid")

    only: Literal["all", "errors"] = "all"


# ---- jobs ---------------------------------------------------------------------------------------


@routes.post("", status_code=201, summary="Make a job", openapi_extra=IDEMPOTENT)
async def submit(request: Request, body: JobBody) -> Response:
    """A job of a file of requests, or with `catalog` of images that are scored with every query."""
    gateway = gateway_of(request)
    client = gateway.client
    _refuse_local(body, client)
    owner = key_of(request)
    _refuse_foreign(body, client, owner)
    key = idempotency_key(request, body.key)
    with taken(gateway.jobs, "new jobs"):
        job_id = await gateway.in_thread(_submit, client, body, key, owner)
    log.info("a job was submitted", job=job_id)
    return as_json(await in_thread(_status, client, job_id), 201)


def _refuse_local(body: JobBody, client: Client) -> None:
    """Raise InvalidField for a local path: it would be one of this server's own files."""
    queries = body.catalog.queries if body.catalog else None
    uris: dict[Path, Any] = {
        ("input",): body.input,
        ("output",): body.output,
        ("catalog", "queries"): queries,
    }
    for path, uri in uris.items():
        if isinstance(uri, str) and (not is_uri(canonical(uri)) or "\0" in uri):
            raise InvalidField(path, "expected s3://… or file:///…, or an upload's uri")
    if body.output and client.objects.is_in_storage(canonical(body.output)):
        message = "the storage keeps the files of running jobs"
        raise InvalidField(("output",), message, hint=_OUTPUT)


_OUTPUT = "choose another place, or leave it out and fetch the results"


def _refuse_foreign(body: JobBody, client: Client, owner: ApiKey) -> None:
    """Raise StorageRefused for an input in the storage that is no upload of this key: to its
    holder it is as if it were not there."""
    if owner.is_admin:
        return
    uploads = OwnUploads(client.settings)
    for given in (body.input, body.catalog and body.catalog.queries):
        if not isinstance(given, str):
            continue
        uri = canonical(given)
        if client.objects.is_in_storage(uri) and not uploads.is_own(uri, owner.name):
            raise missing(uri)


def _submit(client: Client, body: JobBody, key: str | None, owner: ApiKey) -> str:
    options: dict[str, Any] = {
        **body.options(),
        **owner.of_its_jobs,
        "output": body.output,
        "model": body.model,
        "key": key,
        "force": body.force,
        "over_http": True,
    }
    if body.catalog is None:
        return client.submit(body.input, **options)
    queries, form = body.catalog.queries, body.catalog.format
    return client.submit_catalog(body.input, queries, format=form, **options)


@routes.get("", summary="List the newest jobs")
async def listing(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Response:
    """The newest first: those that this key made; with the right `admin` all."""
    key = key_of(request)
    owner = "" if key.is_admin else key.name
    statuses = await in_thread(gateway_of(request).client.jobs, limit, owner)
    return as_json({"data": [_as_fields(status) for status in statuses]})


@routes.get("/{job_id}", summary="Look at a job")
async def status(request: Request, job_id: JobId) -> Response:
    """Its progress, what limits it, and its options."""
    return as_json(await in_thread(_status_with_options, gateway_of(request).client, job_id))


def _status(client: Client, job_id: str) -> dict[str, Any]:
    return _as_fields(client.status(job_id))


def _status_with_options(client: Client, job_id: str) -> dict[str, Any]:
    job = client.store.jobs.get(job_id)
    spec, status = job.spec, describe(job, client.store.snapshot([job.spec.model]))
    catalog = spec.catalog and {"queries": spec.catalog.count, "format": spec.catalog.format}
    return _as_fields(status) | {"options": spec.scoring_options, "catalog": catalog}


def _as_fields(status: JobStatus) -> dict[str, Any]:
    return status.model_dump(mode="json")


# ---- verbs --------------------------------------------------------------------------------------


@routes.post("/{job_id}/cancel", summary="Stop a job")
async def cancel(request: Request, job_id: JobId) -> Response:
    """What was scored is published."""
    return await _do(request, job_id, Client.cancel, "cancelled")


@routes.post("/{job_id}/pause", summary="Pause a job")
async def pause(request: Request, job_id: JobId) -> Response:
    """Shards that are being scored are finished; no other is begun."""
    return await _do(request, job_id, Client.pause, "paused")


@routes.post("/{job_id}/resume", summary="Resume a paused job")
async def resume(request: Request, job_id: JobId) -> Response:
    """Its shards go back into the queue."""
    return await _do(request, job_id, Client.resume, "resumed")


@routes.post("/{job_id}/retry", summary="Score again what has no score")
async def retry(request: Request, job_id: JobId, body: RetryBody | None = None) -> Response:
    """Merged into the same output; `only` "errors" leaves out what was cancelled."""
    only = (body or RetryBody()).only
    return await _do(request, job_id, lambda client, job_id: client.retry(job_id, only), "retried")


async def _do(
    request: Request, job_id: str, verb: Callable[[Client, str], None], done: str
) -> Response:
    client = gateway_of(request).client
    await in_thread(verb, client, job_id)
    log.info(f"a job was {done}", job=job_id)
    return as_json(await in_thread(_status, client, job_id))


# ---- results ------------------------------------------------------------------------------------

_NDJSON = {"content": {"application/x-ndjson": {}}, "description": "JSON Lines"}


@routes.get("/{job_id}/results", summary="Stream the output", responses={200: _NDJSON})
async def results(request: Request, job_id: JobId, partial: bool = False) -> Response:
    """A line per line of input, in order; with `partial` those that have been scored so far."""
    gateway = gateway_of(request)
    return stream_lines(gateway, gateway.client.results(job_id, partial=partial))


Cursor = Annotated[
    str, Query(pattern=r"^(\d{1,18}(\.\d{1,9})?)?$", description="the `cursor` of a line")
]


@routes.get("/{job_id}/errors", summary="Stream what has no score", responses={200: _NDJSON})
async def errors(
    request: Request,
    job_id: JobId,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 100,
    after: Cursor = "",
) -> Response:
    """The lines in which something was rejected or failed, without their results. Of a finished
    job each has a `cursor`: pass the last one as `after` to continue behind it."""
    gateway = gateway_of(request)
    return stream_lines(gateway, failed_lines(gateway.client, job_id, after), limit)


def failed_lines(client: Client, job_id: str, after: str = "") -> Iterator[dict[str, Any] | None]:
    """The lines in which something failed; None for any other."""
    for cursor, line in client.results_after(job_id, after):
        fields = {name: line[name] for name in line if name not in ("results", "provenance")}
        if cursor:
            fields["cursor"] = cursor
        yield fields if line.get("errors") or "error" in line else None


# ---- events -------------------------------------------------------------------------------------

_EVENTS = {"content": {"text/event-stream": {}}, "description": "server-sent events"}


@routes.get("/{job_id}/events", summary="Follow a job to its end", responses={200: _EVENTS})
async def events(request: Request, job_id: JobId) -> Response:
    """`status` about once a second, with the fields of GET for the job; `end` is the last."""
    gateway = gateway_of(request)
    first = await in_thread(gateway.client.status, job_id)
    return Events(_follow(gateway.client, first), gateway.events)


async def _follow(client: Client, first: JobStatus) -> AsyncIterator[str]:
    """The job's events. While Redis is away, comments keep the connection alive."""
    last: JobStatus = first
    status: JobStatus | None = first
    while True:
        if status is None:
            yield KEEP_ALIVE
        else:
            last = status
            yield event("status", _as_fields(status))
            if status.state in ("done", "cancelled"):
                break
        await asyncio.sleep(EVENT_S)
        try:
            status = await in_thread(client.status, first.id)
        except UnknownJob:  # its record has expired
            break
        except (Unavailable, *REDIS_ERRORS):
            status = None
    yield event("end", {"id": first.id, "state": last.state})
