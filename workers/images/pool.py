"""Decoding in child processes: a crash or a hang costs one image, and the process is replaced.

One thread per process talks to it over its pipes. The processes start when they are first needed,
and load neither torch nor the caller's main module.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import IO

import numpy as np

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError, Unavailable
from rerankfleet.workers.images.child import receive, send
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.images.turns import Caller, Signal, Turns

START_S = 60.0
MEMORY_BYTES = 4 << 30
IN_FLIGHT_BYTES = 256 << 20
UNWANTED_S = 1.0
"""How much longer an image may be decoded that nobody waits for: most are done by then, and a new
process costs more."""

#: The child imports from the parent's path, and nothing from its working folder.
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]);"
    "from rerankfleet.workers.images.child import serve;"
    "serve(float(sys.argv[1]), int(sys.argv[2]))"
)


PROCESSES_MAX = 16


def default_processes() -> int:
    """One for every two cores that this process may use, and no more than concurrent fetches."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(PROCESSES_MAX, cores // 2))


@dataclass(slots=True, eq=False)
class _Task:
    data: bytes
    options: ImageSpec
    caller: Caller
    unwanted: Signal
    future: Future[PreparedImage] = field(default_factory=Future)


class Pool:
    """`prepare(data, options)` returns a future of a PreparedImage, or of an ItemError.

    Callers take turns. `prepare` blocks while more than `in_flight_bytes` of images wait to be
    decoded, unless none of them is the caller's. A process is
    killed when a decode takes longer than `timeout_s`; it may use `memory_bytes` besides its
    libraries.
    """

    def __init__(
        self,
        processes: int | None = None,
        *,
        timeout_s: float = 20.0,
        memory_bytes: int = MEMORY_BYTES,
        in_flight_bytes: int = IN_FLIGHT_BYTES,
    ) -> None:
        self._waiting: Turns[_Task] = Turns()
        self._changed = threading.Condition()
        self._in_flight_bytes: Counter[Hashable] = Counter()  # of each turn
        self._most_bytes = in_flight_bytes
        self._closed = False
        self._decoders = [
            _Decoder(timeout_s, memory_bytes) for _ in range(processes or default_processes())
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(d,), name="decode", daemon=True)
            for d in self._decoders
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(
        self,
        data: bytes,
        options: ImageSpec,
        caller: Caller | None = None,
        unwanted: Signal | None = None,
    ) -> Future[PreparedImage]:
        """Queue one image. A future that is cancelled before its turn is not decoded; nor is an
        image that is `unwanted`: its future is cancelled, or fails if it is being decoded."""
        task = _Task(data, options, caller or Caller(turn=None), unwanted or Signal())
        task.unwanted.call(self._wake)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(task))
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._in_flight_bytes[task.caller.turn] += len(data)
            self._waiting.put(task.caller, task)
            self._changed.notify_all()
        task.unwanted.call(lambda: self._drop(task))
        return task.future

    def close(self) -> None:
        """End the processes; waiting images are cancelled, those being decoded fail."""
        with self._changed:
            self._closed = True
            for task in self._waiting.clear():
                task.future.cancel()
            self._changed.notify_all()
        for decoder in self._decoders:
            decoder.kill()
        for thread in self._threads:
            thread.join(START_S)

    def _has_room(self, task: _Task) -> bool:
        """Whether it may wait to be decoded; an unwanted one is dropped at once."""
        if task.unwanted.is_set() or not self._in_flight_bytes[task.caller.turn]:
            return True
        return self._in_flight_bytes.total() + len(task.data) <= self._most_bytes

    def _run(self, decoder: _Decoder) -> None:
        """The loop of one thread."""
        while (task := self._next()) is not None:
            try:
                if task.future.set_running_or_notify_cancel():
                    _settle(task, decoder)
            finally:
                self._release(task)
        decoder.end()

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return None if self._closed else self._waiting.take()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _drop(self, task: _Task) -> None:
        """Forget an image that waits."""
        with self._changed:
            is_waiting = self._waiting.drop(task.caller, task)
        if is_waiting:
            self._release(task)
            task.future.cancel()

    def _release(self, task: _Task) -> None:
        turn = task.caller.turn
        with self._changed:
            self._in_flight_bytes[turn] -= len(task.data)
            if not self._in_flight_bytes[turn]:
                del self._in_flight_bytes[turn]
            self._changed.notify_all()


def _settle(task: _Task, decoder: _Decoder) -> None:
    """Set the future's image or error."""
    try:
        image = decoder.decode(task.data, task.options, task.unwanted)
    except Exception as error:
        task.future.set_exception(error)
    else:
        task.future.set_result(image)


class _Decoder:
    """One child process, restarted after it died. Used by one thread; any thread may kill it."""

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s, self._memory_bytes = timeout_s, memory_bytes
        self.child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, options: ImageSpec, unwanted: Signal) -> PreparedImage:
        """Raises ItemError; Unavailable when no child can be started. Ends UNWANTED_S after it is
        `unwanted`."""
        child = self._running()
        overdue = threading.Event()
        try:
            with _killed_after(self._timeout_s, child, overdue) as end_within:
                unwanted.call(lambda: end_within(UNWANTED_S))
                send(_pipe(child.stdin), asdict(options), data)
                answer, pixels = receive(_pipe(child.stdout))
        except (EOFError, OSError):
            self.end()
            raise _lost(overdue.is_set(), self._timeout_s) from None
        if overdue.is_set():  # it answered, but was killed all the same
            self.end()
        if "error" in answer:
            code, message, hint = answer["error"]
            raise ItemError(code, message, hint=hint)
        original = tuple(answer["fields"].pop("original"))
        shaped = np.frombuffer(pixels, np.uint8).reshape(answer["shape"])
        return PreparedImage(pixels=shaped, original=original, **answer["fields"])

    def _running(self) -> subprocess.Popen[bytes]:
        """The child; a new one if there is none or it died."""
        if self.child and self.child.poll() is None:
            return self.child
        self.end()
        limits = (str(self._timeout_s), str(self._memory_bytes))
        command = [sys.executable, "-P", "-c", _START, *limits, json.dumps(sys.path)]
        self.child = child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            with _killed_after(START_S, child, threading.Event()):
                receive(_pipe(child.stdout))
        except (EOFError, OSError):
            self.end()
            raise Unavailable("the process that decodes images failed to start") from None
        return child

    def kill(self) -> None:
        """Kill the child, if there is one; its thread notices."""
        if child := self.child:
            child.kill()

    def end(self) -> None:
        """Kill the child and clean up."""
        child, self.child = self.child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):  # unsent data
                _pipe(pipe).close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe
    return pipe


@contextmanager
def _killed_after(
    timeout_s: float, child: subprocess.Popen[bytes], overdue: threading.Event
) -> Iterator[Callable[[float], None]]:
    """Kill the child and set `overdue` when the block takes too long. Gives a function that allows
    the rest of the block fewer seconds."""
    timers: list[threading.Timer] = []
    lock, ended = threading.Lock(), threading.Event()

    def kill() -> None:
        with lock:
            if not ended.is_set():
                overdue.set()
                child.kill()

    def end_within(seconds: float) -> None:
        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        with lock:
            if not ended.is_set():
                timers.append(timer)
                timer.start()

    end_within(timeout_s)
    try:
        yield end_within
    finally:
        with lock:
            ended.set()
        for timer in timers:
            timer.cancel()


def _lost(overdue: bool, timeout_s: float) -> ItemError:
    """The outcome of an image whose process was lost."""
    if overdue:
        return ItemError(
            "decode_timeout",
            f"the image was not decoded within {timeout_s:g} s",
            hint="scale it down, or save it again as JPEG or PNG",
        )
    return ItemError(
        "decode_crashed",
        "the process that decoded this image died",
        hint="save it again as JPEG or PNG; if this happens often, the machine lacks memory",
    )
