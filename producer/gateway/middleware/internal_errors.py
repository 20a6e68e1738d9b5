"""Errors that no handler answers: logged, and answered with status 500. A request that is cut off
because this gateway is being stopped gets 503."""

from __future__ import annotations

import asyncio

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankfleet.producer.gateway.errors import answer_error
from rerankfleet.shared.errors import Unavailable

log = structlog.get_logger()


class InternalErrors:
    """Answers any error that reaches it. A response that has begun can only be broken off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = has_begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:  # uvicorn's, once its time to shut down is over
            if has_begun:
                raise
            stopping = Unavailable("this gateway is being stopped", hint="send it again")
            await answer_error(stopping, scope)(scope, receive, send)
        except Exception as error:
            log.exception("internal error", path=scope["path"])
            if has_begun:
                raise
            await answer_error(error, scope)(scope, receive, send)
