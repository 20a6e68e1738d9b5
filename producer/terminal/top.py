"""`rerank top` on a terminal: the fleet drawn again as it changes, until q or Ctrl-C."""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from rich.console import Console
from rich.live import Live

from rerankfleet.producer.client import Client
from rerankfleet.producer.terminal.drawing import frame
from rerankfleet.producer.terminal.view import DepthHistory, View, look
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.state.connection import REDIS_ERRORS, redis_unavailable

KEYS_S = 0.25
"""How often keys are read and the screen is drawn."""


def watch(interval_s: float) -> None:
    """Draw the fleet, read every `interval_s`, until q, Ctrl-C or SIGTERM. While Redis is away that
    is shown and it is tried again; the keyboard never waits for it."""
    views: queue.SimpleQueue[View | Exception] = queue.SimpleQueue()
    looking = threading.Thread(target=_look_again, args=(interval_s, views), daemon=True)
    console, history = Console(highlight=False), DepthHistory()
    signal.signal(signal.SIGTERM, _end)
    with (
        suppress(KeyboardInterrupt),
        _keyboard() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        looking.start()
        view, problem = None, ""
        while "q" not in pressed(KEYS_S).lower():
            while not views.empty():
                news = views.get()
                if isinstance(news, View):
                    view, problem = news, ""
                    history.add(news)
                else:
                    problem = _message(news)
            drawn = frame(
                view,
                width=console.width,
                height=console.height - 1,
                history=history,
                problem=problem,
            )
            drawn.append(f"\n{_footer(interval_s)}", "dim")
            live.update(drawn, refresh=True)


def _footer(interval_s: float) -> str:
    return f"every {interval_s:g} s · q ends"


def _end(*_: object) -> NoReturn:
    """Exit through every `finally`, so that the terminal is restored."""
    sys.exit(0)


def _look_again(interval_s: float, views: queue.SimpleQueue[View | Exception]) -> None:
    """Read the fleet for ever, with a new connection after each failure."""
    client: Client | None = None
    while True:
        try:
            client = client or Client()
            views.put(look(client))
        except Exception as error:  # shown or raised by the thread that draws
            client = None
            views.put(error)
        time.sleep(interval_s)


def _message(error: Exception) -> str:
    """What is wrong, where it may pass. Raises an error that will not."""
    if isinstance(error, RerankError):
        return f"{error}. Trying again …"
    if isinstance(error, REDIS_ERRORS):
        return f"{redis_unavailable(error)}. Trying again …"
    raise error


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed, without Enter: yields `pressed(wait_s)`, "" when none was."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed(wait_s: float) -> str:
        if not select.select([keyboard], [], [], wait_s)[0]:
            return ""
        return os.read(keyboard, 64).decode(errors="replace") or "q"  # no bytes: it was closed

    tty.setcbreak(keyboard)
    try:
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""
