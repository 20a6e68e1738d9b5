"""A worker's side of its batch limit: what its packs showed goes out, the limit comes in.

Observations wait in a bounded buffer, and go with the reading of the limit in one round trip now
and then. Without a monitor the last limit holds; without a Redis the oldest observations are lost.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import structlog

from rerankfleet.shared.observations import Observation
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.fleet import BatchLimit, Fleet
from rerankfleet.workers.batch_limits.policies import PolicySettings
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit

EXCHANGE_S = 0.5
"""How often a worker exchanges observations for its limit."""
OBSERVATIONS_MAX = 1024
"""Observations that wait for Redis, at the most."""

log = structlog.get_logger()


class LimitAgent:
    """Buffers what is observed, and has the batcher obey the limits of the monitor."""

    def __init__(
        self, fleet: Fleet, worker_id: str, policy: PolicySettings, *, reason: str
    ) -> None:
        self.policy = policy
        self.reason = reason
        """Why the limit is what it is."""
        self.at_s = 0.0
        """When it was set; 0 for the first one."""
        self._fleet = fleet
        self._worker_id = worker_id
        self._version = 0
        self._obeyed: Limit | None = None
        self._observations: deque[Observation] = deque(maxlen=OBSERVATIONS_MAX)
        self._lock = threading.Lock()

    def observe(self, observation: Observation, *, memory_bytes: int, held_s: float) -> None:
        """Keep what was observed of a pack that has just ended.

        held_s  for how long shards have been in hand: before that, nothing was to be prepared
        """
        preparing_s = min(observation.preparing_s, max(0.0, held_s - observation.forward_s))
        found = replace(observation, preparing_s=preparing_s, memory_bytes=memory_bytes)
        with self._lock:
            self._observations.append(found)

    def exchange(self, batcher: Batcher) -> None:
        """Hand over what was observed, and obey the limit. Raises what Redis raises, and keeps
        the observations then."""
        with self._lock:
            taken = list(self._observations)
            self._observations.clear()
        try:
            limit = self._fleet.push(self._worker_id, taken)
        except Exception:
            self._put_back(taken)
            raise
        if limit is not None and limit.version != self._version:
            self._obey(limit, batcher)

    def _put_back(self, taken: Sequence[Observation]) -> None:
        with self._lock:
            newer = list(self._observations)
            self._observations.clear()
            self._observations.extend([*taken, *newer])

    def _obey(self, limit: BatchLimit, batcher: Batcher) -> None:
        """Within the bounds of this worker, whatever the limit says."""
        policy = self.policy
        tokens = min(max(limit.tokens, policy.tokens_min), policy.tokens_max)
        obeyed = Limit(tokens, max(1, limit.pairs))
        if obeyed != (self._obeyed or batcher.limit):
            log.info("batch limit", tokens=tokens, pairs=obeyed.pairs, reason=limit.reason)
        batcher.limit = self._obeyed = obeyed
        self._version, self.reason, self.at_s = limit.version, limit.reason, limit.at_s


def policy_of(settings: Settings, *, tokens_max: int, memory_bytes: int = 0) -> PolicySettings:
    """The policy of a worker whose memory allows `tokens_max`, of a device with so much memory (0
    unknown).

    Deterministic margins want packs that do not depend on how fast the device was: fixed.
    """
    return PolicySettings(
        policy="fixed" if settings.deterministic else settings.batch_policy,
        latency_target_ms=settings.latency_target_ms,
        interactive_latency_target_ms=settings.interactive_latency_target_ms,
        tokens_min=settings.batch_tokens_min,
        tokens_max=max(settings.batch_tokens_min, min(settings.batch_tokens_max, tokens_max)),
        pairs_max=settings.batch_pairs,
        memory_bytes_max=memory_bytes,
        latency_high_ms=settings.threshold_high_ms,
        latency_low_ms=settings.threshold_low_ms,
        pairs_low=settings.threshold_pairs_min,
        pairs_high=settings.threshold_pairs_max,
    )
