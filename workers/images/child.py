"""The process that decodes: requests on standard input, answers on standard output, one at a time.

A message is a frame of JSON and a frame of bytes, preceded by their lengths. Exits when its parent
closes the pipe; an alarm ends it when it hangs on an image and the parent is gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.prepared import PreparedImage

ORPHAN_S = 5
"""The alarm goes off this long after the parent's own time limit."""

_LENGTHS = struct.Struct("<QQ")


def send(pipe: IO[bytes], message: Any, data: bytes | memoryview = b"") -> None:
    """Write one message."""
    head = json.dumps(message).encode()
    pipe.write(_LENGTHS.pack(len(head), len(data)) + head)
    pipe.write(data)
    pipe.flush()


def receive(pipe: IO[bytes]) -> tuple[Any, bytearray]:
    """Read one message. Raises EOFError when the other side is gone."""
    head_bytes, data_bytes = _LENGTHS.unpack(_exactly(pipe, _LENGTHS.size))
    return json.loads(_exactly(pipe, head_bytes)), _exactly(pipe, data_bytes)


def _exactly(pipe: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        read = pipe.readinto(view[at:])  # type: ignore[attr-defined]
        if not read:
            raise EOFError
        at += read
    return data


def serve(timeout_s: float, memory_bytes: int) -> None:
    """Decode until the parent closes the pipe."""
    requests, answers = _own_pipes()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.simplefilter("ignore")
    from rerankfleet.workers.images.decode import decode

    _limit_memory(memory_bytes)
    send(answers, "ready")
    while True:
        try:
            options, data = receive(requests)
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s + ORPHAN_S)
        _answer(answers, decode, options, bytes(data))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory(memory_bytes: int) -> None:
    """Allow this much address space besides that of the libraries (a lot on many cores)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """Standard input and output, reserved for messages: what a codec prints is discarded."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    return requests, answers


def _answer(
    answers: IO[bytes],
    decode: Callable[[bytes, ImageSpec], PreparedImage],
    options: dict[str, Any],
    data: bytes,
) -> None:
    """Send the prepared image, or its error."""
    spec: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    try:
        image = decode(data, ImageSpec(**spec))
    except ItemError as error:
        send(answers, {"error": [error.code, error.message, error.hint]})
        return
    fields = {name: getattr(image, name) for name in image.__slots__ if name != "pixels"}
    send(answers, {"fields": fields, "shape": image.pixels.shape}, image.pixels.data.cast("B"))
