"""Whose turn it is: one request's many images, or slow ones, do not hold up another's."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future

import pytest

from rerankfleet.workers.images.turns import Caller, FairThreads, Signal, Turns, result
from tests.support.wait import patient, wait_until

WAIT_S = patient(20)


def drained(turns: Turns[str]) -> list[str]:
    taken = []
    while (item := turns.take()) is not None:
        taken.append(item)
    return taken


def test_callers_take_turns_and_the_urgent_ones_come_first():
    turns: Turns[str] = Turns()
    bulk, mine, yours = Caller("bulk"), Caller("mine", urgent=True), Caller("yours", urgent=True)
    for item in ("b1", "b2"):
        turns.put(bulk, item)
    for number in range(4):
        turns.put(mine, f"m{number}")
    turns.put(yours, "y0")

    assert drained(turns) == ["m0", "y0", "m1", "m2", "m3", "b1", "b2"]
    assert not turns


def test_one_that_comes_later_has_its_turn_after_each_other_had_one():
    turns: Turns[str] = Turns()
    callers = {name: Caller(name) for name in "abc"}
    for name in "ab":
        for number in range(3):
            turns.put(callers[name], f"{name}{number}")

    assert [turns.take(), turns.take()] == ["a0", "b0"]
    turns.put(callers["c"], "c0")
    assert drained(turns) == ["a1", "b1", "c0", "a2", "b2"]


def test_what_is_dropped_does_not_come():
    turns: Turns[str] = Turns()
    caller = Caller(None)
    for item in ("x", "y"):
        turns.put(caller, item)

    assert turns.drop(caller, "x")
    assert not turns.drop(caller, "x")
    assert drained(turns) == ["y"]


def test_a_turn_has_a_part_of_the_threads_only():
    """Given a caller whose calls hang, more of them than there are threads."""
    threads, go = FairThreads(3, "test", per_turn=2), threading.Event()
    slow, quick = Caller("slow"), Caller("quick")
    hanging = [threads.submit(slow, go.wait, WAIT_S) for _ in range(8)]
    wait_until(lambda: sum(future.running() for future in hanging) == 2)

    assert threads.submit(quick, lambda: "done").result(WAIT_S) == "done"
    assert sum(future.running() for future in hanging) == 2
    go.set()
    assert all(future.result(WAIT_S) for future in hanging)
    threads.shutdown()


def test_what_waits_when_threads_end_is_cancelled():
    threads, go = FairThreads(1, "test"), threading.Event()
    caller = Caller("one")
    first = threads.submit(caller, go.wait, WAIT_S)
    wait_until(first.running)
    second = threads.submit(caller, go.wait, WAIT_S)
    threading.Timer(0.05, go.set).start()
    threads.shutdown()

    assert first.result(WAIT_S)
    assert second.cancelled()


def test_a_wait_ends_when_it_is_stopped():
    stop, never = threading.Event(), Future[str]()
    threading.Timer(0.05, stop.set).start()

    with pytest.raises(CancelledError):
        result(never, stop)


def test_an_error_is_raised_by_who_waits_for_it():
    failed = Future[str]()
    failed.set_exception(TimeoutError("its own"))

    with pytest.raises(TimeoutError, match="its own"):
        result(failed, threading.Event())


def test_a_signal_calls_each_once_also_those_who_come_late():
    signal, called = Signal(), []
    signal.call(lambda: called.append("early"))
    assert not signal.is_set()
    signal.set()
    signal.set()
    signal.call(lambda: called.append("late"))

    assert called == ["early", "late"]
    assert signal.is_set()
