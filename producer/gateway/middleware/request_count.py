"""Counts requests and measures how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankfleet.producer.gateway.errors import STATUS


class RequestCount:
    """Calls `count(scope, status, seconds)` for each request when its response is sent."""

    def __init__(self, app: ASGIApp, *, count: Callable[[Scope, int, float], None]) -> None:
        self._app = app
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, status = time.monotonic(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            self._count(scope, scope.get(STATUS, status), time.monotonic() - began_s)
