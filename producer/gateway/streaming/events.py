"""Server-sent events: how they are written, and how an answer of them is sent."""

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
"""A comment: nothing to tell, but the connection lives."""

_NO_BUFFER = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: dict[str, Any]) -> str:
    """One event. ASCII: what is told of a request may be no text at all."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


class Events(StreamingResponse):
    """An answer that goes on; whatever stands between passes each event on at once. While it does
    it is one of those that `places` bounds, where these are given."""

    def __init__(
        self, events: AsyncIterator[str], places: anyio.CapacityLimiter | None = None
    ) -> None:
        self._places = places
        super().__init__(events, media_type=EVENT_STREAM, headers=_NO_BUFFER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Raises Overloaded."""
        with taken(self._places, "event streams") if self._places else nullcontext():
            await super().__call__(scope, receive, send)
