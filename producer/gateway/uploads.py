"""POST /v1/uploads: files streamed into the storage, where they are kept for a limited time."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Annotated, TypeVar

import anyio
from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import Gateway, as_json, gateway_of, taken
from rerankfleet.producer.gateway.errors import (
    InvalidField,
    UnreadableBody,
    UnsupportedBody,
)
from rerankfleet.producer.gateway.json_bodies import refuse_encoded
from rerankfleet.producer.gateway.rights import key_of
from rerankfleet.producer.quotas import Reservation
from rerankfleet.shared.errors import StorageUnavailable, TooLarge, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.uploads import new_upload, record_hash, upload_uri

routes = APIRouter(tags=["uploads"])

BLOCK_BYTES = 1 << 20
"""Bytes of one write. S3 takes parts of 16 MiB: there an upload holds one, and a copy while it is
sent."""

SUFFIXES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    **dict.fromkeys((".jpeg", ".jpe", ".jfif", ".mpo"), "image/jpeg"),
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".avif": "image/avif",
    ".heic": "image/heic",
    ".heif": "image/heif",
    ".jsonl": "application/x-ndjson",
    ".ndjson": "application/x-ndjson",
    ".txt": "text/plain",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".parquet": "application/vnd.apache.parquet",
    ".gz": "application/gzip",
}
"""What may be uploaded, by the end of its name -> its type."""
OTHER_NAMES = {
    "application/json": "application/x-ndjson",
    "application/jsonl": "application/x-ndjson",
    "application/jsonlines": "application/x-ndjson",
    "application/x-jsonlines": "application/x-ndjson",
    "application/x-parquet": "application/vnd.apache.parquet",
    "application/x-gzip": "application/gzip",
    "image/jpg": "image/jpeg",
    "image/mpo": "image/jpeg",
    "image/pjpeg": "image/jpeg",
}
UNSPECIFIC = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""With these types the name decides. The last is what curl sends by default."""

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in (*dict.fromkeys(SUFFIXES.values()), "application/octet-stream")
        },
    }
}


@routes.post("/v1/uploads", status_code=201, summary="Upload a file", openapi_extra=_BODY)
async def upload(
    request: Request,
    name: Annotated[str, Query(max_length=500)] = "",
    ttl_s: Annotated[float | None, Query(gt=0, description="lifetime in seconds")] = None,
) -> Response:
    """An image, or a job's input: JSON Lines, a listing, CSV or Parquet, as the raw body. A job
    copies its input, but not the images that its lines name: keep these as long as it runs."""
    gateway = gateway_of(request)
    refuse_encoded(request, _COMPRESSED)
    kind, suffix = _kind_of(request.headers.get("content-type", ""), name)
    ttl_s = _allowed_ttl_s(ttl_s, gateway.client.settings)
    with taken(gateway.uploads, "uploads"):
        upload_id, expires_s, uri, size = await _keep(
            request, gateway, suffix, ttl_s, is_image=kind.startswith("image/")
        )
    fields = {
        "id": upload_id,
        "uri": uri,
        "name": name,
        "bytes": size,
        "content_type": kind,
        "expires_s": expires_s,
    }
    return as_json(fields, 201)


def _allowed_ttl_s(requested_s: float | None, settings: Settings) -> float:
    """The lifetime of an upload. Raises InvalidField for one over the limit."""
    most_s = max(settings.upload_ttl_max_s, settings.upload_ttl_s)
    if requested_s is not None and not requested_s <= most_s:
        raise InvalidField(
            ("ttl_s",),
            f"an upload is kept for {most_s:.0f} s at the most",
            hint="put files that must live longer into S3, or raise RERANK_UPLOAD_TTL_MAX_S",
        )
    return requested_s or settings.upload_ttl_s


async def _keep(
    request: Request, gateway: Gateway, suffix: str, ttl_s: float, *, is_image: bool
) -> tuple[str, int, str, int]:
    """Stream an upload into the storage. Returns its id, when it expires, its URI and its size."""
    client = gateway.client
    settings, objects, in_thread = client.settings, client.objects, gateway.in_thread
    upload_id, expires_s = new_upload(ttl_s, key_of(request).name)
    uri = upload_uri(objects, upload_id, f"upload{suffix}")
    announced = _announced_bytes(request, settings.upload_bytes_max)
    reserved = Reservation(client.store, settings, "uploads", upload_id, announced)
    async with _in_threads(gateway, reserved) as room:
        try:
            async with _in_threads(gateway, objects.writer(uri)) as target:
                written = _Written(target, room)
                size = await _copy(request, partial(in_thread, written.write), settings)
            if not is_image:
                await in_thread(record_hash, objects, upload_id, written.hexdigest())
            await in_thread(room.keep_upload, expires_s, size)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(UsageError, StorageUnavailable):
                await in_thread(objects.delete_tree, upload_uri(objects, upload_id))
                await in_thread(room.release)
            raise
    return upload_id, expires_s, uri, size


def _announced_bytes(request: Request, bytes_max: int) -> int:
    """The size that the client announced; 0 for none. Raises TooLarge."""
    announced = request.headers.get("content-length", "")
    size = int(announced) if announced.isdecimal() else 0
    _refuse_large(size, bytes_max)
    return size


class _Written:
    """What is written of an upload: counted, hashed, and within its room."""

    def __init__(self, target: IO[bytes], room: Reservation) -> None:
        self._target, self._room = target, room
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, block: bytes) -> int:
        self._size += len(block)
        self._room.grow(self._size)
        self._digest.update(block)
        return self._target.write(block)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def _kind_of(content_type: str, name: str) -> tuple[str, str]:
    """The type of an upload, and the suffix of its name. Raises UnsupportedBody for any other."""
    declared = content_type.partition(";")[0].strip().lower()
    declared = OTHER_NAMES.get(declared, declared)
    *_, inner, suffix = "", "", *PurePosixPath(name.lower()).suffixes
    kind = SUFFIXES.get(suffix, "")
    if suffix == ".gz" and inner in SUFFIXES:  # no other part of a name gets into a URI
        suffix = f"{inner}{suffix}"
    if kind and declared in (kind, "text/plain", *UNSPECIFIC):
        return kind, suffix
    for known, its_kind in SUFFIXES.items():
        if declared == its_kind:
            return its_kind, known
    if declared.startswith("multipart/"):
        message = "an upload is the bytes of one file, not a form"
        raise UnsupportedBody(("Content-Type",), message, hint=f"send the file alone; {_TYPES}")
    message = "expected an image, JSON Lines, text, CSV or Parquet"
    raise UnsupportedBody(("Content-Type",), message, hint=_TYPES)


_TYPES = (
    "name its type in the header, as in Content-Type: application/x-ndjson, or its name in the "
    "address, as in ?name=pairs.jsonl"
)


_COMPRESSED = "leave this header out; a gzip file is uploaded as it is, as in ?name=pairs.jsonl.gz"


async def _copy(request: Request, write: Write, settings: Settings) -> int:
    """Write the body in blocks, within the cap. Returns its size."""
    size, block = 0, bytearray()
    async for chunk in _chunks(request):
        size += len(chunk)
        _refuse_large(size, settings.upload_bytes_max)
        block += chunk
        if len(block) >= BLOCK_BYTES:
            await write(bytes(block))
            block.clear()
    if not size:
        raise UnreadableBody(("body",), "the upload is empty", hint="send the file as the body")
    await write(bytes(block))
    return size


def _refuse_large(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise TooLarge(f"the upload is larger than {bytes_max} bytes", hint=_LARGER)


Write = Callable[[bytes], Awaitable[int]]


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises UsageError when the client disconnects."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise UsageError("the upload was interrupted") from None


_LARGER = "put it into S3 and name its URI, or raise RERANK_UPLOAD_BYTES_MAX"


Opened = TypeVar("Opened")


@asynccontextmanager
async def _in_threads(
    gateway: Gateway, opened: AbstractContextManager[Opened]
) -> AsyncIterator[Opened]:
    """A blocking context, entered and left in threads."""
    stream = await gateway.in_thread(opened.__enter__)
    try:
        yield stream
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            await gateway.in_thread(opened.__exit__, type(error), error, error.__traceback__)
        raise
    await gateway.in_thread(opened.__exit__, None, None, None)
