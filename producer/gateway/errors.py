"""Errors as HTTP responses: one body for our own routes, others for Cohere's and TEI's clients.

{"error": {"message", "type", "param", "code", "hint"}}          ours, as OpenAI has it
{"message", "error": {...}}                                      /v2, as Cohere has it
{"error": "...", "error_type": "Validation"}                     as TEI has it; with the hint
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rerankfleet.shared.content.options import ImageOptions, OptionGroup, VideoOptions
from rerankfleet.shared.content.validation import first_error
from rerankfleet.shared.errors import (
    InvalidOption,
    ItemError,
    Path,
    QueueUnavailable,
    RerankError,
    UsageError,
)
from rerankfleet.shared.state.connection import REDIS_ERRORS

SHAPE = "rerank_shape"
"""Key of the scope: the shape of the request's errors, "tei" or "cohere"; ours if unset."""

MODEL = "rerank_model"
"""Key of the scope: the model of the request, or at least the one that its body named."""
KEY = "rerank_key"
"""Key of the scope: the `ApiKey` that the request came with."""
OUTCOME = "rerank_outcome"
"""Key of the scope: how metrics call the end of a request, where its status does not say it."""
STATUS = "rerank_status"
"""Key of the scope: the status that a request ended with, when its response had begun before."""

TOO_LARGE = ("too_many_documents", "too_large")
"""Codes of an ItemError that is answered with 413."""
STATUS_CODES = {
    408: "request_timeout",
    413: "too_large",
    429: "overloaded",
}
"""Codes of errors of HTTP itself, by status."""
LOC_SHOWN = 4
"""Parts of a field's path in an error of a body."""
_RETRY_AFTER_S = {429: 1, 503: 5, 507: 60}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    424: "failed_dependency",
    429: "rate_limit_error",
}
_TEI_TYPES = {
    424: "Backend",
    429: "Overloaded",
    500: "Backend",
    503: "Unhealthy",
    504: "Backend",
    507: "Overloaded",
}


class InvalidField(UsageError):
    """A field of a request that is wrong."""

    def __init__(self, path: Path, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, path=path)


_PARTS: dict[str, type[OptionGroup]] = {"image": ImageOptions, "video": VideoOptions}
FIELDS_OF_OPTIONS: Mapping[str, Path] = {
    name: (part, name.removeprefix(f"{part}_"))
    for part, group in _PARTS.items()
    for name in group.model_fields
} | {"preset": ("image", "preset")}  # as `ImageSpec` calls it
"""Options of a job -> the fields of a request that have other names."""


class KeyRefused(RerankError):
    """The API key is missing or unknown."""

    code = "invalid_api_key"
    http_status = 401


class MissingRight(RerankError):
    """The API key may not do this."""

    code = "missing_right"
    http_status = 403


class TooOften(RerankError):
    """Requests come too often: with a key over its rate, or with wrong keys."""

    http_status = 429

    def __init__(self, code: str, message: str, *, hint: str, retry_after_s: float) -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.retry_after_s = retry_after_s


class UnsupportedBody(InvalidField):
    """The body is of a type or in an encoding that is not read; the path names the header."""

    code = "unsupported_media_type"
    http_status = 415


class UnreadableBody(InvalidField):
    """There is no body, or it is not text."""

    code = "bad_request"
    http_status = 400


class UnknownPath(RerankError):
    """Neither a route nor a file of the page."""

    code = "not_found"
    http_status = 404


class WrongMethod(RerankError):
    """The path is there, but not for this method."""

    code = "method_not_allowed"
    http_status = 405


class NotScored(RerankError):
    """A pair could not be scored, and the client's format has no field to say so."""

    code = "not_scored"
    http_status = 424


@dataclass(frozen=True, slots=True)
class Problem:
    """What a client learns of an error."""

    status: int
    message: str
    code: str
    param: str | None = None
    hint: str = ""
    retry_after_s: float | None = None
    """When to try again; a usual time for the status where it is not known."""

    def body(self, shape: str = "") -> dict[str, Any]:
        """The body in a shape."""
        if shape == "tei":
            kind = _TEI_TYPES.get(self.status, "Validation")
            text = f"{self.message}: {self.hint}" if self.hint else self.message
            return {"error": text, "error_type": kind}
        other = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, other),
            "param": self.param,
            "code": self.code,
            "hint": self.hint,
        }
        return {"message": self.message, "error": error} if shape == "cohere" else {"error": error}

    def answer(self, shape: str = "") -> Response:
        """The response. In ASCII: what it quotes of a request may hold half a surrogate pair."""
        headers = {}
        after_s = self.retry_after_s or _RETRY_AFTER_S.get(self.status)
        if after_s is not None:
            headers["Retry-After"] = str(math.ceil(after_s))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = json.dumps(self.body(shape))
        return Response(content, self.status, headers, media_type="application/json")


def problem_of(error: Exception) -> Problem:
    """What a client learns of an error: of one that is not ours nothing but that it happened."""
    if isinstance(error, RerankError):
        return _of_ours(error)
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, REDIS_ERRORS):
        return _of_ours(QueueUnavailable("Redis does not answer", hint="try again in a moment"))
    if isinstance(error, HTTPException):
        code = STATUS_CODES.get(error.status_code, "http_error")
        return Problem(error.status_code, str(error.detail), code)
    return Problem(500, "internal error", "internal", hint="see the gateway's log")


def _of_ours(error: RerankError) -> Problem:
    too_large = isinstance(error, ItemError) and error.code in TOO_LARGE
    return Problem(
        status=413 if too_large else error.http_status,
        message=error.text(as_param),
        code=error.code,
        param=as_param(_field_of(error)) or None,
        hint=error.hint,
        retry_after_s=getattr(error, "retry_after_s", None),
    )


def _field_of(error: RerankError) -> Path:
    """The path of the field that is wrong, as a request has it."""
    if isinstance(error, InvalidOption):
        option, *inside = error.path
        return (*FIELDS_OF_OPTIONS.get(str(option), (option,)), *inside)
    return error.path


def as_param(path: Path) -> str:
    """A path as HTTP shows it: documents[3].image[0]"""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def _of_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """The first field that is wrong, with its path in the body, query or path of the URL."""
    if errors[0]["type"] == "json_invalid":
        position = errors[0]["loc"][-1]
        message = f"the body is not JSON (at character {position})"
        return Problem(422, message, "invalid_json", hint="send one JSON object")
    path, message = first_error(errors)
    return _of_ours(InvalidField((path[1:] or path)[:LOC_SHOWN], message))


def handle_errors(app: FastAPI) -> None:
    """Answer every error that is known in its client's shape. The middleware answers others."""

    async def answer(request: Request, error: Exception) -> Response:
        body = getattr(error, "body", None)  # of a request that failed its validation
        if isinstance(body, dict):
            request.scope.setdefault(MODEL, body.get("model"))
        return answer_error(error, request.scope)

    kinds = (RerankError, RequestValidationError, HTTPException, *REDIS_ERRORS)
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def answer_error(error: Exception, scope: Mapping[str, Any]) -> Response:
    """The response to a request that failed, in its client's shape."""
    return problem_of(error).answer(shape_of(scope))


def shape_of(scope: Mapping[str, Any]) -> str:
    """The shape of a request's errors."""
    fixed = scope.get(SHAPE)
    return str(fixed) if fixed else "cohere" if scope["path"].startswith("/v2/") else ""
