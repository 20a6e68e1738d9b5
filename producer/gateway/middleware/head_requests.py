"""HEAD: what GET answers, without the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadRequests:
    """Answers HEAD wherever there is GET. What would be streamed ends where its body begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b""})
            if message.get("more_body"):
                raise _HeadIsSent

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_head)
        except _HeadIsSent:
            pass
        finally:
            scope.update(as_get, method="HEAD")  # what was found out of the request


class _HeadIsSent(Exception):
    """The rest of a streamed response is not wanted."""
