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
from collections import deque
from collections.abc import Iterator
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

START_S = 60.0
MEMORY_BYTES = 4 << 30
IN_FLIGHT_BYTES = 256 << 20

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


@dataclass(slots=True)
class _Task:
    data: bytes
    options: ImageSpec
    future: Future[PreparedImage] = field(default_factory=Future)


class Pool:
    """`prepare(data, options)` returns a future of a PreparedImage, or of an ItemError.

    `prepare` blocks while more than `in_flight_bytes` of images wait to be decoded. A process is
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
        self._waiting: deque[_Task] = deque()
        self._changed = threading.Condition()
        self._in_flight_bytes, self._most_bytes = 0, in_flight_bytes
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

    def prepare(self, data: bytes, options: ImageSpec) -> Future[PreparedImage]:
        """Queue one image. A future that is cancelled before its turn is not decoded."""
        task = _Task(data, options)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._has_room(len(data)))
            if self._closed:
                raise RuntimeError("the pool is closed")
            self._in_flight_bytes += len(data)
            self._waiting.append(task)
            self._changed.notify_all()
        return task.future

    def close(self) -> None:
        """End the processes; waiting images are cancelled, those being decoded fail."""
        with self._changed:
            self._closed = True
            for task in self._waiting:
                task.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for decoder in self._decoders:
            decoder.kill()
        for thread in self._threads:
            thread.join(START_S)

    def _has_room(self, size: int) -> bool:
        return not self._in_flight_bytes or self._in_flight_bytes + size <= self._most_bytes

    def _run(self, decoder: _Decoder) -> None:
        """The loop of one thread."""
        while (task := self._next()) is not None:
            try:
                if task.future.set_running_or_notify_cancel():
                    _settle(task, decoder)
            finally:
                self._release(len(task.data))
        decoder.end()

    def _next(self) -> _Task | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            return None if self._closed else self._waiting.popleft()

    def _release(self, size: int) -> None:
        with self._changed:
            self._in_flight_bytes -= size
            self._changed.notify_all()


def _settle(task: _Task, decoder: _Decoder) -> None:
    """Set the future's image or error."""
    try:
        image = decoder.decode(task.data, task.options)
    except Exception as error:
        task.future.set_exception(error)
    else:
        task.future.set_result(image)


class _Decoder:
    """One child process, restarted after it died. Used by one thread; any thread may kill it."""

    def __init__(self, timeout_s: float, memory_bytes: int) -> None:
        self._timeout_s, self._memory_bytes = timeout_s, memory_bytes
        self.child: subprocess.Popen[bytes] | None = None

    def decode(self, data: bytes, options: ImageSpec) -> PreparedImage:
        """Raises ItemError; Unavailable when no child can be started."""
        child = self._running()
        overdue = threading.Event()
        try:
            with _killed_after(self._timeout_s, child, overdue):
                send(_pipe(child.stdin), asdict(options), data)
                answer, pixels = receive(_pipe(child.stdout))
        except (EOFError, OSError):
            self.end()
            raise _lost(overdue.is_set(), self._timeout_s) from None
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
) -> Iterator[None]:
    """Kill the child and set `overdue` when the block takes too long."""

    def kill() -> None:
        overdue.set()
        child.kill()

    timer = threading.Timer(timeout_s, kill)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
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
