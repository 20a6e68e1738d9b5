"""What happens before a route: an id for the request, its key, a cap on its body, safe headers; and
clients that no longer send or read are sent away.

Plain ASGI, since a streamed body or answer passes through it untouched.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import re
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankfleet.producer.gateway.errors import STATUS, KeyRefused, problem_of, shape_of
from rerankfleet.shared.errors import NotAllowed, RerankError
from rerankfleet.shared.settings import Settings

GUARDED = ("/v1", "/v2", "/rerank", "/score", "/info", "/metrics")
"""What paths begin with that need a key; health, documentation and the page are open."""
LOCAL = ("127.0.0.1", "localhost", "::1")
"""What a gateway that listens on this host alone is called."""
UPLOADS = "/v1/uploads"
"""Has a cap of its own."""
JSON_OVERHEAD = 2
"""A text in JSON's escapes is up to twice as long as in UTF-8."""
BODIES_MAX = 64
"""So many times the cap of one are all bodies together that still come: they are in memory."""
SILENCE_S = 30.0
"""A body of which nothing comes for so long is broken off: it keeps memory, and others out."""
BODY_BYTES_PER_S = 16 << 10
"""And so is one that comes more slowly, after SILENCE_S of waiting for it."""
UNREAD_S = 60.0
"""An answer of which the client takes nothing for so long is broken off."""

SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = structlog.get_logger()

Counted = Callable[[Scope, int, float], None]


class _Unread(Exception):
    """The client has stopped to read its answer."""


class Door:
    """The outermost layer of the application.

    `count(scope, status, seconds)` is told of each request when its answer is sent.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, count: Counted) -> None:
        self._app = app
        self._count = count
        self._keys = [_digest(key.get_secret_value()) for key in settings.api_keys]
        names = (*LOCAL, settings.gateway_host, socket.gethostname(), *settings.gateway_names)
        self._names = frozenset(map(_folded, names))
        self._body_max = JSON_OVERHEAD * settings.inline_bytes_max
        self._coming = _Coming(BODIES_MAX * self._body_max)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, headers = time.monotonic(), Headers(scope=scope)
        request_id = _request_id(headers)
        body = self._body(scope, headers, receive)
        reply = _Reply(send, request_id, body)
        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                if refused := self._refusal(scope, headers):
                    await problem_of(refused).answer(shape_of(scope))(scope, receive, reply.send)
                else:
                    await self._app(scope, body.receive, reply.send)
            except _Unread:  # an answer that ends before its end is broken off
                log.warning("a client stopped reading", path=scope["path"])
            except Exception as error:
                log.exception("unforeseen", path=scope["path"])
                if reply.status:  # the answer has begun: all that is left is to break it off
                    raise
                await problem_of(error).answer(shape_of(scope))(scope, receive, reply.send)
            finally:
                body.let_go()
                status = scope.get(STATUS, reply.status or 500)
                self._count(scope, status, time.monotonic() - began_s)

    def _refusal(self, scope: Scope, headers: Headers) -> RerankError | None:
        """Why a request is not let in, or None."""
        if not scope["path"].startswith(GUARDED):
            return None
        if self._keys:
            known = self._is_known(headers)
            return None if known else KeyRefused("this needs a key", hint=_KEY_HINT)
        return self._sent_by_another_site(headers)

    def _sent_by_another_site(self, headers: Headers) -> NotAllowed | None:
        """Whether a browser was sent here by a foreign page, perhaps under a name that was made to
        lead to this host. Without keys nothing else would stop it."""
        name = _folded(re.sub(r":\d*$", "", headers.get("host", "")))
        if name not in self._names and not _is_address(name):
            return NotAllowed(f"this gateway is not called {name[:100]!a}", hint=_NAME_HINT)
        origin = headers.get("origin", "").partition("://")[2]  # none, or "null", where not told
        foreign = "origin" in headers and origin != headers.get("host", "")
        if foreign or headers.get("sec-fetch-site") == "cross-site":
            return NotAllowed("this came from a page of another site", hint=_SITE_HINT)
        return None

    def _is_known(self, headers: Headers) -> bool:
        bearer = re.fullmatch(r"(?i:bearer)\s+(\S+)\s*", headers.get("authorization", ""))
        given = _digest(bearer[1] if bearer else headers.get("x-api-key", ""))
        # every key is compared, in time that says nothing of how much of it was right
        return any([hmac.compare_digest(given, key) for key in self._keys])

    def _body(self, scope: Scope, headers: Headers, receive: Receive) -> _Body:
        if scope["path"] == UPLOADS:  # it has a cap of its own, and is written as it comes
            return _Body(receive, math.inf, 0, _Coming(math.inf))
        return _Body(receive, self._body_max, _length(headers), self._coming)


@dataclass(slots=True)
class _Coming:
    """All bodies that are still coming."""

    bytes_max: float
    bytes: int = 0


class _Body:
    """A request's body as it comes, within its cap and its time; after it, that the client leaves.

    What is wrong is raised as an HTTPException where the body is read.
    """

    def __init__(
        self, receive: Receive, bytes_max: float, announced_bytes: int, coming: _Coming
    ) -> None:
        self._receive, self._coming = receive, coming
        self._bytes_max, self._announced_bytes = bytes_max, announced_bytes
        self._bytes, self._kept_bytes, self._waited_s = 0, 0, 0.0
        self._is_whole = False
        self.is_late = False
        """Whether it came too slowly."""

    async def receive(self) -> Message:
        """As an ASGI application receives."""
        if self._is_whole:
            return await self._receive()
        message = await self._in_time()
        self._keep(len(message.get("body", b"")))
        if not message.get("more_body"):
            self._is_whole = True
            self.let_go()
        return message

    async def _in_time(self) -> Message:
        """What comes next. What counts is how long the client was waited for: it is not to blame
        for what its last part took to be stored."""
        left_s = SILENCE_S + self._bytes / BODY_BYTES_PER_S - self._waited_s
        began_s = time.monotonic()
        try:
            with anyio.fail_after(min(SILENCE_S, left_s)):
                message = await self._receive()
        except TimeoutError:
            self.is_late = True
            raise HTTPException(408, "the body comes too slowly") from None
        self._waited_s += time.monotonic() - began_s
        return message

    def _keep(self, size: int) -> None:
        """Count what came."""
        self._bytes += size
        self._kept_bytes += size
        self._coming.bytes += size
        if max(self._bytes, self._announced_bytes) > self._bytes_max:
            raise HTTPException(413, f"the body is larger than {self._bytes_max} bytes")
        if self._coming.bytes > self._coming.bytes_max:
            raise HTTPException(429, "too many large bodies are on their way")

    def let_go(self) -> None:
        """Count it no more among those that are coming."""
        self._coming.bytes -= self._kept_bytes
        self._kept_bytes = 0


class _Reply:
    """An answer as it is sent: with its id and safe headers, and only as long as it is read."""

    def __init__(self, send: Send, request_id: str, body: _Body) -> None:
        self._send, self._request_id, self._body = send, request_id, body
        self.status = 0
        """What it began with; 0: it has not begun."""

    async def send(self, message: Message) -> None:
        """As an ASGI application sends."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._complete(MutableHeaders(scope=message))
        try:
            with anyio.fail_after(UNREAD_S):
                await self._send(message)
        except TimeoutError:
            raise _Unread from None

    def _complete(self, headers: MutableHeaders) -> None:
        headers["X-Request-Id"] = self._request_id
        for name, value in SAFE_HEADERS.items():
            headers.setdefault(name, value)
        if self._body.is_late:  # the rest of it is not waited for
            headers["Connection"] = "close"


_KEY_HINT = "send the header `Authorization: Bearer KEY`, or `X-API-Key: KEY`"
_NAME_HINT = "add the name to RERANK_GATEWAY_NAMES, or set RERANK_API_KEYS"
_SITE_HINT = "set RERANK_API_KEYS, or let the proxy before this gateway keep the header Host"


def _folded(name: str) -> str:
    """A host's name as names are compared."""
    return name.lower().rstrip(".").strip("[]")


def _is_address(name: str) -> bool:
    """Whether it is an IP address: no foreign site can make one lead elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


def _length(headers: Headers) -> int:
    said: Any = headers.get("content-length", "")
    return int(said) if said.isdecimal() and len(said) < 20 else 0


def _request_id(headers: Headers) -> str:
    """The client's own id where it is a plain word, so that both logs can be matched."""
    given = headers.get("x-request-id", "")
    return given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex
