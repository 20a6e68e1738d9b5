"""Server-sent events: how they are written, and how an answer of them is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

EVENT_STREAM = "text/event-stream"
KEEP_ALIVE = ": keep-alive\n\n"
"""A comment: nothing to tell, but the connection lives."""

_NO_BUFFER = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str, data: dict[str, Any]) -> str:
    """One event. ASCII: what is told of a request may be no text at all."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def as_events(events: AsyncIterator[str]) -> StreamingResponse:
    """An answer that goes on; whatever stands between passes each event on at once."""
    return StreamingResponse(events, media_type=EVENT_STREAM, headers=_NO_BUFFER)
