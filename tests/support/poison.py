"""What kills processes, and workers that it kills, in the place of a stack's own."""

from __future__ import annotations

import io
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

from tests.support.drawn import drawn
from tests.support.stack import Stack, running_module
from tests.support.wait import wait_until

POISON = "this kills its process"
DEATH = 9
POISON_LOG = "POISON_LOG"
WORKER, DECODER = "a worker died", "a decoder died"
LAUNCHER = "rerankfleet.shared.cli worker"

Deaths = Callable[[], Counter[str]]


def poison_png(seed: int) -> bytes:
    """An image that kills the process that decodes it."""
    info, out = PngInfo(), io.BytesIO()
    info.add_text("Comment", POISON)
    drawn(seed).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def deaths_max(items: int, poison: int) -> int:
    """How many workers a shard costs at most, as docs/fleet.md has it."""
    return min(1 + poison * (2 + math.ceil(math.log2(items))), 3 * items)


@contextmanager
def replaced_workers(
    stack: Stack, folder: Path, script: str, model: str, env: Mapping[str, str]
) -> Iterator[None]:
    """Workers that a script of this folder runs, in the place of the stack's own."""
    stack.kill(LAUNCHER, signal.SIGSTOP)  # it does not restart ...
    for worker in stack.client.workers():
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)  # ... the harmless worker
    wait_until(lambda: not stack.client.workers(), 30, "the harmless worker is forgotten")
    path, root = Path(__file__).with_name(script), Path(__file__).parents[2]
    try:
        command = (str(path), "--model", model)
        with running_module(stack, folder, *command, env={"PYTHONPATH": str(root), **env}):
            wait_until(stack.ready_workers, 90, "another worker is ready")
            yield
    finally:
        stack.kill(LAUNCHER, signal.SIGCONT)
        wait_until(stack.ready_workers, 90, "the harmless worker is back")


@contextmanager
def mortal_workers(stack: Stack, folder: Path, model: str) -> Iterator[Deaths]:
    """Workers that die of poison in the place of the stack's own. Yields who died how often."""
    log = folder / "deaths.log"
    log.touch()
    with replaced_workers(stack, folder, "poison_worker.py", model, {POISON_LOG: str(log)}):
        yield lambda: Counter(log.read_text().splitlines())
