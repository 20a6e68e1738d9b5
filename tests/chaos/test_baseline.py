"""What counts as left behind in Redis when a run is over."""

from __future__ import annotations

import time

import redis

from rerankfleet.chaos.baseline import hurry_sweep, left_in_redis
from rerankfleet.shared.settings import Settings


def test_what_belongs_to_jobs_is_left_and_what_belongs_to_the_fleet_is_not(
    client: redis.Redis, settings: Settings
) -> None:
    p = settings.key_prefix
    # given the keys of a fleet, and one of somebody else
    client.sadd(f"{p}:models", "m")
    client.set(f"{p}:pulse", 1)
    client.set(f"{p}:worker:w1", 1, ex=60)
    client.set("other:job:1", 1, ex=60)
    client.zadd(f"{p}:celery:unacked_index", {"hint": time.time()})
    assert left_in_redis(client, p) == []
    # when a job, its shards and hints, a heartbeat without an end, or a hint nobody took remain
    client.set(f"{p}:job:1:parts", 1, ex=60)
    client.set(f"{p}:open:m", 1, ex=60)
    client.lpush(f"{p}:celery:control", "hint")
    client.persist(f"{p}:worker:w1")
    client.zadd(f"{p}:celery:unacked_index", {"hint": time.time() - 3600})
    # then each is named
    assert left_in_redis(client, p) == [
        "celery:control",
        "celery:unacked_index",
        "job:1:parts",
        "open:m",
        "worker:w1",
    ]
    # but what expires will go by itself
    kept = ["celery:control", "celery:unacked_index", "worker:w1"]
    assert left_in_redis(client, p, expiring=True) == kept
    client.delete(*client.scan_iter(match=f"{p}:*"))


def test_what_would_be_removed_later_is_due_now(client: redis.Redis, settings: Settings) -> None:
    sweep = f"{settings.key_prefix}:sweep"
    hurry_sweep(client, settings.key_prefix)
    assert not client.exists(sweep)
    client.zadd(sweep, {"job": time.time() * 1000 + 3_600_000})
    hurry_sweep(client, settings.key_prefix)
    assert client.zscore(sweep, "job") == 0
    client.delete(sweep)
