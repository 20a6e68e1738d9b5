"""Supervised child processes: started, restarted with back-off, stopped together.

Used by `rerank up`, `rerank coordinator` and `rerank worker`. Knows nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from rerankfleet.shared.errors import UsageError

RESTART_MIN_S = 0.5
RESTART_MAX_S = 30.0
STEADY_S = 60.0
"""The back-off of a child that ran this long starts again."""
REFUSED = 78
"""Exit status (EX_CONFIG) of a child that a restart would not help."""
HURRY_S = 3.0
"""How long children have to end after a second signal: a worker needs two of it for its leases."""
HOPELESS = (2, REFUSED)
"""Statuses after which a child is not restarted: a usage error would only repeat."""

_PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


def die_with_parent() -> None:
    """Linux: a child whose supervisor is killed gets SIGTERM, so that none is left running."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def spawn(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    log_file: str | None = None,
    umask: int = -1,
    files: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own: Ctrl-C reaches its supervisor alone.

    `umask` decides who may read the files that it makes; -1: as its supervisor's. `files` are open
    files that it inherits under the same numbers.
    """
    out = open(log_file, "ab") if log_file else None
    try:
        return subprocess.Popen(
            list(command),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            start_new_session=True,
            umask=umask,
            pass_fds=files,
            preexec_fn=die_with_parent,  # safe: no thread was started
        )
    finally:
        if out:
            out.close()


class Signals:
    """SIGTERM and SIGINT, once they are heeded: the first asks for the end, a second for haste.

    They are noted only, so that what begins meanwhile is not torn: an exception out of a handler is
    lost in some places.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hurry = threading.Event()

    def heed(self) -> None:
        """Note them from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.note())

    def note(self) -> None:
        """Act as if one came."""
        (self.hurry if self.stop.is_set() else self.stop).set()


@dataclass(slots=True)
class Child:
    """One supervised command."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    log_file: str | None = None
    last: bool = False
    """Stopped after all others: they need it in order to end cleanly."""
    umask: int = -1
    """Who may read the files that it makes; -1: as its supervisor's."""
    files: Sequence[int] = ()
    """Open files that it inherits under the same numbers."""
    replaces: str = ""
    """The option that tells the command the id of the process in whose place it is started."""
    vital: bool = True
    """The others need it: when it cannot run, all are stopped."""
    refused: bool = False
    former_pid: int = 0
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    next_start_s: float = 0.0
    backoff_s: float = RESTART_MIN_S

    def start(self) -> None:
        """Start the command."""
        told = [self.replaces, str(self.former_pid)] if self.replaces and self.former_pid else []
        command = [*self.command, *told]
        self.process = spawn(command, self.env, self.log_file, self.umask, self.files)
        self.started_s = time.monotonic()

    def revive(self) -> None:
        """Start it again when it has ended and its back-off is over, unless its exit status says
        that a restart would not help."""
        now = time.monotonic()
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return
            if status in HOPELESS:
                self.refused = True
                return
            if now - self.started_s > STEADY_S:
                self.backoff_s = RESTART_MIN_S
            log.warning("restarting", child=self.name, status=status, in_s=self.backoff_s)
            self.former_pid, self.process = self.process.pid, None
            self.next_start_s = now + self.backoff_s
            self.backoff_s = min(self.backoff_s * 2, RESTART_MAX_S)
        if now >= self.next_start_s:
            self.start()


class Supervisor:
    """Keeps children running until it is stopped."""

    def __init__(self, children: Sequence[Child], signals: Signals | None = None) -> None:
        self.children = list(children)
        self._signals = signals or Signals()

    def start(self) -> None:
        """Start all children that do not run yet."""
        for child in self.children:
            if child.process is None:
                child.start()

    def watch(self) -> None:
        """Restart children that ended; one turn of the loop. Raises UsageError when a vital child
        cannot run, or none can."""
        for child in self.children:
            child.revive()
        refused = [child for child in self.children if child.refused]
        for child in refused:
            if child.vital or len(refused) == len(self.children):
                raise UsageError(f"{child.name} cannot run", hint="see its message above")

    def run(self) -> None:
        """Start, watch and, on SIGTERM or SIGINT, stop."""
        self._signals.heed()
        self.start()
        try:
            self.wait()
        finally:
            self.stop()

    def wait(self) -> None:
        """Watch the children until SIGTERM or SIGINT, which are heeded already. A second one
        hurries `stop`."""
        while not self._signals.stop.wait(0.2):
            self.watch()

    def stop(self, timeout_s: float = 25.0) -> None:
        """Terminate all children; kill those that do not end in time. After a second signal they
        are terminated again, and have `HURRY_S`; only the last ones keep their time."""
        deadline = time.monotonic() + timeout_s
        for last in (False, True):
            children = [c.process for c in self.children if c.last == last and c.process]
            self._end(children, deadline, may_hurry=not last)

    def _end(
        self, processes: Sequence[subprocess.Popen[bytes]], deadline: float, *, may_hurry: bool
    ) -> None:
        hurried = not may_hurry
        for process in processes:
            process.terminate()
        while alive := [process for process in processes if process.poll() is None]:
            if self._signals.hurry.is_set() and not hurried:
                hurried, deadline = True, min(deadline, time.monotonic() + HURRY_S)
                for process in alive:
                    process.terminate()
            if time.monotonic() >= deadline:
                for process in alive:
                    process.kill()
                    process.wait()
                return
            time.sleep(0.05)
