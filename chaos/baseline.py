"""What may be left in Redis when every job of a run has been forgotten."""

from __future__ import annotations

import time
from typing import cast

import redis

PERMANENT = frozenset({"models", "workers", "pulse", "amnesty"})
"""Keys that never expire and do not grow with jobs."""
EXPIRING = frozenset({"worker", "served", "leader", "seen", "stats", "profile"})
"""Kinds of keys that are of the fleet, not of a job, and expire by themselves."""
SWEEP = "sweep"
UNREAD = ("celery:unacked", "celery:unacked_index", "celery:unacked_mutex")
"""Hints that a worker took and died with: the transport lists them again a little later."""
UNREAD_MAX_S = 600.0
BINDINGS = "celery:_kombu.binding"


def left_in_redis(client: redis.Redis, prefix: str, *, expiring: bool = False) -> list[str]:
    """The keys under a prefix that should be gone; with `expiring`, those that will never go."""
    return sorted(
        name
        for key in client.scan_iter(match=f"{prefix}:*", count=1000)
        if not _may_stay(client, key, name := key.removeprefix(f"{prefix}:"))
        and not (expiring and client.ttl(key) != -1)
    )


def _may_stay(client: redis.Redis, key: str, name: str) -> bool:
    if name.startswith(BINDINGS) or name in PERMANENT:
        return True
    if name in UNREAD:
        index = key.replace(name, UNREAD[1])
        oldest = cast("list[tuple[str, float]]", client.zrange(index, 0, 0, withscores=True))
        return not oldest or time.time() - oldest[0][1] < UNREAD_MAX_S
    return name.partition(":")[0] in EXPIRING and client.ttl(key) != -1


def hurry_sweep(client: redis.Redis, prefix: str) -> None:
    """Let the monitor remove now what it would remove later: the files of finished jobs, and those
    of submissions that were cut off, which it keeps for a day."""
    key = f"{prefix}:{SWEEP}"
    if waiting := cast("list[str]", client.zrange(key, 0, -1)):
        client.zadd(key, dict.fromkeys(waiting, 0), xx=True)
