"""The ends of jobs, heard by all threads of a process over one connection.

A gateway waits for hundreds of answers at once: a subscription each would be a connection each.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.store import Store

POLL_S = 1.0
"""A message may be lost: so often a waiter looks for itself."""
IDLE_S = 30.0
"""The connection is given back when nobody has been waiting for so long."""


class Caller:
    """Who waits for a job's end, and may go away meanwhile. Safe to share between threads."""

    def __init__(self) -> None:
        self.job_id = ""
        """The job it waits for, once that is made."""
        self.has_left = False
        self.woken = threading.Event()
        """Set when there is something to look at: the end, or that it has left."""

    def leave(self) -> None:
        """Want the end no more: whoever waits for it is woken."""
        self.has_left = True
        self.woken.set()


class JobNotifier:
    """Tells waiters when their jobs end. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Caller]] = {}
        self._listening = threading.Event()
        self._thread: threading.Thread | None = None
        self._wanted_s = 0.0

    def wait(self, job_id: str, timeout_s: float, caller: Caller | None = None) -> bool:
        """Wait until a job ends. Returns whether it did within `timeout_s`, and before the caller
        left. A caller waits for one job in its life."""
        deadline = time.monotonic() + timeout_s
        caller = caller or Caller()
        self._register(job_id, caller)
        try:
            self._listening.wait(min(timeout_s, POLL_S))
            while not self._store.jobs.has_ended(job_id):
                left_s = deadline - time.monotonic()
                if left_s <= 0 or caller.has_left:
                    return False
                if caller.woken.wait(min(left_s, POLL_S)) and not caller.has_left:
                    return True
            return True
        finally:
            self._forget(job_id, caller)

    def _register(self, job_id: str, caller: Caller) -> None:
        """Be told of a job's end; see to it that someone listens."""
        with self._lock:
            self._wanted_s = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="ends", daemon=True)
                self._thread.start()
            self._waiting.setdefault(job_id, set()).add(caller)  # of one key there may be many
            caller.job_id = job_id

    def _forget(self, job_id: str, caller: Caller) -> None:
        with self._lock:
            others = self._waiting[job_id]
            others.discard(caller)
            if not others:
                del self._waiting[job_id]

    def _listen(self) -> None:
        while self._is_wanted():
            try:
                with self._store.client.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.psubscribe(self._store.keys.done_channel("*"))
                    while self._is_wanted():
                        self._tell(channel.get_message(timeout=POLL_S))
            except (*REDIS_ERRORS, OSError, ValueError):
                # away, or closed in the midst of it: waiters look for themselves meanwhile
                self._listening.clear()
                time.sleep(POLL_S)

    def _is_wanted(self) -> bool:
        """Whether someone waits, or did lately; if not, the thread is as good as gone."""
        with self._lock:
            idle_s = time.monotonic() - self._wanted_s
            wanted = bool(self._waiting) or idle_s < IDLE_S
            if not wanted:
                self._listening.clear()
                self._thread = None
            return wanted

    def _tell(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "psubscribe":
            self._listening.set()
            return
        with self._lock:
            callers = list(self._waiting.get(message["data"], ()))
        for caller in callers:
            caller.woken.set()
