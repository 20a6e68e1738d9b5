"""`rerank worker`: one process per GPU, pinned before anything loads CUDA, or one CPU process.

Restarts a process with back-off when it dies; on SIGTERM the processes drain. Never loads CUDA
itself: devices are counted from the environment and from nvidia-smi.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import Settings


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def device_groups(device: str, gpus: Sequence[str], gpus_per_worker: int) -> list[list[str]]:
    """The GPUs of each process; [[]] is one CPU process.

    Raises UsageError when CUDA is requested and there are too few GPUs.
    """
    if device == "cpu" or (device == "auto" and not gpus):
        return [[]]
    if len(gpus) < gpus_per_worker:
        raise UsageError(
            f"{len(gpus)} GPUs are visible, {gpus_per_worker} are needed for one worker",
            hint="check nvidia-smi and CUDA_VISIBLE_DEVICES, or use RERANK_DEVICE=cpu",
        )
    last = len(gpus) - gpus_per_worker + 1
    return [list(gpus[at : at + gpus_per_worker]) for at in range(0, last, gpus_per_worker)]


def children(settings: Settings, model: str) -> list[Child]:
    """The processes that serve `model` on this host."""
    processes = []
    for group in device_groups(settings.device, visible_gpus(), settings.gpus_per_worker):
        name = f"cuda{'+'.join(group)}" if group else "cpu"
        env = settings.environment() | {"CUDA_VISIBLE_DEVICES": ",".join(group)}
        command = [sys.executable, "-P", "-m", "rerankfleet.workers", "--model", model]
        command += ["--device-name", name]
        # one broken GPU must not stop the others
        child = Child(f"worker {name}", command, env, vital=False, replaces="--replaces")
        processes.append(child)
    return processes


def launch(settings: Settings, model: str) -> None:
    """Serve `model` on every device of this host until a signal arrives."""
    Supervisor(children(settings, model)).run()
