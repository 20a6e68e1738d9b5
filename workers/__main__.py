"""Entry point of one worker process:  python -m rerankfleet.workers --model M

Started by the launcher, one per device. Exit status 78: a restart would not help.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import structlog
from celery import signals

from rerankfleet.shared.cli import configure_logs
from rerankfleet.shared.errors import ModelRefused, RerankError, UsageError
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.processes import REFUSED
from rerankfleet.shared.queue import SCORE_SHARD, model_queue, model_queues, serve
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.shown import tell
from rerankfleet.workers.runtime import Runtime
from rerankfleet.workers.tasks import score_shard
from rerankfleet.workers.throttle import ConsumerThrottle

log = structlog.get_logger()


def work(settings: Settings, model: str, device: str, replaces: int | None = None) -> int:
    """Serve a model until a signal arrives. Returns the exit status."""
    runtime = Runtime(settings, model, device, replaces)
    quick = [model_queue(runtime.model, Priority.interactive)]
    bulk = [model_queue(runtime.model, p) for p in (Priority.normal, Priority.bulk)]
    throttles = [
        ConsumerThrottle(quick, settings.interactive_slots, behind=bulk),
        ConsumerThrottle(bulk, settings.shards_in_hand),
    ]
    for throttle in throttles:
        signals.task_received.connect(throttle.received, weak=False)
    signals.worker_shutting_down.connect(lambda **_: runtime.drain(), weak=False)

    @runtime.app.task(name=SCORE_SHARD, bind=True)  # type: ignore[untyped-decorator]
    def _score_shard(self: Any, job_id: str, shard: str) -> None:
        try:
            score_shard(runtime, job_id, shard)
        except Exception:
            log.exception("internal error", job=job_id, shard=shard)
        finally:
            for throttle in throttles:
                throttle.done(self.request.delivery_info["routing_key"])

    try:
        return serve(
            runtime.app,
            name=f"worker-{os.getpid()}@{socket.gethostname()}",
            queues=model_queues(runtime.model),
            concurrency=settings.shards_in_hand + settings.interactive_slots,
        )
    finally:
        runtime.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--device-name", default="cpu", help="the device's name in the fleet")
    parser.add_argument("--replaces", type=int, help="id of a process on this host that is gone")
    options = parser.parse_args(arguments)
    settings = load_settings()
    configure_logs(settings.log_level)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    faulthandler.enable()
    try:
        return work(settings, options.model, options.device_name, options.replaces)
    except (ModelRefused, UsageError) as error:
        tell(f"rerank worker: {error}")
        return REFUSED
    except RerankError as error:
        tell(f"rerank worker: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
