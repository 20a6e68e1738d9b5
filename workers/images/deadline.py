"""A time limit on all that a thread's connections wait for, even while the host keeps sending.

A socket's own timeout restarts with each byte. The connections of botocore are in pools where no
caller can reach them, so they report themselves which sockets a thread uses: see `cuttable`.
"""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rerankfleet.workers.images.turns import Signal

_thread = threading.local()


class Deadline:
    """After this many seconds within the block, shuts down the socket in use and any that is opened
    later, and as soon as nobody waits any more; for connections that are `cuttable`."""

    def __init__(self, seconds: float, unwanted: Signal) -> None:
        self._unwanted = unwanted
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._over = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        _thread.deadline = self
        self._timer.start()
        self._unwanted.call(self._end)
        return self

    def __exit__(self, *_: object) -> None:
        _thread.deadline = None
        self._timer.cancel()
        with self._lock:
            self._sock = None  # it may serve another fetch from now on

    def watch(self, sock: socket.socket | None) -> None:
        """Set the socket in use."""
        with self._lock:
            self._sock = sock
            if self._over:
                self._cut()

    def _end(self) -> None:
        with self._lock:
            self._over = True
            self._cut()

    def _cut(self) -> None:
        if self._sock is not None:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)


def cuttable(connection_class: Any) -> Any:
    """The class of HTTP connections, extended to report its socket to the thread's deadline."""
    if getattr(connection_class, "is_cuttable", False):
        return connection_class
    methods = {name: _watched(getattr(connection_class, name)) for name in ("connect", "request")}
    return type(connection_class.__name__, (connection_class,), {**methods, "is_cuttable": True})


def _watched(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, reporting the socket before and after it: it may be open already, or be opened by
    the method."""

    @functools.wraps(method)
    def call(connection: Any, *arguments: Any, **named: Any) -> Any:
        deadline: Deadline | None = getattr(_thread, "deadline", None)
        if deadline is None:
            return method(connection, *arguments, **named)
        deadline.watch(connection.sock)
        answer = method(connection, *arguments, **named)
        deadline.watch(connection.sock)
        return answer

    return call
