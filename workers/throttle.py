"""Which queues a worker consumes: it leaves those of a kind while all slots of that kind are used.

So an interactive hint is taken at once while bulk work fills its own slots, neither kind can take
all threads, and a hint that is not taken stays in the queue, where an idle worker sees it. Runs in
the consumer's event loop: a queue is left before the next message is read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any


class ConsumerThrottle:
    """Counts the messages of one kind being worked on; `received` handles Celery's task_received.

    `queues` are those of the kind, `behind` the less urgent ones, both in order of consumption.
    When the kind's queues are consumed again, those behind are re-added after them, since the order
    of consumption is the order of urgency.
    """

    def __init__(self, queues: Sequence[str], limit: int, *, behind: Sequence[str] = ()) -> None:
        self._queues = tuple(queues)
        self._behind = tuple(behind)
        self._limit = limit
        self._active = 0
        self._lock = threading.Lock()
        self._consumer: Any = None

    def received(self, sender: Any, request: Any, **_: Any) -> None:
        """A message was taken; when all slots are used, stop consuming."""
        if request.delivery_info.get("routing_key") not in self._queues:
            return
        self._consumer = sender
        with self._lock:
            self._active += 1
            full = self._active >= self._limit
        if full:
            for queue in self._queues:
                sender.cancel_task_queue(queue)

    def done(self, routing_key: str) -> None:
        """A message was processed; consume again, since a slot is free."""
        if routing_key not in self._queues:
            return
        with self._lock:
            self._active -= 1
        self._consumer.call_soon(self._consume)

    def _consume(self) -> None:
        with self._lock:
            if self._active >= self._limit:
                return
        registry = self._consumer.app.amqp.queues  # what a new connection consumes
        left = [queue for queue in self._queues if queue not in registry.consume_from]
        behind = [queue for queue in self._behind if left and queue in registry.consume_from]
        again = [*self._queues, *behind]
        try:
            for queue in behind:
                self._consumer.cancel_task_queue(queue)
        finally:  # before anything else can fail: a queue outside the registry is forgotten
            for queue in again:
                registry.select_add(registry[queue])
        for queue in again:
            self._consumer.add_task_queue(queue)
