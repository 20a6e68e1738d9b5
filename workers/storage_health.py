"""Whether the storage serves this worker: what it says of itself, and how long its slots rest.

A worker whose own credentials ran out fails on every shard that it claims, while others could go
on. So each slot that met such a failure claims nothing for a while, and then looks again.
"""

from __future__ import annotations

import threading
import time

REST_MIN_S, REST_MAX_S = 5.0, 30.0
"""A slot rests for as long as the storage has failed, within these bounds."""


class StorageHealth:
    """The failures of the storage in a row, as one worker meets them. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since_s: float | None = None
        self._reason = ""
        self._failed = threading.local()
        self._closed = threading.Event()

    @property
    def reason(self) -> str:
        """Why this worker waits for the storage; nothing while it works."""
        return self._reason

    def works(self) -> None:
        """A shard was loaded and its part written."""
        with self._lock:
            self._since_s, self._reason = None, ""

    def failed(self, reason: str) -> None:
        """The storage failed in this thread, which is to rest."""
        with self._lock:
            if self._since_s is None:
                self._since_s = time.monotonic()
            self._reason = reason
        self._failed.now = True

    def rest(self) -> None:
        """Wait for a while if the storage failed in this thread just now."""
        if not getattr(self._failed, "now", False):
            return
        self._failed.now = False
        with self._lock:
            since_s = self._since_s
        away_s = 0.0 if since_s is None else time.monotonic() - since_s
        self._closed.wait(min(max(away_s, REST_MIN_S), REST_MAX_S))

    def close(self) -> None:
        """Let nobody rest any more: the worker ends."""
        self._closed.set()
