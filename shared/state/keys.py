"""Every Redis key: how it is built, what it is, how long it lives, who writes and who reads it.

    key                   type    lives                    written by             read by
    {p}:jobs              zset    permanent                client, feeder, commit monitor
    {p}:recent            zset    permanent, trimmed       client                 client
    {p}:sweep             zset    permanent, emptied       feeder (finish)        monitor
    {p}:models            set     permanent, one per model client                 monitor
    {p}:open:{model}      zset    gone when empty          feeder, worker         monitor, worker
    {p}:job:{id}          hash    result_ttl after the end client, feeder, worker all
    {p}:job:{id}:open     hash    gone when empty          feeder, worker         worker, monitor
    {p}:job:{id}:parts    hash    parts_ttl after the end  commit                 feeder (finish)
    {p}:key:{digest}      string  with its job, or answer  client                 client
    {p}:inline:{id}:{name}string  TTL from the beginning   client, worker         worker, client
    {p}:worker:{id}       hash    3 heartbeats             worker                 all
    {p}:worker:{id}:counts string 3 heartbeats             worker                 gateway
    {p}:worker:{id}:packs stream  30 heartbeats, trimmed   worker                 monitor
    {p}:worker:{id}:limit hash    30 heartbeats            monitor                worker, monitor
    {p}:worker:{id}:limits list   30 heartbeats, trimmed   monitor                status
    {p}:workers           zset    permanent, trimmed       worker                 all
    {p}:served:{model}    string  30 days                  worker                 client
    {p}:pulse             string  permanent                monitor                claim
    {p}:amnesty           string  permanent                monitor                claim
    {p}:leader:{role}     string  a few ticks              monitor                monitor
    {p}:seen:{kind}       string  1 h                      monitor, worker        gateway, tests
    {p}:stats             zset    25 h after a commit      commit                 statistics
    {p}:stats:{kind}:{name}:{hour} hash 25 h after a commit commit                statistics
    {p}:profile:{name}    list    90 days after a change   finish                 client

{p} is RERANK_KEY_PREFIX. Celery's own keys stand under {p}:celery: (`shared/queue.py`).
A shard is named {job}/{start}-{end}: the range of its items in the job's cut order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

PERMANENT = frozenset({"jobs", "recent", "sweep", "models", "workers", "pulse", "amnesty"})
"""The keys without a TTL that stay when no job is unfinished. A test proves that no other does."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds the keys under one prefix."""

    prefix: str

    @property
    def jobs(self) -> str:
        """Unfinished jobs by the time, in ms, when to look at them again."""
        return f"{self.prefix}:jobs"

    @property
    def recent(self) -> str:
        """The newest jobs by creation time, finished ones too."""
        return f"{self.prefix}:recent"

    @property
    def sweep(self) -> str:
        """Finished jobs by the time when their files may go."""
        return f"{self.prefix}:sweep"

    @property
    def models(self) -> str:
        """Every model that a job was made for."""
        return f"{self.prefix}:models"

    @property
    def workers(self) -> str:
        """Worker ids by the time of their last heartbeat."""
        return f"{self.prefix}:workers"

    @property
    def pulse(self) -> str:
        """When the monitor last ticked: a gap means an outage, for which nobody is blamed."""
        return f"{self.prefix}:pulse"

    @property
    def amnesty(self) -> str:
        """Leases that expired before this time blame nobody."""
        return f"{self.prefix}:amnesty"

    def open(self, model: str) -> str:
        """The open set of a model: shards by the time when someone must look at them again."""
        return f"{self.prefix}:open:{model}"

    def job(self, job_id: str) -> str:
        """A job's spec, cursor and counts."""
        return f"{self.prefix}:job:{job_id}"

    def job_open(self, job_id: str) -> str:
        """Uncommitted shards of a job: range -> JSON of file, lease and blame."""
        return f"{self.prefix}:job:{job_id}:open"

    def job_parts(self, job_id: str) -> str:
        """Committed shards of a job: start -> "end part"."""
        return f"{self.prefix}:job:{job_id}:parts"

    def job_key(self, key: str) -> str:
        """The user's key of a job -> its id."""
        return f"{self.prefix}:key:{hashlib.sha256(key.encode()).hexdigest()[:32]}"

    def inline(self, job_id: str, name: str) -> str:
        """Payload or result of an interactive request."""
        return f"{self.prefix}:inline:{job_id}:{name}"

    def worker(self, worker_id: str) -> str:
        """A worker's heartbeat."""
        return f"{self.prefix}:worker:{worker_id}"

    def counts(self, worker_id: str) -> str:
        """What a worker counted since it started, for Prometheus."""
        return f"{self.prefix}:worker:{worker_id}:counts"

    def packs(self, worker_id: str) -> str:
        """What a worker observed of its last packs."""
        return f"{self.prefix}:worker:{worker_id}:packs"

    def limit(self, worker_id: str) -> str:
        """A worker's batch limit, why it is so, and what its policy remembers."""
        return f"{self.prefix}:worker:{worker_id}:limit"

    def limits(self, worker_id: str) -> str:
        """A worker's last batch limits, the newest first."""
        return f"{self.prefix}:worker:{worker_id}:limits"

    def served(self, model: str) -> str:
        """Set while a worker served this model lately."""
        return f"{self.prefix}:served:{model}"

    def leader(self, role: str) -> str:
        """Who may act in a role now."""
        return f"{self.prefix}:leader:{role}"

    def seen(self, kind: str) -> str:
        """A counter of disturbances, such as hints sent again: 0 in an undisturbed run."""
        return f"{self.prefix}:seen:{kind}"

    @property
    def stats(self) -> str:
        """Whose statistics there are, each by the hour of its last commit."""
        return f"{self.prefix}:stats"

    def stats_of(self, kind: str, name: str, hour: int | None = None) -> str:
        """Counters of a worker, model, profile or priority in an hour since 1970; without it the
        key's beginning, to which `commit.lua` adds the hour of the server's clock."""
        return f"{self.prefix}:stats:{kind}:{name}:{'' if hour is None else hour}"

    def profile(self, name: str) -> str:
        """How a profile's temperature was adapted, newest first."""
        return f"{self.prefix}:profile:{name}"

    def done_channel(self, job_id: str) -> str:
        """Pub/sub channel on which the end of a job is told. Not a key."""
        return f"{self.prefix}:done:{job_id}"
