"""POST /v1/rerank as server-sent events: the stages of the request, and then its answer.

queued   {"ahead"}          shards before it in its queue; no worker has claimed it yet
scoring  {"done", "total"}  a worker has it: images are fetched and prepared, pairs are scored
answer                      the body of the plain request's answer
error    {"status", "error"}  the status and body that the plain request would have had

Errors before the request is in the queue are plain answers with their own status.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from fastapi import Request
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import cancel_in_background, in_thread
from rerankfleet.producer.gateway.errors import STATUS, problem_of
from rerankfleet.producer.gateway.streaming.events import EVENT_STREAM, KEEP_ALIVE, Events, event
from rerankfleet.producer.interactive import PendingRequest
from rerankfleet.producer.queue_position import QueuePosition
from rerankfleet.shared.errors import RerankError, Unavailable, UnknownJob
from rerankfleet.shared.state.connection import REDIS_ERRORS

POSITION_S = 0.3
"""How often the position of a request is read."""

Answering = asyncio.Task[dict[str, Any]]
OnStart = Callable[[PendingRequest], None]

log = structlog.get_logger()


def wants_stages(request: Request) -> bool:
    """Whether the client accepts events rather than a plain answer."""
    return EVENT_STREAM in request.headers.get("accept", "")


async def answer(
    request: Request, answer_plain: Callable[[OnStart], Awaitable[dict[str, Any]]]
) -> Response:
    """The events of a request. `answer_plain` starts it, calls back with it, and returns the body
    of the plain answer. Raises what that raises before the request is started."""
    started: asyncio.Future[PendingRequest] = asyncio.get_running_loop().create_future()
    answering: Answering = asyncio.ensure_future(answer_plain(started.set_result))
    answering.add_done_callback(_log_internal_error)
    waited_for: list[asyncio.Future[Any]] = [answering, started]
    await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
    if answering.done():
        await answering  # raises what went wrong at once
    return Events(_stages(request, started.result(), answering))


async def _stages(
    request: Request, pending: PendingRequest, answering: Answering
) -> AsyncIterator[str]:
    last: QueuePosition | None = None
    try:
        while not answering.done():
            position = await _position(pending)
            yield KEEP_ALIVE if position in (None, last) else _stage(position)
            last = position or last
            await asyncio.wait([answering], timeout=POSITION_S)
        yield _outcome(request, answering)
    finally:
        if not answering.done():
            cancel_in_background(pending)


async def _position(pending: PendingRequest) -> QueuePosition | None:
    """The request's position; None if it cannot be read now."""
    try:
        return await in_thread(pending.position)
    except (Unavailable, UnknownJob, *REDIS_ERRORS):
        return None


def _stage(position: QueuePosition) -> str:
    if position.ahead is not None:
        return event("queued", {"ahead": position.ahead})
    return event("scoring", {"done": position.done, "total": position.total})


def _outcome(request: Request, answering: Answering) -> str:
    error = answering.exception()
    if error is None:
        return event("answer", answering.result())
    assert isinstance(error, Exception)
    problem = problem_of(error)
    request.scope[STATUS] = problem.status
    return event("error", {"status": problem.status, **problem.body()})


def _log_internal_error(answering: Answering) -> None:
    """Log an internal error: the client may be gone, or has already received a part of the
    answer."""
    error = None if answering.cancelled() else answering.exception()
    if error and not isinstance(error, (RerankError, *REDIS_ERRORS)):
        log.error("internal error", exc_info=error)
