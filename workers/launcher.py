"""`rerank worker`: one process per GPU, pinned before anything loads CUDA, or one CPU process.

Restarts a process with back-off when it dies; on SIGTERM the processes drain. Never loads CUDA
itself: see `gpus.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import structlog

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import Settings
from rerankfleet.workers.gpus import are_chosen, is_part, short_names, visible_gpus

log = structlog.get_logger()


def device_groups(device: str, gpus: Sequence[str], gpus_per_worker: int) -> list[list[str]]:
    """The GPUs of each process; [[]] is one CPU process.

    Raises UsageError when CUDA is requested and there are too few GPUs, or parts of GPUs (MIG),
    which CUDA does not open together.
    """
    if device == "cpu" or (device == "auto" and not gpus):
        return [[]]
    if len(gpus) < gpus_per_worker:
        raise UsageError(
            f"{len(gpus)} GPUs are visible, {gpus_per_worker} are needed for one worker",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or use RERANK_DEVICE=cpu",
        )
    if gpus_per_worker > 1 and any(map(is_part, gpus)):
        raise UsageError(
            "parts of GPUs (MIG) cannot be joined into one worker",
            hint="set RERANK_GPUS_PER_WORKER=1, or switch MIG off",
        )
    last = len(gpus) - gpus_per_worker + 1
    return [list(gpus[at : at + gpus_per_worker]) for at in range(0, last, gpus_per_worker)]


def children(settings: Settings, model: str) -> list[Child]:
    """The processes that serve `model` on this host."""
    gpus = [] if settings.device == "cpu" else visible_gpus()
    if not gpus:
        log.info("no GPU: the worker scores on the CPU", device=settings.device)
    names = dict(zip(gpus, short_names(gpus), strict=True))
    processes = []
    for group in device_groups(settings.device, gpus, settings.gpus_per_worker):
        name = f"cuda{'+'.join(names[gpu] for gpu in group)}" if group else "cpu"
        command = [sys.executable, "-P", "-m", "rerankfleet.workers", "--model", model]
        command += ["--device-name", name]
        env = settings.environment() | _pinned(group)
        # one broken GPU must not stop the others
        child = Child(f"worker {name}", command, env, vital=False, replaces="--replaces")
        processes.append(child)
    return processes


def _pinned(group: Sequence[str]) -> dict[str, str]:
    """The environment of a process that uses these GPUs and no other device: one that cannot use
    them must say so, not score on the CPU."""
    env = {
        "CUDA_VISIBLE_DEVICES": ",".join(group),
        "RERANK_DEVICE": "cuda" if group else "cpu",
    }
    if not are_chosen():  # the numbers are nvidia-smi's
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return env


def launch(settings: Settings, model: str) -> None:
    """Serve `model` on every device of this host until a signal arrives."""
    Supervisor(children(settings, model)).run()
