"""A shard is named by the range of its items in the job's cut order."""

from __future__ import annotations

import re


def shard_name(start: int, end: int) -> str:
    """Name a shard by the range [start, end) of its items."""
    return f"{start}-{end}"


def shard_range(shard: str) -> tuple[int, int]:
    """Inverse of `shard_name`."""
    start, _, end = shard.partition("-")
    return int(start), int(end)


def is_shard(name: str) -> bool:
    """Whether a text can be the name of a shard."""
    return re.fullmatch(r"\d{1,15}-\d{1,15}", name, re.ASCII) is not None
