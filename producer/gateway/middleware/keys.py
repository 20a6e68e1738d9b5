"""API keys: only requests with one of them get in."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rerankfleet.producer.gateway.errors import KeyRefused, answer_error
from rerankfleet.producer.gateway.middleware.guarded import is_guarded

_HINT = "send the header `Authorization: Bearer KEY`, or `X-API-Key: KEY`"


class Keys:
    """Refuses requests to guarded paths that have none of the keys."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[SecretStr]) -> None:
        self._app = app
        self._digests = [_digest(key.get_secret_value()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_guarded(scope) and not self._has_key(Headers(scope=scope)):
            refusal = answer_error(KeyRefused("this needs an API key", hint=_HINT), scope)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _has_key(self, headers: Headers) -> bool:
        bearer = re.fullmatch(r"(?i:bearer)\s+(\S+)\s*", headers.get("authorization", ""))
        digest = _digest(bearer[1] if bearer else headers.get("x-api-key", ""))
        # all keys are compared, each in constant time: the time says nothing about them
        return any([hmac.compare_digest(digest, key) for key in self._digests])


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()
