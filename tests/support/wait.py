"""The only place where a test waits."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_S = 0.02


def wait_until(predicate: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> object:
    """Wait until `predicate()` is true and return what it gave; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        if found := predicate():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:g} s: {what or predicate}")
        time.sleep(POLL_S)
