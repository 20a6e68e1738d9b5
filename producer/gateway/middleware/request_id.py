"""An id for each request: in its response, and in every line that is logged meanwhile."""

from __future__ import annotations

import re
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestId:
    """Gives a request the id of its header X-Request-Id, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope))

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            finally:
                structlog.contextvars.unbind_contextvars("key")  # which `keys.py` binds


def _request_id(headers: Headers) -> str:
    """The client's own id where it is a plain word, so that both logs can be matched."""
    own = headers.get("x-request-id", "")
    return own if re.fullmatch(r"[\w.-]{1,64}", own, re.ASCII) else uuid.uuid4().hex
