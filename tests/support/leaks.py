"""What may remain in Redis after a test: no key that would be kept forever."""

from __future__ import annotations

import redis

PERMANENT = frozenset({"jobs", "recent", "sweep", "models", "workers", "pulse", "amnesty"})
"""The keys without a TTL that remain when no job is unfinished (shared/state/keys.py)."""


def leaked_keys(client: redis.Redis, prefix: str) -> list[str]:
    """The keys without a TTL that are neither permanent nor an unfinished job's."""
    unfinished = set(client.zrange(f"{prefix}:jobs", 0, -1))
    return sorted(
        key
        for key in client.scan_iter(count=1000)
        if client.ttl(key) == -1 and not _may_stay(client, prefix, key, unfinished)
    )


def _may_stay(client: redis.Redis, prefix: str, key: str, unfinished: set[str]) -> bool:
    if not key.startswith(f"{prefix}:"):
        return False
    kind, _, rest = key.removeprefix(f"{prefix}:").partition(":")
    if kind == "celery":  # unread messages, and names of queues
        return True
    if kind == "job":
        return rest.partition(":")[0] in unfinished
    if kind == "stored":  # what finished jobs and uploads keep
        return True
    if kind == "open":
        jobs = {member.rsplit("/", 1)[0] for member in client.zrange(key, 0, -1)}
        return jobs <= unfinished
    if kind == "key":
        return client.get(key).split(" ")[1] in unfinished
    if kind == "recent":  # and those of an owner
        return True
    return not rest and kind in PERMANENT
