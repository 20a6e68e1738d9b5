"""Messages of the broker: a damaged one costs itself, and the next good one is carried out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerankfleet.shared.queue import FEED, FINISH, SCORE_SHARD, TICK, broker_keys, is_hint
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.store import Store
from tests.support.mutations import Mutations, case, cases
from tests.support.records import hints_waiting
from tests.support.wait import patient, wait_until

QUEUE = "model.fuzz"
CALLS = "fuzz:calls"
MESSAGES_AT_ONCE = 50

CONSUMER = f"""
import json, redis
from rerankfleet.shared.queue import FEED, FINISH, SCORE_SHARD, TICK, make_app, serve
from rerankfleet.shared.settings import load_settings

settings = load_settings()
app, calls = make_app(settings), redis.Redis.from_url(settings.redis_address)

def called(task, *arguments):
    calls.rpush({CALLS!r}, json.dumps([task.name, arguments]))

for name in (FEED, FINISH, SCORE_SHARD, TICK):
    app.task(called, name=name, bind=True)
serve(app, name="fuzz", queues=[{QUEUE!r}], concurrency=2)
"""
"""A real consumer whose tasks write down what they are called with."""


@contextmanager
def consumer(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the consumer in a process of its own."""
    with (folder / "consumer.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", CONSUMER],
            env=os.environ | settings.environment(),
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(patient(30))


def message(task: str, arguments: list[Any], task_id: str, expires: str | None = None) -> Any:
    """A message as Celery writes it, with its body as a value."""
    return {
        "body": [arguments, {}, {"callbacks": None, "errbacks": None, "chain": None}],
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": task_id, "expires": expires, "retries": 0},
        "properties": {
            "correlation_id": task_id,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "delivery_tag": "t",
            "body_encoding": "base64",
        },
    }


MESSAGES = [
    message(SCORE_SHARD, ["j", "0-5"], "j/0-5"),
    message(FEED, ["j"], "f"),
    message(FINISH, ["j"], "g"),
    message(TICK, [], "t", expires="2026-01-01T00:00:00.000000+00:00"),
    message(TICK, [], "t", expires="2099-01-01T00:00:00+00:00"),
]


def packed(value: Any) -> bytes:
    """A message as it stands in the list, its body encoded where there is one."""
    if isinstance(value, dict) and "body" in value:
        body = json.dumps(value["body"]).encode("utf-8", "surrogatepass")
        value = {**value, "body": base64.b64encode(body).decode()}
    return json.dumps(value).encode("utf-8", "surrogatepass")


def changed(mutations: Mutations) -> bytes:
    """A message that was changed inside of its body, around it, or as bytes."""
    example = mutations.pick(MESSAGES)
    kind = mutations.random.random()
    if kind < 0.2:
        return mutations.of_bytes(packed(example))
    if kind < 0.5:
        return packed({**example, "headers": mutations.of_value(example["headers"], 2)})
    if kind < 0.7:
        return packed({**example, "body": mutations.of_value(example["body"], 2)})
    return packed(mutations.of_value(example))


def test_a_damaged_message_costs_itself_only(settings, store: Store, tmp_path):
    (waiting,) = broker_keys(settings, [QUEUE])
    with consumer(settings, tmp_path) as process:
        batch: list[bytes] = []
        good = 0
        for mutations in cases("messages", 300):
            batch.append(changed(mutations))
            if len(batch) < MESSAGES_AT_ONCE:
                continue
            # given damaged messages, and a good one behind them
            good += 1
            wanted = json.dumps([SCORE_SHARD, [f"good{good}", "0-1"]]).encode()
            last = packed(message(SCORE_SHARD, [f"good{good}", "0-1"], f"good{good}/0-1"))
            with case(mutations, batch):
                store.client.lpush(waiting, *batch, last)
                # when they were read, then the good one was carried out, by the same process
                wait_until(
                    lambda w=wanted: (
                        process.poll() is not None
                        or w.decode() in store.client.lrange(CALLS, 0, -1)
                    ),
                    30,
                    "the good message is carried out",
                )
                assert process.poll() is None, (tmp_path / "consumer.log").read_text()[-3000:]
                assert not hints_waiting(store, [waiting])
                # and whatever else was carried out is a hint
                for call in store.client.lrange(CALLS, 0, -1):
                    task, arguments = json.loads(call)
                    assert is_hint(task, arguments)
            batch = []
    store.client.delete(CALLS)
    assert good >= 6
