"""A sign of life from inside long loops.

Whoever works under a lease sets what a sign of life does; whatever reads or writes for long gives
signs, however deep it lies, whether or not it yields anything. Without a lease they do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


def _nothing() -> None:
    """The sign of life of what works without a lease."""


_act: ContextVar[Callable[[], None]] = ContextVar("heartbeat", default=_nothing)


def beat() -> None:
    """Give a sign of life. It may raise what ends the work, such as a lost lease."""
    _act.get()()


@contextmanager
def heartbeat(act: Callable[[], None]) -> Iterator[None]:
    """While the block runs in this thread, every sign of life calls `act`, which must be fast."""
    token = _act.set(act)
    try:
        yield
    finally:
        _act.reset(token)
