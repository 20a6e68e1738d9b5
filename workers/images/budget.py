"""What one fetch of an image may use, and how its failures read, without anything secret."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from rerankfleet.shared.addresses import safe_uri
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.turns import Signal

CHUNK_BYTES = 64 << 10


class Transient(Exception):
    """A retry may succeed; `str(error)` says what happened, without anything secret."""


def refused(uri: str, why: str, hint: str) -> ItemError:
    """The outcome of a URI that may not be read."""
    return ItemError("refused_source", f"{safe_uri(uri)} {why}", hint=hint)


def missing(uri: str, why: str) -> ItemError:
    """The outcome of a URI that leads to nothing."""
    return ItemError("not_found", f"{safe_uri(uri)} {why}", hint="check the address")


def unreadable(uri: str, why: str, hint: str) -> ItemError:
    """The outcome of a URI that cannot be read, and could not at another try."""
    return ItemError("unreadable", f"{safe_uri(uri)} {why}", hint=hint)


@dataclass(frozen=True, slots=True)
class Budget:
    """The bytes and the time that one fetch has."""

    uri: str
    max_bytes: int
    timeout_s: float
    deadline_s: float
    unwanted: Signal = field(default_factory=Signal)

    def check_time(self) -> float:
        """Seconds left. Raises ItemError when there are none, CancelledError when nobody waits."""
        if self.unwanted.is_set():
            raise CancelledError
        left = self.deadline_s - time.monotonic()
        if left <= 0:
            raise self.timeout()
        return left

    def timeout(self) -> ItemError:
        """The outcome of a fetch that took too long."""
        return ItemError(
            "timeout",
            f"{safe_uri(self.uri)} was not read within {self.timeout_s:g} s",
            hint="check that its host is up and near enough",
        )

    def too_large(self, than: str = "is larger than") -> ItemError:
        """The outcome of an image of too many bytes."""
        return ItemError(
            "too_large",
            f"{safe_uri(self.uri)} {than} {self.max_bytes:,} bytes",
            hint="scale it down",
        )

    def read(self, read: Callable[[int], bytes]) -> bytes:
        """Everything that `read(size)` returns, within bytes and time."""
        data = bytearray()
        while chunk := read(CHUNK_BYTES):
            data += chunk
            if len(data) > self.max_bytes:
                raise self.too_large()
            self.check_time()
        self.check_time()  # the deadline may have cut the connection, which reads as its end
        return bytes(data)
