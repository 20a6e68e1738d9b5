"""Shards in Redis: opened, claimed under a lease, renewed, committed, released, split.

Celery messages are only hints; Redis is the source of truth. Knows nothing of storage, Celery,
models or devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import structlog

from rerankfleet.shared.content.ranges import is_shard, shard_name
from rerankfleet.shared.ids import is_id
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.state.connection import Connection, as_stored, now_ms
from rerankfleet.shared.state.inline import Inline
from rerankfleet.shared.state.records import LOOK_AGAIN_MS, Job, Lease, OpenShard
from rerankfleet.shared.statistics import KINDS, TTL_MS

OUTAGE_MS = 10_000
"""A coordinator silent for this long means an outage: leases that expire in it blame no shard."""
LEFT = "left"
"""The event counted when a shard's lease expires because its worker died or hung."""

log = structlog.get_logger()


class Shards:
    """The open shards of all jobs, one atomic operation per method."""

    def __init__(self, connection: Connection, inline: Inline) -> None:
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts
        self._settings = connection.settings
        self._inline = inline

    def open(
        self,
        job: Job,
        cursor: tuple[str, str],
        shards: Sequence[OpenShard],
        *,
        sealed: bool,
        short: bool = False,
        lines: int,
        low_water: int,
    ) -> tuple[str, int]:
        """Open shards and move the job's cursor from cursor[0] to cursor[1], if it is still there,
        in the same round.
        `sealed`: nothing follows; `short`: since the rest of the input could not be read.
        Returns the answer of `open.lua` and how many shards of the job are open then."""
        k = self._keys
        keys = [
            k.job(job.id),
            k.job_open(job.id),
            k.open(job.spec.model),
            k.job_parts(job.id),
            k.jobs,
        ]
        flat = [part for shard in shards for part in (shard.start, shard.end, shard.file)]
        args = [
            job.id,
            *cursor,
            "short" if short else int(sealed),
            lines,
            LOOK_AGAIN_MS,
            low_water,
            job.round,
            *flat,
        ]
        answer, open_shards = self._scripts.run("open", keys, args)
        return answer, open_shards

    def claim(
        self,
        job_id: str,
        model: str,
        shard: str,
        *,
        token: str,
        worker: str,
        alone: bool,
        fingerprint: str,
    ) -> Lease | str:
        """Lease a shard, or say why not: done, busy, paused, cancelled, newer, suspect, split."""
        k = self._keys
        answer, *rest = self._scripts.run(
            "claim",
            [k.job(job_id), k.job_open(job_id), k.open(model), k.pulse, k.amnesty, k.seen(LEFT)],
            [
                job_id,
                shard,
                token,
                worker,
                int(alone),
                self._settings.lease_ms,
                fingerprint,
                OUTAGE_MS,
            ],
        )
        if answer in ("yes", "poison"):
            poison, (file, waited_ms) = answer == "poison", rest
            return Lease(
                job_id, model, shard, token, file, poison, worker, waited_s=waited_ms / 1000
            )
        return cast(str, answer)

    def renew(self, leases: Sequence[Lease]) -> list[str]:
        """Renew leases in one call. Returns for each: ok, lost, cancelled or paused."""
        if not leases:
            return []
        k = self._keys
        keys = [
            key
            for lease in leases
            for key in (k.job(lease.job_id), k.job_open(lease.job_id), k.open(lease.model))
        ]
        args = [x for lease in leases for x in (lease.job_id, lease.shard, lease.token)]
        return cast("list[str]", self._scripts.run("renew", keys, [self._settings.lease_ms, *args]))

    def commit(self, lease: Lease, part: str, summary: ShardSummary) -> tuple[str, bool, bool]:
        """Record a shard's part. Returns "committed" or "late", and whether a feed and a finish are
        due."""
        k = self._keys
        start, _, end = lease.shard.partition("-")
        job_id = lease.job_id
        names = (lease.worker, lease.model, summary.profile, summary.priority.value)
        counts = [x for count in summary.counts.items() for x in count]
        answer, feed, finish, payloads = self._scripts.run(
            "commit",
            [
                k.job(job_id),
                k.job_open(job_id),
                k.open(lease.model),
                k.job_parts(job_id),
                k.jobs,
                k.stats,
                *(k.stats_of(kind, name) for kind, name in zip(KINDS, names, strict=True)),
            ],
            [
                job_id,
                start,
                end,
                part,
                lease.file,
                LOOK_AGAIN_MS,
                k.done_channel(job_id),
                lease.token,
                TTL_MS,
                *counts,
            ],
        )
        self._inline.drop(payloads.split())
        return answer, bool(feed), bool(finish)

    def reopen(self, job: Job, token: str, lost: tuple[int, int, str], file: str) -> bool:
        """Open a committed shard again, whose part is lost: its start, end and part, and a file
        that holds its items. Returns whether it is open, or recorded as cancelled."""
        k = self._keys
        keys = [k.job(job.id), k.job_open(job.id), k.open(job.spec.model), k.job_parts(job.id)]
        return bool(self._scripts.run("reopen", keys, [job.id, token, *lost, file]))

    def release(self, lease: Lease) -> bool:
        """Release a shard, which is not blamed for it. Returns whether it is free again."""
        keys = [self._keys.job_open(lease.job_id), self._keys.open(lease.model)]
        return bool(self._scripts.run("release", keys, [lease.job_id, lease.shard, lease.token]))

    def split(self, job_id: str, model: str, shard: str) -> list[str]:
        """Replace a shard that killed its worker by its two halves. Returns them, or nothing."""
        start, end = (int(x) for x in shard.split("-"))
        middle = (start + end) // 2
        keys = [self._keys.job_open(job_id), self._keys.open(model)]
        if not self._scripts.run("split", keys, [job_id, start, middle, end]):
            return []
        return [shard_name(start, middle), shard_name(middle, end)]

    def end_leases(self, model: str, worker: str) -> int:
        """End the leases of a worker whose process is known to be gone, as if they had run out.
        Returns how many."""
        key = self._keys.open(model)
        held = self._redis.zrange(key, now_ms(self._redis), "+inf", byscore=True)
        ended = 0
        for job_id, shard in self._as_shards(model, cast("list[str]", held)):
            keys = [self._keys.job_open(job_id), key]
            ended += self._scripts.run("lapse", keys, [job_id, shard, worker])
        return ended

    def abandoned(self, due: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the due shards whose lease ran out: their worker died or hung."""
        pipe = self._redis.pipeline(transaction=False)
        for job_id, shard in due:
            pipe.hget(self._keys.job_open(job_id), shard)
        records = pipe.execute(raise_on_error=False)
        return {
            one
            for one, record in zip(due, records, strict=True)
            if isinstance(record, str) and ('"token"' in record or '"t":' in record)
        }

    def due(self, model: str, count: int) -> list[tuple[str, str]]:
        """Shards that no worker holds: (job, range), the longest waiting first. What is no shard is
        removed: it would wait for ever."""
        key = self._keys.open(model)
        due = self._redis.zrange(key, 0, now_ms(self._redis), byscore=True, offset=0, num=count)
        return self._as_shards(model, cast("list[str]", due))

    def _as_shards(self, model: str, members: Sequence[str]) -> list[tuple[str, str]]:
        key = self._keys.open(model)
        shards = []
        for member in members:
            job_id, _, shard = member.rpartition("/")
            if is_id(job_id) and is_shard(shard):
                shards.append((job_id, shard))
            else:
                log.warning("what is no shard was removed", model=model, member=member)
                self._redis.zrem(key, member, as_stored(member))
        return shards
