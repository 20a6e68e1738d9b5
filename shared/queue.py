"""The Celery app, the names of tasks and queues, and how hints are published.

A message is only a hint that something waits. Losing, doubling or reordering it is harmless, since
the records in Redis are the source of truth. So: early acknowledgement, no results, JSON only.
The only file that names tasks and queues.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import structlog
from celery import Celery
from celery.exceptions import SecurityWarning
from kombu import Queue  # type: ignore[attr-defined]

from rerankfleet.shared.content.ranges import is_shard
from rerankfleet.shared.ids import is_id
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.redis_url import TIMEOUTS, read_redis_url
from rerankfleet.shared.settings import Settings

SCORE_SHARD = "rerank.score_shard"
FEED = "rerank.feed"
FINISH = "rerank.finish"
TICK = "rerank.tick"

HINT_TRANSPORT = "rerankfleet.shared.hint_transport:Transport"

FIRST = 9
"""The priority of a message that is taken before those that wait in its queue already."""

CONTROL_QUEUE = "control"
"""Feed and finish steps."""
MONITOR_QUEUE = "monitor"
"""Ticks: in a queue of their own, so that they never wait for steps."""

UNREAD_S = 60
"""Hints that a worker had taken off the list and died with are listed again after this time and up
to 100 s more. Nobody waits for them, since the monitor sends new ones; but until then the transport
keeps them."""

log = structlog.get_logger()


def make_app(settings: Settings) -> Celery:
    """The Celery app over the broker that the settings name."""
    address = read_redis_url(settings.redis_address)
    app = Celery("rerankfleet", broker=address.for_hints, set_as_current=False)
    app.conf.update(
        broker_transport=HINT_TRANSPORT,
        broker_use_ssl=address.tls,
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,  # a hint is disposable: a shard that is not committed comes back
        task_create_missing_queues=True,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0.2},
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_soft_shutdown_timeout=0,
        broker_channel_error_retry=True,  # a full or read-only Redis passes: it ends no worker
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "global_keyprefix": f"{settings.key_prefix}:celery:",
            "queue_order_strategy": "priority",
            "priority_steps": [0],  # priorities are queues of their own
            "polling_interval": 0.25,  # how soon a resumed queue is read
            "visibility_timeout": UNREAD_S,
            **TIMEOUTS,
            "max_retries": 2,
            "interval_max": 0.5,
        },
    )
    return app


def serve(app: Celery, *, name: str, queues: Sequence[str], concurrency: int) -> int:
    """Work on these queues with threads until a signal ends it. Returns the exit status.

    SIGTERM is a warm shutdown: running tasks end, no new one begins.
    """
    app.conf.task_queues = as_queues(queues)
    # Celery warns about root because of pickle, which this app refuses
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=name,
        pool="threads",
        concurrency=concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


def model_queue(model: str, priority: Priority) -> str:
    """The queue of a model's hints at one priority."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-")[-40:]
    digest = hashlib.sha256(model.encode()).hexdigest()[:8]
    return f"model.{slug}.{digest}.{priority.value}"


def model_queues(model: str) -> list[str]:
    """A model's queues, the most urgent first: the order in which they are read."""
    return [model_queue(model, priority) for priority in Priority]


def as_queues(names: Iterable[str]) -> list[Queue]:
    """Queue declarations for a worker."""
    return [Queue(name, routing_key=name) for name in names]  # type: ignore[no-untyped-call]


def broker_keys(settings: Settings, queues: Iterable[str]) -> list[str]:
    """The Redis lists in which these queues' messages wait."""
    return [f"{settings.key_prefix}:celery:{name}" for name in queues]


def hint_id(job_id: str, shard: str) -> str:
    """The message id of a shard's hint, by which the monitor finds it in the broker's list."""
    return f"{job_id}/{shard}"


def is_hint(task: object, arguments: object) -> bool:
    """Whether a message can be one of `Hints`: anyone may have written it."""
    match arguments:
        case []:
            return task == TICK
        case [str(job_id)]:
            return task in (FEED, FINISH) and is_id(job_id)
        case [str(job_id), str(shard)]:
            return task == SCORE_SHARD and is_id(job_id) and is_shard(shard)
    return False


class Hints:
    """Publishes hints. A hint that cannot be sent is only logged: the monitor sends it again."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def shard(
        self, model: str, priority: Priority, job_id: str, shard: str, *, first: bool = False
    ) -> None:
        """A shard waits to be scored, `first`: before all that waits at its priority, since it has
        waited before."""
        queue, id_ = model_queue(model, priority), hint_id(job_id, shard)
        self._send(SCORE_SHARD, [job_id, shard], queue, task_id=id_, priority=FIRST * first)

    def feed(self, job_id: str) -> None:
        """A job's window has room."""
        self._send(FEED, [job_id], CONTROL_QUEUE)

    def finish(self, job_id: str) -> None:
        """A job's last shard was committed."""
        self._send(FINISH, [job_id], CONTROL_QUEUE)

    def tick(self, expires_s: float) -> None:
        """The monitor is due to look at all jobs."""
        self._send(TICK, [], MONITOR_QUEUE, expires=expires_s)

    def _send(self, task: str, args: list[str], queue: str, **options: Any) -> None:
        try:
            self._app.send_task(task, args=args, queue=queue, retry=True, **options)
        except Exception as error:
            # a hint is disposable, whatever is raised: also an AttributeError, since kombu uses a
            # channel that it closed after another error
            log.warning(
                "hint not sent", task=task, args=args, error=f"{type(error).__name__}: {error}"
            )
