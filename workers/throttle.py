"""Which queues a worker listens to: to none of a kind while it holds as many as it may.

So an interactive hint is taken at once while bulk fills its own hands, neither can take all
threads, and a hint that is not taken waits where an idle worker can see it. Runs in the consumer's
event loop: a queue is left before the next message is read.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any


class ConsumerThrottle:
    """Counts messages of one kind in hand. `received` handles Celery's task_received signal.

    `queues` are those of the kind, `behind` the less urgent ones, in the order of listening: after
    the kind's queues were left, those behind are taken up again too, since order is urgency.
    """

    def __init__(self, queues: Sequence[str], limit: int, *, behind: Sequence[str] = ()) -> None:
        self._queues = tuple(queues)
        self._behind = tuple(behind)
        self._limit = limit
        self._in_hand = 0
        self._lock = threading.Lock()
        self._consumer: Any = None

    def received(self, sender: Any, request: Any, **_: Any) -> None:
        """A message was taken; when the hands are full, stop listening."""
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
        book = self._consumer.app.amqp.queues  # what a new connection listens to
        left = [queue for queue in self._queues if queue not in book.consume_from]
        behind = [queue for queue in self._behind if left and queue in book.consume_from]
        again = [*self._queues, *behind]
        try:
            for queue in behind:
                self._consumer.cancel_task_queue(queue)
        finally:  # before anything else can fail: a queue that is not in the book is forgotten
            for queue in again:
                book.select_add(book[queue])
        for queue in again:
            self._consumer.add_task_queue(queue)
