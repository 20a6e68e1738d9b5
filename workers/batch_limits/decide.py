"""The monitor's side of batch limits: read what workers observed, ask their policies, write limits.

All that a policy remembers stands in Redis beside the limit, so any coordinator goes on where
another one stopped; a limit is written by compare-and-set, so of two at once one acts.
"""

from __future__ import annotations

import time

import structlog

from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet import BatchLimit, Fleet, WorkerRow
from rerankfleet.workers.batch_limits.policies import Memory, PolicySettings, decide, start

log = structlog.get_logger()


def set_limits(fleet: Fleet) -> None:
    """Decide on the limit of each worker that observed something since the last decision.

    What goes wrong with one worker is logged and does not touch the others.
    """
    for worker in fleet.workers():
        if not worker.batch_policy:
            continue
        try:
            _set_limit(fleet, worker)
        except REDIS_ERRORS:
            raise
        except Exception:
            log.exception("no batch limit was decided", worker=worker.id)


def _set_limit(fleet: Fleet, worker: WorkerRow) -> None:
    settings = PolicySettings.model_validate_json(worker.batch_policy)
    known = fleet.limit(worker.id)
    last = known.cursor if known else ""
    cursor, observations = fleet.observations(worker.id, after=last)
    if cursor == last:
        return
    now_s = time.time()
    memory = decide(settings, _memory(settings, worker, known), observations, now_s)
    is_new = known is None or (memory.tokens, memory.pairs) != (known.tokens, known.pairs)
    limit = BatchLimit(
        tokens=memory.tokens,
        pairs=memory.pairs,
        reason=memory.reason,
        at_s=now_s if known is None or is_new else known.at_s,
        version=known.version + 1 if known else 1,
        cursor=cursor,
        memory=memory.to_json(),
    )
    if fleet.set_limit(worker.id, limit) and is_new:
        log.info("batch limit", worker=worker.id, tokens=limit.tokens, reason=limit.reason)


def _memory(settings: PolicySettings, worker: WorkerRow, known: BatchLimit | None) -> Memory:
    """What the policy remembers; where nothing does, it starts from the limit in force."""
    remembered = Memory.from_json(known.memory) if known else None
    rates = (worker.pack_overhead_s, worker.pack_s_per_token)
    return remembered or start(
        settings,
        worker.batch_tokens,
        worker.batch_pairs,
        rates if worker.pack_s_per_token > 0 else None,
    )
