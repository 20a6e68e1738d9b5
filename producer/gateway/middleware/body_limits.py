"""Bounds on the size of one body, and of all bodies together that are being received."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOADS = "/v1/uploads"
"""Has a limit of its own, and is written as it comes."""
JSON_OVERHEAD = 2
"""A text in JSON's escapes is up to twice as long as in UTF-8."""
BODIES_MAX = 64
"""All bodies that are being received have this many times the limit of one: they are in memory."""


class BodyLimits:
    """Refuses bodies that are too large, by themselves or together. JSON may be JSON_OVERHEAD times
    as large as the payload in it, which has `payload_max` bytes at most."""

    def __init__(self, app: ASGIApp, *, payload_max: int) -> None:
        self._app = app
        self._body_max = JSON_OVERHEAD * payload_max
        self._incoming = _Incoming(int(BODIES_MAX * self._body_max))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == UPLOADS:
            await self._app(scope, receive, send)
            return
        announced_bytes = _length(Headers(scope=scope))
        body = _Body(receive, self._body_max, announced_bytes, self._incoming)
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.release()


@dataclass(slots=True)
class _Incoming:
    """All bodies that are being received."""

    bytes_max: int
    bytes: int = 0


class _Body:
    """A request's body while it is received. Raises HTTPException for one that is too large."""

    def __init__(
        self, receive: Receive, bytes_max: int, announced_bytes: int, incoming: _Incoming
    ) -> None:
        self._receive, self._incoming = receive, incoming
        self._bytes_max, self._announced_bytes = bytes_max, announced_bytes
        self._bytes = 0
        self._is_incoming = True

    async def receive(self) -> Message:
        """As an ASGI application receives."""
        message = await self._receive()
        if self._is_incoming:
            self._count(len(message.get("body", b"")))
            if not message.get("more_body"):
                self.release()
        return message

    def _count(self, size: int) -> None:
        self._bytes += size
        self._incoming.bytes += size
        if max(self._bytes, self._announced_bytes) > self._bytes_max:
            raise HTTPException(413, f"the body is larger than {self._bytes_max} bytes")
        if self._incoming.bytes > self._incoming.bytes_max:
            raise HTTPException(429, "too many large bodies are being received")

    def release(self) -> None:
        """Count it no longer among those that are being received."""
        if self._is_incoming:
            self._is_incoming = False
            self._incoming.bytes -= self._bytes


def _length(headers: Headers) -> int:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() and len(length) < 20 else 0
