"""Paths with a slash too many: as without it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class Slashes:
    """Takes slashes from the end of a path, and all but one from its beginning: addresses that were
    joined from two parts have them. Nothing is redirected, which would lose a body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = f"/{scope['path'].strip('/')}"
        await self._app(scope, receive, send)
