"""Which queues a worker listens to: not to the bulk ones while its hands are full.

So an interactive hint is always taken at once, and a bulk hint waits where an idle worker can see
it. Runs in the consumer's event loop: a queue is left before the next message is read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any


class BulkGate:
    """Counts bulk messages in hand. `received` is a handler of Celery's task_received signal."""

    def __init__(self, queues: Sequence[str], limit: int) -> None:
        self._queues = tuple(queues)  # in the order in which they are listened to
        self._limit = limit
        self._in_hand = 0
        self._lock = threading.Lock()
        self._consumer: Any = None

    def received(self, sender: Any, request: Any, **_: Any) -> None:
        """A message was taken; when the hands are full, stop listening to the bulk queues."""
        if request.delivery_info.get("routing_key") not in self._queues:
            return
        self._consumer = sender
        with self._lock:
            self._in_hand += 1
            full = self._in_hand >= self._limit
        if full:
            for queue in self._queues:
                sender.cancel_task_queue(queue)

    def done(self, routing_key: str) -> None:
        """A message was dealt with; listen again when a hand came free."""
        if routing_key not in self._queues:
            return
        with self._lock:
            self._in_hand -= 1
        self._consumer.call_soon(self._listen)

    def _listen(self) -> None:
        with self._lock:
            if self._in_hand >= self._limit:
                return
        for queue in self._queues:
            self._consumer.add_task_queue(queue)
