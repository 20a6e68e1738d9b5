"""Bodies of JSON: what is missing where a body is none, before any of it is read as JSON."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from rerankfleet.producer.gateway.errors import InvalidField, UnreadableBody, UnsupportedBody
from rerankfleet.shared.content.validation import FIELD_SHOWN
from rerankfleet.shared.errors import CallerLeft
from rerankfleet.shared.formats.encodings import other_encoding
from rerankfleet.shared.formats.file_kinds import HEAD_BYTES, kind_of
from rerankfleet.shared.formats.lines import object_of

JSON_HEADER = "Content-Type: application/json"
_SEND = f"send a JSON object as the body, with the header {JSON_HEADER}"
_ENCODE = "encode it in UTF-8"

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class JsonRequest(Request):
    """A request whose JSON was read before it gets to its handler."""

    async def json(self) -> Any:
        """The body. Raises JSONDecodeError for one that is no JSON, and InvalidField for a key that
        stands twice in an object."""
        if not hasattr(self, "_value"):
            self._value = _loads(await self.body())
        return self._value


class JsonRoute(APIRoute):
    """A route whose body, where it has one, is JSON in UTF-8."""

    def get_route_handler(self) -> Handler:
        """The handler, behind a check of the body."""
        handle, body_field = super().get_route_handler(), self.body_field
        if body_field is None:
            return handle
        is_required = body_field.field_info.is_required()

        async def checked(request: Request) -> Response:
            request = JsonRequest(request.scope, request.receive)
            await _require_json(request, is_required=is_required)
            return await handle(request)

        return checked


async def _require_json(request: JsonRequest, *, is_required: bool) -> None:
    """Raises UnsupportedBody for a body that is not declared as JSON or is a file of another kind,
    UnreadableBody for one that is missing or not UTF-8, InvalidField for a key that stands twice,
    and CallerLeft when the client leaves."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise CallerLeft("the client closed its connection before the body was whole") from None
    if not body:
        if is_required:
            raise UnreadableBody(("body",), "there is none", hint=_SEND)
        return
    _require_headers(request)
    _require_text(body)
    try:
        await request.json()
    except (json.JSONDecodeError, RecursionError):
        pass  # FastAPI answers it


def _require_text(body: bytes) -> None:
    """Raises UnsupportedBody for a file of another kind, UnreadableBody for what is not UTF-8."""
    head = body[:HEAD_BYTES]
    if encoding := other_encoding(head):  # without a mark its bytes are UTF-8 too
        message = f"it is not UTF-8, it seems to be {encoding.upper()}"
        raise UnreadableBody(("body",), message, hint=_ENCODE)
    if kind := kind_of(head):
        hint = f"{_SEND}; a file is a body of POST /v1/uploads"
        raise UnsupportedBody(("body",), f"it seems to be {kind}", hint=hint)
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"it is not UTF-8 at byte {error.start}"
        raise UnreadableBody(("body",), message, hint=_ENCODE) from None


def _loads(body: bytes) -> Any:
    """The value of a body of JSON. Raises InvalidField for a key that stands twice in an object."""
    try:
        return json.loads(body, object_pairs_hook=object_of)
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # of object_of, or a number of too many digits
        raise InvalidField(("body",), str(error)[: 2 * FIELD_SHOWN]) from None


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
