"""POST /v1/rerank as server-sent events: where the request stands, and then its answer.

queued   {"ahead"}          shards that stand before it in its queue; nobody has begun with it
scoring  {"done", "total"}  a worker has it: images are fetched and prepared, pairs are scored
answer                      what the plain request would have been answered with
error    {"status", "error"}  the body and the status that the plain request would have had

What is wrong before the request stands in the queue is told as ever, with its own status.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import structlog
from fastapi import Request
from starlette.responses import Response

from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.admission import in_thread
from rerankfleet.producer.gateway.errors import STATUS, problem_of
from rerankfleet.producer.gateway.streaming.events import EVENT_STREAM, KEEP_ALIVE, Events, event
from rerankfleet.producer.queue_position import QueuePosition
from rerankfleet.shared.errors import RerankError, Unavailable, UnknownJob
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.notifier import Caller

LOOK_S = 0.3
"""How often it is looked where a request stands."""
MADE_S = 0.005
"""How often it is looked whether a request stands in the queue."""

Asking = asyncio.Task[dict[str, Any]]

log = structlog.get_logger()


def wants_stages(request: Request) -> bool:
    """Whether the client asks for events in place of a plain answer."""
    return EVENT_STREAM in request.headers.get("accept", "")


async def answer(
    client: Client, request: Request, ask: Callable[[Caller], Awaitable[dict[str, Any]]]
) -> Response:
    """The events of a request that `ask` makes and waits for. When the client leaves, so does the
    caller that `ask` is given. Raises what `ask` does before its job is made."""
    caller = Caller()
    asking: Asking = asyncio.ensure_future(ask(caller))
    asking.add_done_callback(_take_note)
    while not (asking.done() or caller.job_id):
        await asyncio.wait([asking], timeout=MADE_S)
    if asking.done() and asking.exception():
        await asking
    return Events(_follow(client, request, caller, asking))


async def _follow(
    client: Client, request: Request, caller: Caller, asking: Asking
) -> AsyncIterator[str]:
    told: QueuePosition | None = None
    since_s = time.monotonic()
    try:
        while not asking.done():
            found = await _standing(client, caller.job_id, since_s)
            yield KEEP_ALIVE if found in (None, told) else _stage(found)
            told = found or told
            await asyncio.wait([asking], timeout=LOOK_S)
        yield _outcome(request, asking)
    finally:
        caller.leave()


async def _standing(client: Client, job_id: str, since_s: float) -> QueuePosition | None:
    """Where it stands; None where that cannot be told now."""
    try:
        return await in_thread(client.standing, job_id, since_s)
    except (Unavailable, UnknownJob, *REDIS_ERRORS):
        return None


def _stage(found: QueuePosition) -> str:
    if found.ahead is not None:
        return event("queued", {"ahead": found.ahead})
    return event("scoring", {"done": found.done, "total": found.total})


def _outcome(request: Request, asking: Asking) -> str:
    error = asking.exception()
    if error is None:
        return event("answer", asking.result())
    assert isinstance(error, Exception)
    problem = problem_of(error)
    request.scope[STATUS] = problem.status
    return event("error", {"status": problem.status, **problem.body()})


def _take_note(asking: Asking) -> None:
    """Log what nobody foresaw: the answer may have begun, and its client gone."""
    error = None if asking.cancelled() else asking.exception()
    if error and not isinstance(error, (RerankError, *REDIS_ERRORS)):
        log.error("unforeseen", exc_info=error)
