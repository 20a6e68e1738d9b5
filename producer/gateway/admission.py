"""One scored request: validated, sent through the queue in a thread, and bounded in number.

No request waits to be taken in hand, and none is worked on when its client has gone.
"""

from __future__ import annotations

import asyncio
import functools
import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from fastapi import Request
from starlette.responses import Response

from rerankfleet.producer.client import Answer, Client
from rerankfleet.producer.gateway.errors import MODEL, InvalidField, NotScored
from rerankfleet.producer.gateway.history import History
from rerankfleet.shared.content.outcomes import SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError, Overloaded, Path, RerankError
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.state.notifier import Caller

T = TypeVar("T")


@dataclass(frozen=True)
class Gateway:
    """What the routes share."""

    client: Client
    history: History
    requests: anyio.CapacityLimiter
    """Requests in hand: each keeps a thread waiting for its answer."""
    streams: anyio.CapacityLimiter
    """Results being read: each may keep a thread for long."""
    jobs: anyio.CapacityLimiter
    """Jobs being made: so may these."""
    events: anyio.CapacityLimiter
    """Jobs being followed: the status of each is read once a second."""
    uploads: anyio.CapacityLimiter
    """Uploads in hand: each keeps memory."""
    threads: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(math.inf), init=False
    )
    """The threads of all these, bounded already; the usual ones are left to short calls."""

    async def ask(
        self,
        request: Request,
        asked: Sequence[Asked],
        caller: Caller | None = None,
        **options: Any,
    ) -> Answer:
        """Score requests of one model as one interactive job, for a `caller` who may leave.

        Raises InvalidField or ItemError for what is wrong with them, Overloaded, NoWorker, and
        CallerLeft when the client closed its connection.
        """
        request.scope[MODEL] = options.get("model")
        given = {name: value for name, value in options.items() if value is not None}
        async with self._in_hand(request, caller or Caller()) as caller:
            run = functools.partial(self._ask, asked, {**given, "caller": caller})
            answer = await self.in_thread(run)
        request.scope[MODEL] = answer.job.spec.model
        return answer

    @asynccontextmanager
    async def _in_hand(self, request: Request, caller: Caller) -> AsyncIterator[Caller]:
        """Take a request in hand at once, or raise Overloaded; tell when its client has left."""
        with taken(self.requests, "requests"):
            watching = asyncio.create_task(_watch(request, caller))
            try:
                yield caller
            finally:
                watching.cancel()
                caller.leave()  # when this gateway stops, its threads do too

    async def in_thread(self, call: Callable[..., T], *args: Any) -> T:
        """A blocking call that may take long, of something that is `taken`."""
        return await anyio.to_thread.run_sync(call, *args, limiter=self.threads)

    def _ask(self, asked: Sequence[Asked], options: Mapping[str, Any]) -> Answer:
        limit = self.client.settings.max_documents_per_request
        pieces = [one.piece(number, limit) for number, one in enumerate(asked, 1)]
        return self.client.ask(pieces, **options)


@contextmanager
def taken(limiter: anyio.CapacityLimiter, what: str) -> Iterator[None]:
    """Hold one of a limited number while the block runs. Raises Overloaded when all are held:
    nothing waits for one."""
    holder = object()
    try:
        limiter.acquire_on_behalf_of_nowait(holder)
    except anyio.WouldBlock:
        raise Overloaded(
            f"{limiter.borrowed_tokens:g} {what} are in hand already",
            hint="try again in a moment",
        ) from None
    try:
        yield
    finally:
        limiter.release_on_behalf_of(holder)


async def _watch(request: Request, caller: Caller) -> None:
    """Tell when the client closes its connection; of its body nothing is left to be read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    caller.leave()


@dataclass(frozen=True)
class Asked:
    """A query and its documents, as contents of a line of input."""

    query: Any
    documents: Sequence[Any]
    instruction: str | None = None
    top_n: int | None = None
    query_path: Path = ("query",)
    """Where the client wrote it: `("queries", 3)`."""
    documents_field: str = "documents"
    """The client's name of their list."""
    first: int = 0
    """The index of the first of them in that list."""

    @property
    def line(self) -> dict[str, Any]:
        """It as a line of input."""
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
    found = request.app.state.gateway
    assert isinstance(found, Gateway)
    return found


async def in_thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    """A short blocking call, beside the event loop."""
    return await anyio.to_thread.run_sync(functools.partial(call, *args, **options))


def as_json(content: Any, status: int = 200) -> Response:
    """An answer in UTF-8."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(data, status, media_type="application/json")


def refuse_unscored(outcome: SliceOutcome) -> None:
    """Raise NotScored for the first pair without a score: a format may have no place for it."""
    for error in outcome.errors:
        where = "" if error.index is None else f"document {error.index}: "
        raise NotScored(f"{where}{error.message} ({error.code})", hint=error.hint)
