"""Admission to the storage: bytes are reserved before they are written, within the quotas.

Uploads have one quota and jobs another one; neither takes the last bytes of the storage's disk.
What is reserved is renewed while its writer lives. When that dies the coordinator removes what it
left.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Self

from rerankfleet.shared.errors import StorageFull, StorageUnavailable
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.shown import amount
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.ledger import Kind
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.disk import free_in_storage

LEASE_S = 600.0
"""For so long a writer may give no sign of life: its network may be away."""
STEP_BYTES = 16 << 20
"""What is reserved at once for more bytes of unknown number, and written between two looks at the
disk."""


class Reservation:
    """Bytes of the storage for one job or upload. A context, in which it is renewed: they stay
    reserved afterwards, until they are kept, released or lapse.

    `size`: how many it will be, as far as that is known. `lease_s`: when it lapses without a
    renewal, LEASE_S unless given. Entering raises StorageFull.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        kind: Kind,
        id_: str,
        size: int,
        lease_s: float | None = None,
    ) -> None:
        self._store, self._settings = store, settings
        self._kind: Kind = kind
        self._id = id_
        self._size, self._looked_at = size, 0
        self._lease_s = LEASE_S if lease_s is None else lease_s
        self._renewed_s = 0.0
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.begin()
        threading.Thread(target=self._renew, name=f"reserved-{self._id}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def begin(self) -> None:
        """Reserve. Raises StorageFull."""
        self._refuse_full_disk(self._size)
        self._reserve(self._size, begins=True)

    def grow(self, size: int) -> None:
        """Have room for so many bytes in all, before the last of them are written. Raises
        StorageFull."""
        if size - self._looked_at >= STEP_BYTES:
            self._looked_at = size
            self._refuse_full_disk(0)
        if size > self._size:
            self._reserve(size, room=-(-size // STEP_BYTES) * STEP_BYTES)

    def keep_upload(self, expires_s: int, size: int) -> None:
        """Count an upload that is complete. Raises StorageUnavailable when it was not renewed for
        so long that it may be gone."""
        fresh = time.monotonic() - self._renewed_s < self._lease_s / 2
        answer = self._store.ledger.keep_upload(self._id, expires_s, size)
        if answer == "lapsed" or (answer == "none" and not fresh):  # else the reply was lost before
            raise _lapsed()

    def release(self) -> None:
        """Give the bytes back, none of which are in the storage any more."""
        self._over.set()
        with suppress(*REDIS_ERRORS):  # they lapse
            self._store.ledger.drop(self._kind, self._id)

    def _reserve(self, size: int, *, room: int | None = None, begins: bool = False) -> None:
        """Reserve `room` bytes, or where there is less `size`."""
        with self._lock:
            answer, others = self._ask(room or size, begins)
            if answer == "full" and room:
                answer, others = self._ask(size, begins)
        if answer == "lapsed":
            raise _lapsed()
        if answer == "full":
            raise self._full(others, size)

    def _ask(self, size: int, begins: bool) -> tuple[str, int]:
        answer, others = self._store.ledger.reserve(
            self._kind,
            self._id,
            size,
            lease_ms=int(self._lease_s * 1000),
            bytes_max=self._bytes_max,
            begins=begins,
        )
        if answer == "reserved":
            self._size, self._renewed_s = size, time.monotonic()
        return answer, others

    def _renew(self) -> None:
        while not self._over.wait(self._lease_s / 10):
            with suppress(*REDIS_ERRORS), self._lock:
                if self._over.is_set() or self._ask(self._size, False)[0] == "lapsed":
                    return

    @property
    def _bytes_max(self) -> int:
        settings = self._settings
        return settings.jobs_bytes_max if self._kind == "jobs" else settings.uploads_bytes_max

    def _full(self, others: int, size: int) -> StorageFull:
        what, when = _SENTENCES[self._kind]
        needs = f", and this one needs {amount(size)}" if size else ""
        name = f"RERANK_{self._kind.upper()}_BYTES_MAX"
        return StorageFull(
            f"{what} {amount(others)} of the storage, of {amount(self._bytes_max)} at most{needs}",
            hint=f"{when}, or raise {name}",
        )

    def _refuse_full_disk(self, size: int) -> None:
        least = self._settings.free_bytes_min
        free = free_in_storage(self._settings) if least else None
        if free is not None and free - size < least:
            needs = f", and this needs {amount(size)}" if size else ""
            raise StorageFull(
                f"the disk of the storage has {amount(free)} free, of which {amount(least)} stay "
                f"free{needs}",
                hint="make room on it, or lower RERANK_FREE_BYTES_MIN",
            )


_SENTENCES = {
    "jobs": (
        "jobs keep",
        "wait until files of finished ones are removed (RERANK_PARTS_TTL_S, RERANK_RESULT_TTL_S)",
    ),
    "uploads": ("uploads take", "wait until some expire, upload with a shorter ttl_s"),
}
"""What takes the bytes, and when there is room again."""


def _lapsed() -> StorageUnavailable:
    return StorageUnavailable(
        "what is being written gave no sign of life for too long, and may have been removed",
        hint="send it again",
    )
