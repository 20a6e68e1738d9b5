"""Celery's Redis transport, except that a message which is no hint costs itself only.

Anyone who may write to the broker's lists may put anything there, and the original would end the
consumer, and so the worker with all that it holds; or it would count a message that is never
carried out. So of each message only its meaning is read, and Celery gets one made of that.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis as original

from rerankfleet.shared.queue import is_hint

log = structlog.get_logger()


class Channel(original.Channel):
    """Reads hints, and drops what is none; sends those that are to be taken first to the head."""

    def _put(self, queue: str, message: Mapping[str, Any], **options: Any) -> None:
        if not message["properties"].get("priority"):
            super()._put(queue, message, **options)  # type: ignore[no-untyped-call]
            return
        with self.conn_or_acquire() as client:
            key = self._q_for_pri(queue, 0)  # type: ignore[no-untyped-call]
            client.rpush(key, json.dumps(message))

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, *self.connection_errors, *self.connection.channel_errors):
            raise
        except Exception as error:  # no JSON, or too deep; it is taken off the list already
            log.warning("what is no hint was dropped", error=repr(error))
            raise Empty from error


class Transport(original.Transport):
    """The transport of all hints."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        try:
            hint = _hint(message, queue)
        except Exception as error:  # whatever a value of another shape raises
            log.warning("what is no hint was dropped", queue=queue, error=repr(error))
            return
        super()._deliver(hint, queue)  # type: ignore[no-untyped-call]


def _hint(message: Mapping[str, Any], queue: str) -> dict[str, Any]:
    """The message that the hint in another one makes. Raises for what is none."""
    headers = message["headers"]
    task, task_id, expires = headers["task"], headers["id"], headers.get("expires")
    arguments = json.loads(base64.b64decode(message["body"], validate=True))[0]
    if not (isinstance(task_id, str) and is_hint(task, arguments)):
        raise ValueError(f"{task!r} with {arguments!r} is not a task")
    if expires is not None:
        datetime.fromisoformat(expires)
    nothing = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    body = json.dumps([arguments, {}, nothing]).encode()
    return {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": task,
            "id": task_id,
            "root_id": task_id,
            "expires": expires,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": repr(arguments),
            "kwargsrepr": "{}",
        },
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid.uuid4().hex,
        },
    }
