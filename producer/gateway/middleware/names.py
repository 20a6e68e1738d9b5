"""The names of this host, for a gateway without API keys.

A browser may be sent here by a page of another site: directly, or under a name of that site that
resolves to this host (DNS rebinding). Without keys nothing else would stop it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from rerankfleet.producer.gateway.errors import answer_error
from rerankfleet.producer.gateway.middleware.guarded import is_guarded
from rerankfleet.shared.errors import NotAllowed

LOCAL = ("127.0.0.1", "localhost", "::1")
"""Names of a gateway that listens on this host alone."""

_NAME_HINT = "add the name to RERANK_GATEWAY_NAMES, or set RERANK_API_KEYS"
_SITE_HINT = "set RERANK_API_KEYS, or let the proxy in front of this gateway keep the header Host"


class Names:
    """Refuses requests to guarded paths under a name that is not this host's, or from a page of
    another site. Names are those of `names`, of the host itself, and any IP address."""

    def __init__(self, app: ASGIApp, *, names: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(map(_folded, (*LOCAL, socket.gethostname(), *names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = self._refusal(Headers(scope=scope)) if is_guarded(scope) else None
        if refused:
            await answer_error(refused, scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> NotAllowed | None:
        name = _folded(re.sub(r":\d*$", "", headers.get("host", "")))
        if name not in self._names and not _is_address(name):
            return NotAllowed(f"this gateway is not called {name[:100]!a}", hint=_NAME_HINT)
        origin = headers.get("origin", "").partition("://")[2]  # empty for "null", too
        is_foreign = "origin" in headers and origin != headers.get("host", "")
        if is_foreign or headers.get("sec-fetch-site") == "cross-site":
            return NotAllowed("this came from a page of another site", hint=_SITE_HINT)
        return None


def _folded(name: str) -> str:
    """A host's name in the form in which names are compared."""
    return name.lower().rstrip(".").strip("[]")


def _is_address(name: str) -> bool:
    """Whether it is an IP address: no other site can make one resolve elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
