"""What happens before a route: an id for the request, its key, a cap on its body, safe headers.

Plain ASGI, since a streamed body or answer passes through it untouched.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from producer.gateway.errors import STATUS, KeyRefused, problem_of, shape_of
from shared.errors import NotAllowed, RerankError
from shared.settings import Settings

GUARDED = ("/v1", "/v2", "/rerank", "/score", "/info", "/metrics")
"""What paths begin with that need a key; health, documentation and the page are open."""
LOCAL = ("127.0.0.1", "localhost", "::1")
"""What a gateway that listens on this host alone is called."""
UPLOADS = "/v1/uploads"
"""Has a cap of its own."""
JSON_OVERHEAD = 2
"""A text in JSON's escapes is up to twice as long as in UTF-8."""

SAFE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = structlog.get_logger()

Counted = Callable[[Scope, int, float], None]


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s, headers = time.monotonic(), Headers(scope=scope)
        request_id = _request_id(headers)
        status = None

        async def reply(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = request_id
                for name, value in SAFE_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                if refused := self._refusal(scope, headers):
                    await problem_of(refused).answer(shape_of(scope))(scope, receive, reply)
                else:
                    await self._app(scope, self._capped(scope, headers, receive), reply)
            except Exception as error:
                log.exception("unforeseen", path=scope["path"])
                if status is not None:  # the answer has begun: all that is left is to break it off
                    raise
                await problem_of(error).answer(shape_of(scope))(scope, receive, reply)
            finally:
                self._count(scope, scope.get(STATUS, status or 500), time.monotonic() - began_s)

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

    def _capped(self, scope: Scope, headers: Headers, receive: Receive) -> Receive:
        """The body, up to its cap. The error is raised where the body is read."""
        if scope["path"] == UPLOADS:
            return receive
        size = 0

        async def read() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._body_max or _length(headers) > self._body_max:
                raise HTTPException(413, f"the body is larger than {self._body_max} bytes")
            return message

        return read


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
