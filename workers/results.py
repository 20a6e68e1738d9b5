"""A shard's part file, then its commit: in this order, so that no commit names a missing file."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

import structlog

from rerankfleet.shared.content.outcomes import Provenance, SliceOutcome
from rerankfleet.shared.content.ranges import shard_range
from rerankfleet.shared.formats.shard_files import dump_part, part_uri, shard_uri
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.queue import Hints
from rerankfleet.shared.state.connection import REDIS_AWAY
from rerankfleet.shared.state.records import Lease
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

REDIS_BACKOFF_S = 1.0

log = structlog.get_logger()


def write(
    outcomes: Sequence[SliceOutcome],
    provenance: Provenance,
    lease: Lease,
    objects: Objects,
    store: Store,
    inline_ttl_s: float,
) -> str:
    """Write the complete part of this attempt, and return its name."""
    start, _ = shard_range(lease.shard)
    attempt = uuid.uuid4().hex[:12]
    data = dump_part(outcomes, provenance)
    if lease.file.startswith("redis:"):
        return store.inline.put(lease.job_id, f"part-{start}-{attempt}", data, inline_ttl_s)
    # where a folder is not mounted, an empty one would take the part, which is missing afterwards
    objects.stat(shard_uri(objects, lease.job_id, lease.file))
    store.ledger.add(lease.job_id, "work_bytes", len(data))
    objects.write(part_uri(objects, lease.job_id, start, attempt), data)
    return attempt


def commit(
    lease: Lease,
    part: str,
    summary: ShardSummary,
    store: Store,
    hints: Hints,
    stop: threading.Event | None = None,
) -> bool:
    """Commit a part, and hint the job's next step. False when another commit was first.

    A commit is idempotent, so it is retried while Redis is unreachable, until `stop` is set; then
    raises the error of Redis.
    """
    while True:
        try:
            answer, feed, finish = store.shards.commit(lease, part, summary)
            break
        except REDIS_AWAY as error:
            log.warning("a commit waits for Redis", shard=lease.shard, error=str(error))
            if (stop or threading.Event()).wait(REDIS_BACKOFF_S):
                raise
    if finish:
        hints.finish(lease.job_id)
    elif feed:
        hints.feed(lease.job_id)
    return answer == "committed"
