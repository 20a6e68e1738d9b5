"""Workers by the fork, so that hundreds of them can die in an hour on a small machine:

    python -m rerankfleet.chaos.nursery --model M --workers 3

Loading torch and a model, and its self-test, take seconds of a core; here that is done once, and
each worker is a fork of this process, from then on the same process as any other worker. One that
ends is replaced at once. SIGTERM drains all of them.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
from typing import Any, NoReturn

from rerankfleet.shared.settings import load_settings
from rerankfleet.shared.shown import tell
from rerankfleet.workers import runtime
from rerankfleet.workers.__main__ import main as work
from rerankfleet.workers.engine import load_engine

_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Entry point: keep the workers until a signal ends them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--workers", type=int, required=True)
    options = parser.parse_args()
    _load(options.model)
    if threading.active_count() > 1:
        raise RuntimeError(f"a fork would lose threads: {threading.enumerate()}")
    return _keep(options.model, options.workers)


def _load(model: str) -> None:
    """Load a model, and have every worker find it loaded and tested. On the CPU and with one
    thread: a fork has neither the device nor the threads of its parent."""
    engine = load_engine(model, **load_settings(device="cpu", threads=1).engine_options)
    tested = engine.self_test()
    loaded: Any = engine
    loaded.self_test = lambda: tested
    of_workers: Any = runtime
    of_workers.load_engine = lambda model, **options: engine


def _keep(model: str, count: int) -> int:
    draining = False

    def drain(*_: object) -> None:
        nonlocal draining
        draining = True
        for pid in workers:
            os.kill(pid, signal.SIGTERM)

    workers: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, drain)
    while workers or not draining:
        while len(workers) < count and not draining:
            workers.add(_fork(model))
        pid, status = os.wait()
        workers.discard(pid)
        tell(f"worker {pid} ended with {os.waitstatus_to_exitcode(status)}")
    return 0


def _fork(model: str) -> int:
    """A new worker's pid. In the worker it does not return."""
    nursery = os.getpid()
    # no signal between the fork and the handlers of the child: it would run the parent's
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if pid := os.fork():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
        return pid
    _work(model, nursery)


def _work(model: str, nursery: int) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:
        os._exit(1)
    try:
        status = work(["--model", model])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
