"""The coordinator: the CPU-only Celery processes that feed, finish, monitor and reconcile.

Two children, so that ticks never wait for a long finish: this module with feed and finish, and the
monitor. Any number of coordinators may run. The child alone:

    python -m rerankfleet.producer.coordinator.process
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.finish import finish
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.cli import configure_logs
from rerankfleet.shared.errors import RerankError
from rerankfleet.shared.outages import as_outage
from rerankfleet.shared.processes import Child
from rerankfleet.shared.queue import CONTROL_QUEUE, FEED, FINISH, Hints, make_app, serve
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.state.connection import REDIS_ERRORS, connect
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

STEPS_AT_ONCE = 4
"""Jobs that are fed or finished at once by one coordinator."""

log = structlog.get_logger()

_jobs_in_hand: set[str] = set()
_lock = threading.Lock()

Step = Callable[[str, Control], None]


def children(settings: Settings) -> list[Child]:
    """The processes of one coordinator."""
    env = settings.environment()
    python = (sys.executable, "-P", "-m")  # -P: the working folder shadows no module
    return [
        Child("coordinator", [*python, __name__], env),
        Child("monitor", [*python, "rerankfleet.workers.monitor"], env),
    ]


def main() -> int:
    """Entry point of the child that feeds and finishes."""
    settings = load_settings()
    configure_logs(settings.log_level)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    store = Store(connect(settings), settings)
    app = make_app(settings)
    objects = Objects(settings, inline=store.inline.get)
    control = Control(store, objects, Hints(app), settings)
    app.task(name=FEED)(_task(feed, control))
    app.task(name=FINISH)(_task(finish, control))
    name = f"coordinator-{os.getpid()}@{socket.gethostname()}"
    return serve(app, name=name, queues=[CONTROL_QUEUE], concurrency=STEPS_AT_ONCE)


@contextmanager
def _in_hand(job_id: str) -> Iterator[bool]:
    """Yields whether this process has no step of the job in hand yet: whatever became of its lease,
    one job takes one of the threads. A hint that comes meanwhile is dropped, as while it is leased
    elsewhere: the step that runs sends the next one, or the monitor does."""
    with _lock:
        free = job_id not in _jobs_in_hand
        _jobs_in_hand.add(job_id)
    try:
        yield free
    finally:
        if free:
            with _lock:
                _jobs_in_hand.discard(job_id)


def _task(step: Step, control: Control) -> Callable[[str], None]:
    """A step as a task that never fails: the monitor hints it again, or the job is paused."""

    def run(job_id: str) -> None:
        try:
            with _in_hand(job_id) as free:
                if free:
                    step(job_id, control)
        except (RerankError, *REDIS_ERRORS) as error:
            log.warning("a step failed", job=job_id, step=step.__name__, error=str(error))
        except Exception as error:
            if as_outage(error):
                log.warning("a step failed", job=job_id, step=step.__name__, error=str(error))
                return
            log.exception("internal error in a step", job=job_id, step=step.__name__)
            reason = f"internal error in {step.__name__}: {type(error).__name__}: {error}"
            with suppress(RerankError, *REDIS_ERRORS):
                control.store.jobs.pause(
                    control.store.jobs.get(job_id),
                    f"{reason}. This is a bug; resume tries again",
                    even_cancelled=True,
                )

    return run


if __name__ == "__main__":
    sys.exit(main())
