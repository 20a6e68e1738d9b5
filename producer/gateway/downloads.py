"""The files of a job's output: listed, and streamed.

A name is only looked up among those of its job, never made into a path.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.rows import PART
from rerankfleet.producer.gateway.admission import Gateway, as_json, gateway_of, in_thread
from rerankfleet.producer.gateway.jobs import JobId, failed_lines
from rerankfleet.producer.gateway.streaming.streams import Streamed, stream_lines
from rerankfleet.producer.output import OutputFile
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.sources import COPY_BYTES
from rerankfleet.shared.state.records import Job

routes = APIRouter(prefix="/v1/jobs", tags=["jobs"])

ERRORS = "errors.jsonl"
"""Not a file of the storage: it is made from the results when it is requested."""
KINDS = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}

FileName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class UnknownFile(UsageError):
    """A job's output has no such file."""

    code = "unknown_file"
    http_status = 404


@routes.get("/{job_id}/files", summary="List the files of the output")
async def listing(
    request: Request, job_id: JobId, limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> Response:
    """The first of them, and their number. Of an unfinished job only the errors so far."""
    return as_json(await in_thread(_listing, gateway_of(request).client, job_id, limit))


def _listing(client: Client, job_id: str, limit: int) -> dict[str, Any]:
    job = client.store.jobs.get(job_id)
    files = client.output.files(job) if job.finished else []
    if job.progress.errors or job.progress.rejected:
        files.append(OutputFile(ERRORS, ""))
    files.sort(key=lambda file: file.name.startswith(PART))  # last: there may be very many
    rows = [{"name": file.name, "rows": file.rows} for file in islice(files, limit)]
    return {"data": rows, "count": len(files)}


_BYTES = {"content": {"application/octet-stream": {}}, "description": "the file's bytes"}


@routes.get("/{job_id}/files/{name}", summary="Download a file", responses={200: _BYTES})
async def download(request: Request, job_id: JobId, name: FileName) -> Response:
    """Streamed as it is in the storage."""
    gateway = gateway_of(request)
    job = await in_thread(gateway.client.store.jobs.get, job_id)
    saved_as = _saved_as(job.spec.name or job_id, name)
    if name == ERRORS:
        answer = stream_lines(gateway, failed_lines(gateway.client, job_id))
    else:
        answer = await in_thread(_streamed, gateway, job, name)
    answer.headers["Content-Disposition"] = f'attachment; filename="{saved_as}"'
    return answer


def _streamed(gateway: Gateway, job: Job, name: str) -> Streamed:
    client = gateway.client
    file = next((file for file in client.output.files(job) if file.name == name), None)
    if file is None:
        raise UnknownFile(f"job {job.id} has no file {name!r}", hint="GET …/files lists them")
    objects = client.output.objects_of(job)
    size = objects.stat(file.uri).size
    kind = KINDS.get(name.rpartition(".")[2], "application/octet-stream")
    blocks = _blocks(objects.open(file.uri))
    return Streamed(gateway, blocks, kind, {"Content-Length": str(size)})


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    with closing(stream):
        while block := stream.read(COPY_BYTES):
            yield block


def _saved_as(job_name: str, name: str) -> str:
    """The file name of the download: plain letters of the job's name, and the file's own name."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", job_name).strip("-.")[:80]
    return f"{plain}-{name}" if plain else name
