"""Clients that stop sending their request or stop reading the response keep memory, and others
out: both are broken off."""

from __future__ import annotations

import time

import anyio
import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENCE_S = 30.0
"""A body of which nothing comes for so long is broken off."""
BODY_BYTES_PER_S = 16 << 10
"""So is one that comes more slowly than this, after SILENCE_S of waiting for it."""
UNREAD_S = 60.0
"""A response of which the client takes nothing for so long is broken off."""

log = structlog.get_logger()


class SlowClients:
    """Breaks off bodies and responses of clients that are too slow."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = _Client(receive, send)
        try:
            await self._app(scope, client.receive, client.send)
        except _Unread:  # a response that ends early is broken off
            log.warning("a client stopped reading", path=scope["path"])


class _Unread(Exception):
    """The client has stopped reading its response."""


class _Client:
    """The two directions of one request."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._bytes, self._waited_s = 0, 0.0
        self._body_is_whole = self._body_is_late = False

    async def receive(self) -> Message:
        """As an ASGI application receives. Raises HTTPException for a body that is too slow."""
        if self._body_is_whole:
            return await self._receive()
        message = await self._in_time()
        self._bytes += len(message.get("body", b""))
        self._body_is_whole = not message.get("more_body")
        return message

    async def _in_time(self) -> Message:
        """The next message. Only the time that the client was waited for counts, not the time that
        its last part took to be stored."""
        left_s = SILENCE_S + self._bytes / BODY_BYTES_PER_S - self._waited_s
        began_s = time.monotonic()
        try:
            with anyio.fail_after(min(SILENCE_S, left_s)):
                message = await self._receive()
        except TimeoutError:
            self._body_is_late = True
            raise HTTPException(408, "the body comes too slowly") from None
        self._waited_s += time.monotonic() - began_s
        return message

    async def send(self, message: Message) -> None:
        """As an ASGI application sends. Raises _Unread when the client does not read."""
        if self._body_is_late and message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"  # the rest is not waited for
        try:
            with anyio.fail_after(UNREAD_S):
                await self._send(message)
        except TimeoutError:
            raise _Unread from None
