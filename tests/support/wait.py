"""The only place where a test waits, and the one setting of how long."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

POLL_S = 0.02
PATIENCE = float(os.environ.get("RERANK_TEST_PATIENCE", "1"))
"""Multiplies every wait: 4 lets the tests pass beside other busy processes."""


def patient(seconds: float) -> float:
    """How long to wait for something that takes at most `seconds` on an idle machine."""
    return seconds * PATIENCE


def wait_until(predicate: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> object:
    """Wait until `predicate()` is true and return its value; fail after `patient(timeout_s)`."""
    deadline = time.monotonic() + patient(timeout_s)
    while True:
        if value := predicate():
            return value
        if time.monotonic() > deadline:
            waited_s = patient(timeout_s)
            raise AssertionError(f"did not happen within {waited_s:g} s: {what or predicate}")
        time.sleep(POLL_S)
