"""Requests to be scored: validated, put into the queue, and bounded in number.

A request that exceeds the bound is refused, none waits for its turn. When a client closes its
connection, its request is cancelled.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from fastapi import Request
from starlette.responses import Response

from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.errors import MODEL, InvalidField, NotScored
from rerankfleet.producer.gateway.history import History
from rerankfleet.producer.gateway.rights import key_of
from rerankfleet.producer.interactive import Answer, PendingRequest
from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import CallerLeft, ItemError, Overloaded, Path, RerankError
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.state.connection import REDIS_ERRORS

T = TypeVar("T")


@dataclass(frozen=True)
class Gateway:
    """What the routes share: a client of the fleet, and the limits of what runs at once."""

    client: Client
    history: History
    requests: anyio.CapacityLimiter
    """Requests being scored: each keeps a thread waiting for its answer."""
    streams: anyio.CapacityLimiter
    """Results being read: each may keep a thread for long."""
    jobs: anyio.CapacityLimiter
    """Jobs being made: each may keep a thread for long."""
    events: anyio.CapacityLimiter
    """Jobs being followed: the status of each is read once a second."""
    uploads: anyio.CapacityLimiter
    """Uploads being received: each takes memory."""
    threads: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(math.inf), init=False
    )
    """The threads of all these, which are bounded already; the default ones serve short calls."""

    async def ask(
        self,
        request: Request,
        inputs: Sequence[RerankInput],
        on_start: Callable[[PendingRequest], None] | None = None,
        **options: Any,
    ) -> Answer:
        """Score inputs of one model as one small request. `on_start` is called with it once it is
        in the queue.

        Raises InvalidField or ItemError for what is wrong with them, Overloaded, NoWorker, and
        CallerLeft when the client closes its connection.
        """
        request.scope[MODEL] = options.get("model")
        options |= key_of(request).of_its_jobs
        with taken(self.requests, "requests"):
            pending = await self._start(request, inputs, options)
            if on_start:
                on_start(pending)
            answer = await self._wait(request, pending)
        request.scope[MODEL] = answer.job.spec.model
        return answer

    async def _start(
        self, request: Request, inputs: Sequence[RerankInput], options: Mapping[str, Any]
    ) -> PendingRequest:
        """Put inputs into the queue. If this task is cancelled first, so is the request."""
        if await request.is_disconnected():
            raise CallerLeft("the caller left before its job was made")
        starting = asyncio.ensure_future(self.in_thread(self._put_in_queue, inputs, options))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_cancel_started)
            raise

    def _put_in_queue(
        self, inputs: Sequence[RerankInput], options: Mapping[str, Any]
    ) -> PendingRequest:
        limit = self.client.settings.max_documents_per_request
        slices = [one.piece(number, limit) for number, one in enumerate(inputs, 1)]
        set_options = {name: value for name, value in options.items() if value is not None}
        return self.client.interactive.start(slices, **set_options)

    async def _wait(self, request: Request, pending: PendingRequest) -> Answer:
        """Wait for the answer; cancel the request when its client leaves or this task is ended."""
        watching = asyncio.create_task(_cancel_when_disconnected(request, pending))
        try:
            return await self.in_thread(pending.wait)
        except asyncio.CancelledError:
            cancel_in_background(pending)
            raise
        finally:
            watching.cancel()

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """A blocking call that may take long, of something that is `taken`."""
        return await anyio.to_thread.run_sync(call, *args, limiter=self.threads)


@contextmanager
def taken(limiter: anyio.CapacityLimiter, what: str) -> Iterator[None]:
    """Hold one of a limited number of places while the block runs. Raises Overloaded, instead of
    waiting, when all are held."""
    holder = object()
    try:
        limiter.acquire_on_behalf_of_nowait(holder)
    except anyio.WouldBlock:
        raise Overloaded(
            f"{limiter.borrowed_tokens:g} {what} are in progress already",
            hint="try again in a moment",
        ) from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(holder)


async def _cancel_when_disconnected(request: Request, pending: PendingRequest) -> None:
    """Cancel a request when its client closes the connection. Its body has been read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancel_in_background(pending)


def _cancel_started(starting: asyncio.Future[PendingRequest]) -> None:
    if not starting.cancelled() and not starting.exception():
        cancel_in_background(starting.result())


def cancel_in_background(pending: PendingRequest) -> None:
    """Cancel a request in another thread, without waiting for Redis."""
    asyncio.get_running_loop().run_in_executor(None, _cancel, pending)


def _cancel(pending: PendingRequest) -> None:
    with suppress(*REDIS_ERRORS):  # without Redis, the request ends at its deadline
        pending.cancel()


@dataclass(frozen=True)
class RerankInput:
    """A query and its documents, with the contents of a line of input."""

    query: Any
    documents: Sequence[Any]
    instruction: str | None = None
    top_n: int | None = None
    query_path: Path = ("query",)
    """Where the client wrote the query: `("queries", 3)`."""
    documents_field: str = "documents"
    """The client's name of the list of documents."""
    first: int = 0
    """The index of the first document in the client's list."""

    @property
    def line(self) -> dict[str, Any]:
        """A line of input."""
        return {
            "query": self.query,
            "documents": list(self.documents),
            "instruction": self.instruction,
            "top_n": self.top_n or None,
        }

    def piece(self, number: int, max_documents: int) -> Slice:
        """Validate it. Raises InvalidField, or ItemError, naming the field that is wrong."""
        try:
            return slice_of(number, self.line, max_documents=max_documents, strict=True)
        except ItemError as error:
            raise self._as_written(error) from error

    def _as_written(self, error: ItemError) -> RerankError:
        """The error with the path of the field in the client's own request."""
        match error.path:
            case ("documents", int(index), *inside):
                path = (self.documents_field, self.first + index, *inside)
                return InvalidField(path, error.message, hint=error.hint)
            case ("query", *inside) if self.query_path != ("query",):
                return error.at(*self.query_path, *inside)
        return error


def gateway_of(request: Request) -> Gateway:
    """What the application's routes share."""
    gateway = request.app.state.gateway
    assert isinstance(gateway, Gateway)
    return gateway


async def in_thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    """A short blocking call, outside the event loop."""
    return await anyio.to_thread.run_sync(functools.partial(call, *args, **options))


def as_json(content: Any, status: int = 200) -> Response:
    """A JSON answer in UTF-8."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(data, status, media_type="application/json")


def refuse_unscored(outcome: SliceOutcome) -> None:
    """Raise NotScored for the first pair without a score, in formats that cannot express it."""
    for error in outcome.errors:
        where = "" if error.index is None else f"document {error.index}: "
        raise NotScored(f"{where}{error.message} ({error.code})", hint=error.hint)
