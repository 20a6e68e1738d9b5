"""Every Redis key: how it is built, what it is, how long it lives, who writes and who reads it.

Written in: the module of this package. By: the processes that call it (coord: the coordinator).

    key                    type   lives                    written in            by
    {p}:jobs               zset   permanent                jobs, shards          all
    {p}:recent             zset   permanent, trimmed       jobs                  client
    {p}:recent:{owner}     zset   permanent, trimmed       jobs                  client
    {p}:sweep              zset   permanent, emptied       jobs                  all
    {p}:models             set    permanent, one per model jobs                  client
    {p}:stored:{kind}      hash   permanent, emptied       ledger, jobs          all
    {p}:open:{model}       zset   gone when empty          jobs, shards          coord, worker
    {p}:job:{id}           hash   result_ttl after the end jobs, shards          all
    {p}:job:{id}:open      hash   gone when empty          jobs, shards          coord, worker
    {p}:job:{id}:parts     hash   parts_ttl after the end  shards, jobs (cancel) worker
    {p}:key:{digest}       string with its job, or answer  jobs                  client
    {p}:key:{owner}:{digest}
                           string with its job, or answer  jobs                  client
    {p}:inline:{id}:{name} string TTL from the beginning   inline                client, worker
    {p}:worker:{id}        hash   3 heartbeats             fleet                 worker
    {p}:worker:{id}:counts string 3 heartbeats             fleet                 worker
    {p}:worker:{id}:packs  stream 30 heartbeats, trimmed   fleet                 worker
    {p}:worker:{id}:limit  hash   30 heartbeats            fleet                 monitor
    {p}:worker:{id}:limits list   30 heartbeats, trimmed   fleet                 monitor
    {p}:workers            zset   permanent, trimmed       fleet                 worker
    {p}:served:{model}     string 30 days                  fleet                 worker
    {p}:pulse              string permanent                coordination          monitor
    {p}:amnesty            string permanent                coordination          monitor
    {p}:leader:{role}      string a few ticks              coordination          monitor
    {p}:seen:{kind}        string 1 h                      coordination, shards  monitor, worker
    {p}:stats              zset   25 h after a commit      shards                worker
    {p}:stats:{kind}:{name}:{hour}
                           hash   25 h after a commit      shards                worker
    {p}:profile:{name}     list   90 days after a change   statistics            coord, client
    {p}:rate:{...}         string two windows of the rate  rates                 gateway

The module that writes a key also reads it. In addition `shards` reads pulse and amnesty when it
claims, and `statistics` reads stats.

A test checks that no other key is permanent. {p} is RERANK_KEY_PREFIX. Celery's own keys are under
{p}:celery: (`shared/queue.py`).
A shard is named {job}/{start}-{end}: the range of its items in the job's cut order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Builds the keys under one prefix."""

    prefix: str

    @property
    def jobs(self) -> str:
        """Unfinished jobs by the time, in ms, when the monitor looks at them again."""
        return f"{self.prefix}:jobs"

    @property
    def recent(self) -> str:
        """The newest jobs by creation time, finished ones too."""
        return self.recent_of("")

    def recent_of(self, owner: str) -> str:
        """The newest jobs of an owner; of all, owned or not, where that is empty."""
        return f"{self.prefix}:recent{f':{owner}' if owner else ''}"

    @property
    def sweep(self) -> str:
        """Finished jobs, and ones still to be made, by the time when their files may be removed."""
        return f"{self.prefix}:sweep"

    @property
    def models(self) -> str:
        """Every model that a job was made for."""
        return f"{self.prefix}:models"

    def stored(self, kind: str) -> str:
        """The ledger of bytes in the storage, of jobs or uploads (scripts/include/ledger.lua)."""
        return f"{self.prefix}:stored:{kind}"

    @property
    def workers(self) -> str:
        """Worker ids by the time of their last heartbeat."""
        return f"{self.prefix}:workers"

    @property
    def pulse(self) -> str:
        """When the monitor last ticked: a gap means an outage, which no shard is blamed for."""
        return f"{self.prefix}:pulse"

    @property
    def amnesty(self) -> str:
        """Leases that expired before this time blame no shard."""
        return f"{self.prefix}:amnesty"

    def open(self, model: str) -> str:
        """The open set of a model: shards by the time when they are free, or their lease ends."""
        return f"{self.prefix}:open:{model}"

    def job(self, job_id: str) -> str:
        """A job's spec, cursor and counts."""
        return f"{self.prefix}:job:{job_id}"

    def job_open(self, job_id: str) -> str:
        """Uncommitted shards of a job: range -> record (scripts/include/shard_record.lua)."""
        return f"{self.prefix}:job:{job_id}:open"

    def job_parts(self, job_id: str) -> str:
        """Committed shards of a job: start -> "end part"."""
        return f"{self.prefix}:job:{job_id}:parts"

    def job_key(self, key: str, owner: str = "") -> str:
        """The user's key of a job -> digest of its input and options, and its id. Equal keys of two
        owners have nothing to do with each other."""
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        return f"{self.prefix}:key:{f'{owner}:' if owner else ''}{digest}"

    @property
    def rates(self) -> str:
        """How the keys of the counted requests begin."""
        return f"{self.prefix}:rate"

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
        """A worker's batch limit, its reason, and the state of its policy."""
        return f"{self.prefix}:worker:{worker_id}:limit"

    def limits(self, worker_id: str) -> str:
        """A worker's last batch limits, the newest first."""
        return f"{self.prefix}:worker:{worker_id}:limits"

    def served(self, model: str) -> str:
        """Set if a worker served this model recently."""
        return f"{self.prefix}:served:{model}"

    def leader(self, role: str) -> str:
        """The process that holds a role now."""
        return f"{self.prefix}:leader:{role}"

    def seen(self, kind: str) -> str:
        """A counter of events, such as hints sent again: 0 in an undisturbed run."""
        return f"{self.prefix}:seen:{kind}"

    @property
    def stats(self) -> str:
        """The statistics that exist, each by the hour of its last commit."""
        return f"{self.prefix}:stats"

    def stats_of(self, kind: str, name: str, hour: int | None = None) -> str:
        """Counters of a worker, model, profile or priority in an hour since 1970; without the hour,
        the prefix to which `commit.lua` appends the hour of the server's clock."""
        return f"{self.prefix}:stats:{kind}:{name}:{'' if hour is None else hour}"

    def profile(self, name: str) -> str:
        """How a profile's temperature was adapted, newest first."""
        return f"{self.prefix}:profile:{name}"

    def done_channel(self, job_id: str) -> str:
        """Pub/sub channel on which the end of a job is announced. Not a key."""
        return f"{self.prefix}:done:{job_id}"
