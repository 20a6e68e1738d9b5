"""Connections of the gateway: a request's head has a deadline, and their number a bound.

A client that opens connections and never sends a whole request is answered 408. Where all are
taken, a new one takes the place of the one that has been waiting for a head for the longest time,
so that a health check gets in while others hold connections open.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import h11
import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""From the connection, or the first byte of a later request, until its head is whole."""
CONNECTIONS_MAX = 4096
FILES_RESERVED = 128
"""Of the process's file descriptors, so many are left to everything else."""

_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 35\r\nconnection: close\r\n\r\nthe request's head comes too slowly"
)

log = structlog.get_logger()


def connections_max() -> int:
    """How many connections this process may hold."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS_MAX if files < 0 else max(min(CONNECTIONS_MAX, files - FILES_RESERVED), 16)


class Connection(H11Protocol):
    """One connection; uvicorn makes one for each client."""

    waiting: dict[Connection, None] = {}  # noqa: RUF012 - of all connections, the oldest first
    most = connections_max()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: it gets a place, and has until the deadline to send a head."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            oldest = next(iter(self.waiting), self)
            log.warning("too many connections, one is closed", waiting=len(self.waiting))
            oldest.transport.abort()
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Bytes came: a whole head ends the waiting, part of another begins it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._end_waiting()
        elif self._deadline is None and self.conn.trailing_data[0]:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._end_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self.waiting[self] = None
        self._deadline = self.loop.call_later(HEAD_S, self._refuse)

    def _end_waiting(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        self.transport.write(_TOO_LATE)
        self.transport.close()
