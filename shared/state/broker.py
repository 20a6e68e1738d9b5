"""The lists of Celery's queues: which hints wait in them. They are read here, and forgotten."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rerankfleet.shared.state.connection import Connection


class Broker:
    """The messages that wait in the lists of Celery's queues."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection.redis

    def hint_ids(self, list_keys: Sequence[str]) -> set[str]:
        """The ids of the messages that wait in the broker's lists."""
        pipe = self._redis.pipeline(transaction=False)
        for key in list_keys:
            pipe.lrange(key, 0, -1)
        return {_hint_id(message) for waiting in pipe.execute() for message in waiting}

    def forget(self, list_keys: Sequence[str]) -> None:
        """Remove the broker's lists with all their messages."""
        self._redis.delete(*list_keys)

    def hint_positions(self, list_key: str) -> tuple[int, dict[str, int]]:
        """How many messages wait in a broker's list, and how many of them are taken before the
        first hint of each job."""
        waiting = self._redis.lrange(list_key, 0, -1)  # the next one to be taken is the last
        positions: dict[str, int] = {}
        for position, message in enumerate(reversed(waiting)):
            job_id = _hint_id(message).partition("/")[0]
            positions.setdefault(job_id, position)
        return len(waiting), positions


def _hint_id(message: str | bytes) -> str:
    """The id of a message; empty for what is no hint."""
    try:
        return str(json.loads(message)["headers"]["id"])
    except (ValueError, TypeError, KeyError):
        return ""
