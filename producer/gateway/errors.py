"""Errors as answers: one body for our own routes, and what Cohere's and TEI's clients expect.

{"error": {"message", "type", "param", "code", "hint"}}          ours, as OpenAI has it
{"message", "error": {...}}                                      /v2: Cohere
{"error": "...", "error_type": "Validation"}                     TEI
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from rerankfleet.shared.content.options import ImageOptions, OptionGroup, VideoOptions
from rerankfleet.shared.errors import (
    InvalidOption,
    ItemError,
    QueueUnavailable,
    RerankError,
    UsageError,
)
from rerankfleet.shared.state.connection import REDIS_ERRORS

SHAPE = "rerank_shape"
"""Where a request's scope says how its errors look: "tei" or "cohere"; ours otherwise."""

MODEL = "rerank_model"
"""Where a request's scope says which model it was for, or at least which one its body named."""
STATUS = "rerank_status"
"""Where a request's scope says how it ended, when its answer had begun before that was known."""

TOO_LARGE = ("too_many_documents", "too_large")
_RETRY_AFTER_S = {429: 1, 503: 5}
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    424: "failed_dependency",
    429: "rate_limit_error",
}
_TEI_TYPES = {424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy", 504: "Backend"}


class InvalidField(UsageError):
    """A field of the request that is wrong; `param` says which, as `documents[3].image`."""

    def __init__(self, param: str, message: str, *, hint: str = "") -> None:
        super().__init__(f"{param}: {message}", hint=hint)
        self.param = param


_PARTS: dict[str, type[OptionGroup]] = {"image": ImageOptions, "video": VideoOptions}
PARAMS_OF_OPTIONS = {
    name: f"{part}.{name.removeprefix(f'{part}_')}"
    for part, group in _PARTS.items()
    for name in group.model_fields
} | {"preset": "image.preset"}  # as `ImageSpec` calls it
"""Options of a job -> the fields of a request that have other names."""


class KeyRefused(RerankError):
    """No key, or one that is not known."""

    code = "invalid_api_key"
    http_status = 401


class NotScored(RerankError):
    """A pair that could not be scored, where the client's format has no place for that."""

    code = "not_scored"
    http_status = 424


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told of an error."""

    status: int
    message: str
    code: str
    param: str | None = None
    hint: str = ""

    def body(self, shape: str = "") -> dict[str, Any]:
        """The answer's body in a family's shape."""
        if shape == "tei":
            kind = _TEI_TYPES.get(self.status, "Validation")
            return {"error": self.message, "error_type": kind}
        known = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _TYPES.get(self.status, known),
            "param": self.param,
            "code": self.code,
            "hint": self.hint,
        }
        return {"message": self.message, "error": error} if shape == "cohere" else {"error": error}

    def answer(self, shape: str = "") -> Response:
        """The whole answer. ASCII: what is told of a request may be no text at all."""
        headers = {}
        if self.status in _RETRY_AFTER_S:
            headers["Retry-After"] = str(_RETRY_AFTER_S[self.status])
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = json.dumps(self.body(shape))
        return Response(content, self.status, headers, media_type="application/json")


def problem_of(error: Exception) -> Problem:
    """What is told of an error of ours; of any other one nothing but that it happened."""
    if isinstance(error, ItemError):
        status = 413 if error.code in TOO_LARGE else error.http_status
        param, message = position(error.message, _PARAMS.get(error.code))
        return Problem(status, message, error.code, param, error.hint)
    if isinstance(error, RerankError):
        return Problem(error.http_status, error.message, error.code, _param(error), error.hint)
    if isinstance(error, RequestValidationError):
        return _of_validation([{**e, "loc": e["loc"][1:] or e["loc"]} for e in error.errors()])
    if isinstance(error, REDIS_ERRORS):
        return problem_of(QueueUnavailable("Redis does not answer", hint="try again in a moment"))
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), _slug(str(error.detail)))
    return Problem(500, "an error that was not foreseen", "internal", hint="its log line has more")


def _param(error: RerankError) -> str | None:
    """Which field of the request an error is about, where that is known."""
    if isinstance(error, InvalidField):
        return error.param
    if isinstance(error, InvalidOption):
        return PARAMS_OF_OPTIONS.get(error.option, as_path(error.option.split(".")))
    return _PARAMS.get(error.code)


OF_QUERIES = ("empty_query", "invalid_text")
"""Codes of errors in a query that do not say so."""
_PARAMS = {
    **dict.fromkeys(OF_QUERIES, "query"),
    "unknown_model": "model",
    "no_documents": "documents",
    "too_many_documents": "documents",
}


def position(message: str, param: str | None = None) -> tuple[str | None, str]:
    """Which field a message begins with, as a path, and the message with it in front."""
    field, separator, rest = message.partition(": ")
    if not separator or not re.fullmatch(r"\w+(\.\w+)*", field):
        return param, message
    path = as_path(field.split("."))
    return path, f"{path}: {rest}"


def as_path(parts: Sequence[str | int]) -> str:
    """documents, 3, image -> documents[3].image"""
    path = ""
    for part in map(str, parts):
        path += f"[{part}]" if part.isdigit() else f".{part}" if path else part
    return path


def _of_validation(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """The first field that is wrong, with its place."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return Problem(422, f"the body is not JSON (at byte {first['loc'][-1]})", "invalid_json")
    param = as_path(first["loc"][:4]) or None
    said = "there is no such field" if first["type"] == "extra_forbidden" else first["msg"]
    return Problem(422, f"{param}: {said}" if param else said, "invalid", param)


def _slug(text: str) -> str:
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def handle_errors(app: FastAPI) -> None:
    """Answer every error that is known in the shape that its client knows; the door does others."""

    async def answer(request: Request, error: Exception) -> Response:
        body = getattr(error, "body", None)  # of one that was found to be wrong
        if isinstance(body, dict):
            request.scope.setdefault(MODEL, body.get("model"))
        return problem_of(error).answer(shape_of(request.scope))

    kinds = (RerankError, RequestValidationError, HTTPException, *REDIS_ERRORS)
    for kind in kinds:
        app.add_exception_handler(kind, answer)


def shape_of(scope: Mapping[str, Any]) -> str:
    """How errors of a request look."""
    fixed = scope.get(SHAPE)
    return str(fixed) if fixed else "cohere" if scope["path"].startswith("/v2/") else ""
