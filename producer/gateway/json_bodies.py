"""Bodies of JSON: what is missing where a body is none, before any of it is read as JSON."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rerankfleet.producer.gateway.errors import UnreadableBody, UnsupportedBody
from rerankfleet.shared.content.validation import FIELD_SHOWN
from rerankfleet.shared.errors import CallerLeft

JSON_HEADER = "Content-Type: application/json"
_SEND = f"send a JSON object as the body, with the header {JSON_HEADER}"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRoute(APIRoute):
    """A route whose body, where it has one, is JSON in UTF-8."""

    def get_route_handler(self) -> Handler:
        """The handler, behind a check of the body."""
        handle, body_field = super().get_route_handler(), self.body_field
        if body_field is None:
            return handle
        is_required = body_field.field_info.is_required()

        async def checked(request: Request) -> Response:
            await _require_json(request, is_required=is_required)
            return await handle(request)

        return checked


async def _require_json(request: Request, *, is_required: bool) -> None:
    """Raises UnsupportedBody for a body that is not declared as JSON, UnreadableBody for one that
    is missing or not UTF-8, and CallerLeft when the client leaves."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise CallerLeft("the client closed its connection before the body was whole") from None
    if not body:
        if is_required:
            raise UnreadableBody(("body",), "there is none", hint=_SEND)
        return
    _require_headers(request)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"it is not UTF-8 at byte {error.start}"
        raise UnreadableBody(("body",), message, hint="encode it in UTF-8") from None


def _require_headers(request: Request) -> None:
    refuse_encoded(request, "send it uncompressed, without this header")
    header = Message()
    header["Content-Type"] = declared = request.headers.get("content-type", "")
    kind = header.get_content_type()
    if not declared or not kind.startswith("application/") or not kind.endswith(("/json", "+json")):
        found = f"it is {declared[:FIELD_SHOWN]!a}" if declared else "it is missing"
        hint = f"add the header {JSON_HEADER}, if the body is JSON; no other type is read here"
        raise UnsupportedBody(("Content-Type",), found, hint=hint)
    charset = str(header.get_param("charset", "utf-8"))
    if not _is_utf8(charset):
        raise UnsupportedBody(
            ("Content-Type",),
            f"its charset is {charset[:FIELD_SHOWN]!a}",
            hint=f"encode the body in UTF-8, with the header {JSON_HEADER}",
        )


def refuse_encoded(request: Request, hint: str) -> None:
    """Raise UnsupportedBody for a body that is said to be compressed."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        message = f"a body in {encoding[:FIELD_SHOWN]!a} is not unpacked"
        raise UnsupportedBody(("Content-Encoding",), message, hint=hint)


def _is_utf8(charset: str) -> bool:
    """Whether it is a name of UTF-8, or of a part of it."""
    try:
        return codecs.lookup(charset).name in ("utf-8", "utf-8-sig", "ascii")
    except (LookupError, ValueError):
        return False
