"""Paths that no route has, and methods that a path does not have: what is answered to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from rerankfleet.producer.gateway.errors import UnknownPath, WrongMethod, answer_error

PATH_SHOWN = 100
"""Characters of a path in a message, and those that are compared."""


class Paths:
    """What an application answers where none of its routes does: the files of the page, 404 with
    the nearest route, 405 with the methods that there are, and OPTIONS."""

    def __init__(self, routes: Iterable[BaseRoute], page: StaticFiles) -> None:
        self._routes = [route for route in routes if isinstance(route, APIRoute)]
        self._page = page

    def install(self, app: FastAPI) -> None:
        """Answer for an application. Every request gets to its routes first."""
        app.router.default = self._unmatched
        app.add_exception_handler(405, self._wrong_method)

    async def _unmatched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """No route has the path: it may be a file of the page."""
        if scope["type"] != "http":
            raise HTTPException(404)
        path = self._page.get_path(scope)
        try:
            response = await self._page.get_response(path, {**scope, "method": "GET"})
        except HTTPException:
            raise self._unknown(scope["path"]) from None
        if scope["method"] != "GET":
            response = self._refusal(scope, ["GET"])
        await response(scope, receive, send)

    async def _wrong_method(self, request: Request, error: Exception) -> Response:
        """A route has the path, but not the method."""
        path = request.scope["path"]
        methods = {m for r in self._routes if r.path_regex.match(path) for m in r.methods or ()}
        # the route of the OpenAPI document is FastAPI's own
        return self._refusal(request.scope, sorted(methods) or ["GET"])

    def _refusal(self, scope: Scope, methods: Sequence[str]) -> Response:
        """What a path answers to another method than these: OPTIONS asks only for them."""
        allow = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])
        if scope["method"] == "OPTIONS":
            return Response(status_code=204, headers={"Allow": allow})
        error = WrongMethod(
            f"{scope['path'][:PATH_SHOWN]!a} has no {scope['method'][:PATH_SHOWN]!a}",
            hint=f"use {' or '.join(methods)}; /docs lists every route",
        )
        response = answer_error(error, scope)
        response.headers["Allow"] = allow
        return response

    def _unknown(self, path: str) -> UnknownPath:
        """The error of a path that nothing has."""
        shown = path[:PATH_SHOWN]
        nearest = max((route.path for route in self._routes), key=lambda p: _likeness(p, shown))
        methods = {
            m for route in self._routes if route.path == nearest for m in route.methods or ()
        }
        return UnknownPath(
            f"there is no path {shown!a}",
            hint=f"the nearest is {' or '.join(sorted(methods))} {nearest}; "
            "/docs lists every route",
        )


def _likeness(template: str, path: str) -> float:
    """How alike a route's path and another one are, 0 to 1. A parameter equals what stands in its
    place."""
    given = path.split("/")
    parts = [
        given[at] if part.startswith("{") and at < len(given) else part
        for at, part in enumerate(template.split("/"))
    ]
    return SequenceMatcher(None, "/".join(parts), path.lower()).ratio()
