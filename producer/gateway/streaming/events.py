"""Server-sent events: their format, and the response that sends them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import anyio
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rerankfleet.producer.gateway.admission import taken

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE = ": keep-alive\n\n"
"""A comment, by which the client knows that the connection lives."""

_NO_BUFFER = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: dict[str, Any]) -> str:
    """One event. ASCII: a request may hold code points that are not valid text."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class Events(StreamingResponse):
    """A stream of events, which proxies pass on without buffering. With a limiter it holds one of
    the `places` for as long as it lasts."""

    def __init__(
        self, events: AsyncIterator[str], places: anyio.CapacityLimiter | None = None
    ) -> None:
        self._places = places
        super().__init__(events, media_type=EVENT_STREAM, headers=_NO_BUFFER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. Raises Overloaded."""
        with taken(self._places, "event streams") if self._places else nullcontext():
            await super().__call__(scope, receive, send)
