"""Notifies the threads of a process when jobs end, over one connection for all of them.

A gateway waits for hundreds of answers at once: a subscription each would be a connection each.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.store import Store

POLL_S = 1.0
"""A message may be lost: this often a waiting thread reads the job's state itself."""
IDLE_S = 30.0
"""The connection is closed when no thread has been waiting for this long."""


class JobEnd:
    """The end of one job, for one waiting thread. Any other thread may stop the wait."""

    def __init__(self, job_id: str, notifier: JobNotifier) -> None:
        self.job_id = job_id
        self._notifier = notifier
        self._changed = threading.Event()
        self._stopped = False

    def wait(self, timeout_s: float) -> bool:
        """Wait until the job ends. Returns whether it did, before the timeout and any `stop`."""
        deadline = time.monotonic() + timeout_s
        with self._notifier.notifying(self):
            self._notifier.wait_subscribed(0.0 if self._stopped else min(timeout_s, POLL_S))
            while not self._notifier.has_ended(self.job_id):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or self._stopped:
                    return False
                if self._changed.wait(min(left_s, POLL_S)) and not self._stopped:
                    return True
            return True

    def stop(self) -> None:
        """End the wait at once; one that has not begun yet does not begin."""
        self._stopped = True
        self._changed.set()

    def notify(self) -> None:
        """The job has ended."""
        self._changed.set()


class JobNotifier:
    """Notifies waiting threads when their jobs end. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiting: dict[str, set[JobEnd]] = {}
        self._subscribed = threading.Event()
        self._thread: threading.Thread | None = None
        self._last_registered_s = 0.0

    def end_of(self, job_id: str) -> JobEnd:
        """The end of a job, to be waited for."""
        return JobEnd(job_id, self)

    @contextmanager
    def notifying(self, end: JobEnd) -> Iterator[None]:
        """Notify this wait of its job's end while the block runs."""
        self._register(end)
        try:
            yield
        finally:
            self._unregister(end)

    def wait_subscribed(self, timeout_s: float) -> None:
        """Wait until messages arrive, so that an end from then on is not missed."""
        self._subscribed.wait(timeout_s)

    def has_ended(self, job_id: str) -> bool:
        """Whether a job has ended, as Redis has it."""
        return self._store.jobs.has_ended(job_id)

    def _register(self, end: JobEnd) -> None:
        with self._lock:
            self._last_registered_s = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="job ends", daemon=True)
                self._thread.start()
            # requests with one idempotency key wait for one job
            self._waiting.setdefault(end.job_id, set()).add(end)

    def _unregister(self, end: JobEnd) -> None:
        with self._lock:
            others = self._waiting[end.job_id]
            others.discard(end)
            if not others:
                del self._waiting[end.job_id]

    def _listen(self) -> None:
        while self._is_needed():
            try:
                with self._store.client.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.psubscribe(self._store.keys.done_channel("*"))
                    while self._is_needed():
                        self._receive(channel.get_message(timeout=POLL_S))
            except (*REDIS_ERRORS, OSError, ValueError):
                # Redis went away, or the client was closed: until it is back waiting threads poll
                self._subscribed.clear()
                time.sleep(POLL_S)

    def _is_needed(self) -> bool:
        """Whether a thread waits or did lately. If not, this thread counts as ended."""
        with self._lock:
            idle_s = time.monotonic() - self._last_registered_s
            needed = bool(self._waiting) or idle_s < IDLE_S
            if not needed:
                self._subscribed.clear()
                self._thread = None
            return needed

    def _receive(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "psubscribe":
            self._subscribed.set()
            return
        with self._lock:
            ends = list(self._waiting.get(message["data"], ()))
        for end in ends:
            end.notify()
