"""The monitor's side of batch limits: read the workers' observations, let their policies decide,
write the limits.

A policy's state is stored in Redis beside the limit, so any coordinator continues where another
one stopped; a limit is written by compare-and-set, so that of two coordinators only one acts.
"""

from __future__ import annotations

import time

import structlog

from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet import BatchLimit, Fleet, WorkerRow
from rerankfleet.workers.batch_limits.policies import decide, start
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

log = structlog.get_logger()


def set_limits(fleet: Fleet) -> None:
    """Decide on the limit of each worker with new observations.

    An error with one worker is logged and does not affect the others.
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
    state = decide(settings, _state(settings, worker, known), observations, now_s)
    is_new = known is None or (state.tokens, state.pairs) != (known.tokens, known.pairs)
    limit = BatchLimit(
        tokens=state.tokens,
        pairs=state.pairs,
        reason=state.reason,
        at_s=now_s if known is None or is_new else known.at_s,
        version=known.version + 1 if known else 1,
        cursor=cursor,
        memory=state.to_json(),
    )
    if fleet.set_limit(worker.id, limit) and is_new:
        log.info("batch limit", worker=worker.id, tokens=limit.tokens, reason=limit.reason)


def _state(settings: PolicySettings, worker: WorkerRow, known: BatchLimit | None) -> PolicyState:
    """The policy's state; without one it starts from the limit in force."""
    state = PolicyState.from_json(known.memory) if known else None
    rates = (worker.pack_overhead_s, worker.pack_s_per_token)
    return state or start(
        settings,
        worker.batch_tokens,
        worker.batch_pairs,
        rates if worker.pack_s_per_token > 0 else None,
    )
