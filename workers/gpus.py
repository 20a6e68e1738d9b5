"""The GPUs that a process may use, without loading CUDA: from the environment, nvidia-smi or /dev.

A process is pinned to its GPUs by CUDA_VISIBLE_DEVICES. GPUs that are cut into parts (MIG) are
named by the parts, since CUDA opens one part per process.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import structlog

from rerankfleet.shared.errors import UsageError

SMI_TIMEOUT_S = 20
_DEV = Path("/dev")
_GPU = re.compile(r"^GPU (\d+):")
_PART = re.compile(r"^\s+MIG .*\(UUID: (MIG-[^)]+)\)")
_CHOOSE = "name the GPUs in CUDA_VISIBLE_DEVICES, or set RERANK_DEVICE=cpu"

log = structlog.get_logger()


def visible_gpus() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them: by number, or by the UUID of a card or part.

    Raises UsageError where they cannot be known: a worker must not fall back to the CPU in silence.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _listed() if chosen is None else _chosen(chosen)


def are_chosen() -> bool:
    """Whether whoever started this process chose its GPUs."""
    return "CUDA_VISIBLE_DEVICES" in os.environ


def is_part(gpu: str) -> bool:
    """Whether this names a part of a GPU (MIG)."""
    return gpu.startswith("MIG-")


def short_names(gpus: Sequence[str]) -> list[str]:
    """Names for people: UUIDs by their start, where that tells them apart."""
    names = [gpu[:12] for gpu in gpus]
    return names if len(set(names)) == len(names) else list(gpus)


def _chosen(names: str) -> list[str]:
    """CUDA reads the list up to the first name that is none."""
    gpus: list[str] = []
    for name in map(str.strip, names.split(",")):
        if not re.fullmatch(r"\d+|GPU-\S+|MIG-\S+", name):
            break
        if name in gpus:
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES names {name} twice", hint="one worker runs on each GPU"
            )
        gpus.append(name)
    return gpus


def _listed() -> list[str]:
    try:
        run = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=SMI_TIMEOUT_S
        )
    except OSError:
        if there := _devices():
            log.warning("nvidia-smi is not there; GPUs are counted from /dev", gpus=there)
        return there
    except subprocess.TimeoutExpired as error:
        raise UsageError(
            f"nvidia-smi did not answer within {SMI_TIMEOUT_S} s: a GPU or its driver hangs",
            hint=f"look at the kernel's log; then {_CHOOSE}",
        ) from error
    if run.returncode == 0:
        return _read(run.stdout)
    said = " ".join((run.stdout + run.stderr).split())[:200]
    if _devices():
        raise UsageError(f"nvidia-smi fails ({said})", hint=f"mend the driver; or {_CHOOSE}")
    log.warning("no GPU is used: nvidia-smi fails", said=said)
    return []


def _read(listing: str) -> list[str]:
    """The GPUs of `nvidia-smi -L`; for one that is cut into parts, these."""
    gpus: list[str] = []
    parts: list[str] = []
    for line in [*listing.splitlines(), "GPU 0: the end"]:
        if card := _GPU.match(line):
            if parts:
                gpus[-1:] = parts
            gpus.append(card[1])
            parts = []
        elif part := _PART.match(line):
            parts.append(part[1])
    return gpus[:-1]


def _devices() -> list[str]:
    """The numbers of the device files, counted: in a container they may start anywhere."""
    files = [path for path in _DEV.glob("nvidia[0-9]*") if path.name[6:].isdigit()]
    return [str(number) for number in range(len(files))]
