"""Who waits for images, whose turn it is, and what nobody waits for any more."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """Who wants images.

    turn    a request or job: those of a turn take turns with all others
    urgent  somebody waits: before all that are not
    stop    set when they are wanted no more
    owner   whose uploads alone may be read; None: anybody's
    """

    turn: Hashable = field(default_factory=object)
    urgent: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    owner: str | None = None


STOP_POLL_S = 0.1
"""How soon whoever waits notices that it is to stop."""


def result(future: Future[T], stop: threading.Event) -> T:
    """A future's result. Raises CancelledError when `stop` is set first."""
    while not future.done() and not stop.is_set():
        wait([future], STOP_POLL_S)
    if not future.done():
        raise CancelledError
    return future.result()


class Signal:
    """Says once that something is wanted no more, to all that work or wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._actions: list[Callable[[], None]] = []
        self._is_set = False

    def is_set(self) -> bool:
        """Whether it was said."""
        return self._is_set

    def set(self) -> None:
        """Say it: everything that `call` was given is called, once."""
        with self._lock:
            self._is_set = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def call(self, action: Callable[[], None]) -> None:
        """Call something when it is said; now, if it was said already."""
        with self._lock:
            if not self._is_set:
                self._actions.append(action)
                return
        action()


class Turns(Generic[T]):
    """Things that wait: the urgent ones first, then one of each turn after another. Not safe to be
    shared between threads."""

    def __init__(self) -> None:
        self._lanes: tuple[OrderedDict[Hashable, deque[T]], ...] = (OrderedDict(), OrderedDict())

    def __bool__(self) -> bool:
        return any(self._lanes)

    def put(self, caller: Caller, item: T) -> None:
        """Add one to its turn."""
        self._lanes[not caller.urgent].setdefault(caller.turn, deque()).append(item)

    def take(self, may: Callable[[Hashable], bool] = lambda turn: True) -> T | None:
        """The next one of a turn that `may` have it; None when there is none."""
        for lane in self._lanes:
            for turn in filter(may, lane):
                waiting = lane.pop(turn)
                item = waiting.popleft()
                if waiting:
                    lane[turn] = waiting  # behind all others
                return item
        return None

    def drop(self, caller: Caller, item: T) -> bool:
        """Remove one. False when it waits no more."""
        lane = self._lanes[not caller.urgent]
        waiting = lane.get(caller.turn, deque())
        if item not in waiting:
            return False
        waiting.remove(item)
        if not waiting:
            del lane[caller.turn]
        return True

    def clear(self) -> list[T]:
        """Remove all. Returns them."""
        items = [item for lane in self._lanes for waiting in lane.values() for item in waiting]
        for lane in self._lanes:
            lane.clear()
        return items


@dataclass(slots=True, eq=False)
class _Call:
    caller: Caller
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: Future[Any] = field(default_factory=Future)


class FairThreads:
    """Threads that serve callers in turns, and no more than `per_turn` of them the same one."""

    def __init__(self, threads: int, name: str, *, per_turn: int | None = None) -> None:
        self._threads = ThreadPoolExecutor(threads, name)
        self._per_turn = per_turn or threads
        self._lock = threading.Lock()
        self._waiting: Turns[_Call] = Turns()
        self._running: dict[Hashable, int] = {}

    def submit(self, caller: Caller, call: Callable[..., T], *arguments: Any) -> Future[T]:
        """Call something in a thread. Cancelled, it is called no more."""
        one = _Call(caller, call, arguments)
        with self._lock:
            self._waiting.put(caller, one)
        self._threads.submit(self._work)
        return one.future

    def shutdown(self) -> None:
        """Cancel what waits, and wait for what runs."""
        with self._lock:
            for one in self._waiting.clear():
                one.future.cancel()
        self._threads.shutdown(cancel_futures=True)

    def _work(self) -> None:
        """Serve as long as anybody waits whom this thread may serve. Those whose turn has all its
        threads are served by these."""
        while one := self._begin():
            try:
                _carry_out(one)
            finally:
                self._end(one)

    def _begin(self) -> _Call | None:
        with self._lock:
            one = self._waiting.take(lambda turn: self._running.get(turn, 0) < self._per_turn)
            if one:
                turn = one.caller.turn
                self._running[turn] = self._running.get(turn, 0) + 1
            return one

    def _end(self, one: _Call) -> None:
        with self._lock:
            self._running[one.caller.turn] -= 1
            if not self._running[one.caller.turn]:
                del self._running[one.caller.turn]


def _carry_out(one: _Call) -> None:
    """Call it, and set its future."""
    if not one.future.set_running_or_notify_cancel():
        return
    try:
        one.future.set_result(one.call(*one.arguments))
    except BaseException as error:
        one.future.set_exception(error)
