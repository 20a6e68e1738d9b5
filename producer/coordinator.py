"""The coordinator: the CPU-only Celery processes that feed, finish, monitor and reconcile.

Two children, so that ticks never wait for a long finish: this module with feed and finish, and the
monitor. Any number of coordinators may run.  The child alone:  python -m producer.coordinator
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import structlog

from producer.feeder import Control, feed
from producer.finisher import finish
from shared.cli import configure_logs
from shared.errors import RerankError
from shared.fleet import Fleet
from shared.objects import Objects
from shared.processes import Child
from shared.queue import CONTROL_QUEUE, FEED, FINISH, Hints, make_app, serve
from shared.settings import Settings, load_settings
from shared.store import REDIS_ERRORS, Store, connect

STEPS_AT_ONCE = 4
"""Jobs that are fed or finished at once by one coordinator."""

log = structlog.get_logger()


def children(settings: Settings) -> list[Child]:
    """The processes of one coordinator."""
    env = settings.environment()
    return [
        Child("coordinator", [sys.executable, "-m", "producer.coordinator"], env),
        Child("monitor", [sys.executable, "-m", "workers.monitor"], env),
    ]


def main() -> int:
    """Entry point of the child that feeds and finishes."""
    settings = load_settings()
    configure_logs(settings.log_level)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    redis = connect(settings)
    store = Store(redis, settings)
    app = make_app(settings)
    objects = Objects(settings, inline=store.get_inline)
    control = Control(store, Fleet(redis, settings), objects, Hints(app), settings)

    def step(act: Callable[[str, Control], None]) -> Callable[[str], None]:
        def run(job_id: str) -> None:
            try:
                act(job_id, control)
            except (RerankError, *REDIS_ERRORS) as error:
                log.warning("a step failed", job=job_id, step=act.__name__, error=str(error))
            except Exception as error:
                log.exception("a step failed unforeseen", job=job_id, step=act.__name__)
                reason = f"{act.__name__} failed unforeseen: {type(error).__name__}: {error}"
                with suppress(RerankError, *REDIS_ERRORS):
                    store.pause(
                        job_id, f"{reason}. This is a bug; resume tries again", even_cancelled=True
                    )

        return run

    app.task(name=FEED)(step(feed))
    app.task(name=FINISH)(step(finish))
    name = f"coordinator-{os.getpid()}@{socket.gethostname()}"
    return serve(app, name=name, queues=[CONTROL_QUEUE], concurrency=STEPS_AT_ONCE)


if __name__ == "__main__":
    sys.exit(main())
