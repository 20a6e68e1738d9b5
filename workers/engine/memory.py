"""Free and used memory: of the device, or of a CPU process within its container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_STATM = Path("/proc/self/statm")


#: The caches at least, and the shares of a GPU's memory that they may take.
KEPT_BYTES, KEPT_SHARE = 256 << 20, 0.02
SEEN_BYTES, SEEN_SHARE = 512 << 20, 0.03
#: Tokens of the largest image query: 1,800 of its image, and as much text as people write.
IMAGE_QUERY_TOKENS = 1_800 + 512
#: What caches may take of the memory that the weights leave.
_CACHES_SHARE = 0.25


class Kept(Protocol):
    """What keeps states on some devices."""

    devices: tuple[torch.device, ...]

    @property
    def state_bytes_per_token(self) -> int:
        """Memory of the keys and values of a kept token."""


def cache_bytes(decoder: Kept, *, supports_images: bool) -> tuple[int, int]:
    """How much the caches of prefixes and of visual features may hold, by what the weights left: at
    least two of the largest image queries, so that two in turn are not computed again."""
    kept, seen = KEPT_BYTES, SEEN_BYTES
    if supports_images:
        kept = max(kept, 2 * IMAGE_QUERY_TOKENS * decoder.state_bytes_per_token)
    if decoder.devices[0].type != "cuda":
        return kept, seen
    total = total_bytes(decoder.devices)
    free = min(torch.cuda.mem_get_info(device)[0] for device in decoder.devices)
    kept, seen = max(kept, int(KEPT_SHARE * total)), max(seen, int(SEEN_SHARE * total))
    fits = min(1.0, _CACHES_SHARE * free / (kept + seen))
    return int(kept * fits), int(seen * fits)


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of the device; on a CPU also of the container, where the kernel would kill us.

    None when unknown.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    known = [free for free in (_of_system(), _of_container()) if free is not None]
    return min(known, default=None)


def peak_bytes(devices: Sequence[torch.device]) -> int:
    """Peak memory since the last call, on the device that used most; on a CPU the resident memory
    of the process. 0 when unknown."""
    if devices[0].type == "cuda":
        peaks = [torch.cuda.max_memory_allocated(device) for device in devices]
        for device in devices:
            torch.cuda.reset_peak_memory_stats(device)
        return max(peaks)
    try:
        resident_pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def total_bytes(devices: Sequence[torch.device]) -> int:
    """Memory of the smallest device that this process may use, including what it uses already; 0 on
    a CPU, where the resident memory says little about a pass."""
    if devices[0].type != "cuda":
        return 0
    return min(torch.cuda.mem_get_info(d)[0] + torch.cuda.memory_reserved(d) for d in devices)


def gpu_bytes(devices: Sequence[torch.device]) -> dict[str, int]:
    """Memory of the GPU with the least free: `used` by this process's tensors, `reserved` by it,
    `free` and `total` over all processes. Empty on a CPU."""
    if devices[0].type != "cuda":
        return {}
    free, total, fullest = min((*torch.cuda.mem_get_info(d), n) for n, d in enumerate(devices))
    return {
        "used": torch.cuda.memory_allocated(devices[fullest]),
        "reserved": torch.cuda.memory_reserved(devices[fullest]),
        "free": free,
        "total": total,
    }


def _of_system() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    available = fields.get("MemAvailable", "").split()
    return int(available[0]) * 1024 if available else None


def _of_container() -> int | None:
    """cgroup v2: its limit minus the memory in use that cannot be reclaimed."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        stat = (_CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cached = next((int(line.split()[1]) for line in stat if line.startswith("inactive_file ")), 0)
    return max(0, int(limit) - used + cached)
