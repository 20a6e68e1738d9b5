"""API keys: only requests with one of them get in, to do what it may, as often as it may."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankfleet.producer.api_keys import ApiKey, KeyRing, Rate
from rerankfleet.producer.gateway.errors import (
    KEY,
    OUTCOME,
    SHAPE,
    KeyRefused,
    TooOften,
    answer_error,
)
from rerankfleet.producer.gateway.middleware.guarded import is_guarded
from rerankfleet.producer.gateway.middleware.wrong_keys import WrongKeys
from rerankfleet.producer.gateway.rights import refuse_without_right
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.rates import Allowance, Rates

RATES_AT_A_TIME = 32
"""Threads that ask Redis for rates: of their own, so that none of another's is waited for."""

_HINT = "send the header `Authorization: Bearer KEY`, or `X-API-Key: KEY`"


class Keys:
    """Lets requests to guarded paths in whose key is known and may do what they want. They go on
    with their `ApiKey` in the scope, and its name in every line of log."""

    def __init__(self, app: ASGIApp, *, ring: KeyRing, rates: Rates) -> None:
        self._app, self._ring, self._rates = app, ring, rates
        self._wrong = WrongKeys()
        self._threads: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not is_guarded(scope):
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        try:
            key = self._identified(scope)
            scope[KEY] = key
            structlog.contextvars.bind_contextvars(key=key.name)  # RequestId unbinds it
            refuse_without_right(key, scope["path"])
            if key.rate is not None:
                headers = await self._within(key, key.rate)
        except (RerankError, *REDIS_ERRORS) as error:
            await self._refuse(error, scope, receive, send)
            return
        await self._app(scope, receive, _with(headers, send) if headers else send)

    def _identified(self, scope: Scope) -> ApiKey:
        """Whose request it is. Raises KeyRefused, or TooOften for many wrong keys."""
        given = _given(Headers(scope=scope))
        if not given:
            raise KeyRefused("this needs an API key", hint=_HINT)
        if key := self._ring.find(given):
            return key
        client = scope.get("client")
        wait_s = self._wrong.count(client[0] if client else "")
        if wait_s is not None:
            raise TooOften(
                "too_many_wrong_keys",
                "too many wrong API keys came from this address",
                hint="check the key; the right one is accepted at once",
                retry_after_s=wait_s,
            )
        raise KeyRefused("the API key is not known", hint=_HINT)

    async def _within(self, key: ApiKey, rate: Rate) -> dict[str, str]:
        """Headers that say how much of its rate a key has left. Raises _OverRate."""
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(RATES_AT_A_TIME)
        allowance = await anyio.to_thread.run_sync(
            self._rates.take, key.name, rate.count, rate.window_s, limiter=self._threads
        )
        headers = _headers(rate, allowance)
        if not allowance.is_within:
            raise _OverRate(key, rate, allowance, headers)
        return headers

    async def _refuse(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/rerank" and KEY in scope and await _is_of_tei(receive):
            scope[SHAPE] = "tei"
        if isinstance(error, TooOften):
            scope[OUTCOME] = "rate_limited"
        answer = answer_error(error, scope)
        if isinstance(error, _OverRate):
            answer.headers.update(error.headers)
        await answer(scope, receive, send)


class _OverRate(TooOften):
    """A key is over its rate."""

    def __init__(
        self, key: ApiKey, rate: Rate, allowance: Allowance, headers: Mapping[str, str]
    ) -> None:
        wait_s = math.ceil(max(allowance.reset_s, 1.0))
        super().__init__(
            "rate_limited",
            f"the key {key.name} may send {rate}",
            hint=f"send fewer, and the next one in {wait_s} s",
            retry_after_s=wait_s,
        )
        self.headers = headers


def _given(headers: Headers) -> str:
    """The key that a request came with; empty without one."""
    bearer = re.fullmatch(r"(?i:bearer)\s+(\S+)\s*", headers.get("authorization", ""))
    return bearer[1] if bearer else headers.get("x-api-key", "")


def _headers(rate: Rate, allowance: Allowance) -> dict[str, str]:
    """The fields of the IETF's draft for rate limits, draft-ietf-httpapi-ratelimit-headers."""
    reset_s = max(round(allowance.reset_s), 0)
    return {
        "RateLimit-Policy": f'"key";q={rate.count};w={rate.window_s}',
        "RateLimit": f'"key";r={allowance.left};t={reset_s}',
    }


def _with(headers: Mapping[str, str], send: Send) -> Send:
    """`send`, with more headers in the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers


async def _is_of_tei(receive: Receive) -> bool:
    """Whether a body of /rerank has `texts`: then its client knows errors in TEI's shape only."""
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    return b'"texts"' in body
