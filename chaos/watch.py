"""Looks at the shards of all jobs several times a second: how soon work goes on after a kill, and
how often each shard was begun.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import redis

from rerankfleet.shared.state.keys import Keys

LOOK_S = 0.1
"""The resolution of all times measured here."""


@dataclass(slots=True)
class Kill:
    """A worker that was killed, and what it held."""

    at_s: float
    commits: int
    """How many shards had been committed by then."""
    lost: set[tuple[str, str]] = field(default_factory=set)
    next_commit_s: float | None = None


@dataclass(slots=True)
class Times:
    """Seconds from kills to what followed."""

    next_commit: list[float] = field(default_factory=list)
    """Until anyone's next commit."""
    lost_shard: list[float] = field(default_factory=list)
    """Until a shard that the worker held was committed. Shards whose job somebody paused or
    cancelled meanwhile, and shards that were split, are left out."""


class Watch:
    """Watches from its start until it is closed. `killed` may be called from other threads."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._client, self._keys = client, keys
        self.times = Times()
        self.claims: Counter[int] = Counter()
        """How many shards were begun once, twice, ... as far as was seen."""
        self.memory_max_bytes = 0
        """Of the server."""
        self._tokens: dict[tuple[str, str], set[str]] = {}
        self._holders: dict[tuple[str, str], str] = {}
        self._gone = 0
        self._kills: list[Kill] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def killed(self, pid: int) -> None:
        """A worker was killed just now."""
        with self._lock:
            lost = {s for s, worker in self._holders.items() if worker.endswith(f":{pid}")}
            self._kills.append(Kill(time.monotonic(), self._gone, lost))

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        for tokens in self._tokens.values():
            self.claims[len(tokens)] += 1

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            with suppress(redis.RedisError):  # it is away: the next look sees what came of it
                self.look()

    def look(self) -> None:
        """Look once."""
        k = self._keys
        unfinished = cast("list[str]", self._client.zrange(k.jobs, 0, -1))
        before = {job_id for job_id, _ in self._holders}
        ids = sorted(before.union(unfinished))  # those that have ended too: were they cancelled?
        pipe = self._client.pipeline(transaction=False)
        for job_id in ids:
            pipe.hgetall(k.job_open(job_id))
            pipe.hmget(k.job(job_id), "paused", "cancel")
        replies = iter(pipe.execute())
        seen: dict[tuple[str, str], str] = {}
        stopped: set[str] = set()
        for job_id, shards, flags in zip(ids, replies, replies, strict=True):
            if any(flags):
                stopped.add(job_id)
            for shard, text in shards.items():
                record = json.loads(text)
                seen[job_id, shard] = record.get("worker") or ""
                if token := record.get("token"):
                    self._tokens.setdefault((job_id, shard), set()).add(token)
        memory = self._client.info("memory")["used_memory"]
        self.memory_max_bytes = max(self.memory_max_bytes, memory)
        with self._lock:
            self._compare(seen, stopped, time.monotonic())

    def _compare(self, seen: dict[tuple[str, str], str], stopped: set[str], now_s: float) -> None:
        gone = self._holders.keys() - seen.keys()
        committed = {shard for shard in gone if shard[0] not in stopped}
        halves = {(job, s.split("-")[0]) for job, s in seen.keys() - self._holders.keys()}
        committed = {(job, s) for job, s in committed if (job, s.split("-")[0]) not in halves}
        for shard in gone:
            self.claims[len(self._tokens.pop(shard, ()))] += 1
        self._gone += len(committed)
        for kill in self._kills:
            if kill.next_commit_s is None and self._gone > kill.commits:
                kill.next_commit_s = now_s - kill.at_s
                self.times.next_commit.append(kill.next_commit_s)
            kill.lost = {shard for shard in kill.lost if shard[0] not in stopped}
            for _ in kill.lost & committed:
                self.times.lost_shard.append(now_s - kill.at_s)
            kill.lost &= seen.keys()
        self._kills = [k for k in self._kills if k.lost or k.next_commit_s is None]
        self._holders = seen
