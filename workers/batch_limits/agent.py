"""A worker's side of its batch limit: observations of its packs go out, the limit comes in.

Observations wait in a bounded buffer; at intervals they are sent and the limit is read, in one
round trip. Without a monitor the last limit holds; without Redis the oldest observations are lost.
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
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit

EXCHANGE_S = 0.5
"""How often a worker exchanges observations for its limit."""
OBSERVATIONS_MAX = 1024
"""The most observations that wait for Redis."""

log = structlog.get_logger()


class LimitAgent:
    """Buffers observations, and applies the monitor's limits to the batcher."""

    def __init__(
        self, fleet: Fleet, worker_id: str, policy: PolicySettings, *, reason: str
    ) -> None:
        self.policy = policy
        self.reason = reason
        """The reason for the present limit, in words."""
        self.at_s = 0.0
        """When it was set; 0 for the first one."""
        self._fleet = fleet
        self._worker_id = worker_id
        self._version = 0
        self._applied: Limit | None = None
        self._observations: deque[Observation] = deque(maxlen=OBSERVATIONS_MAX)
        self._lock = threading.Lock()

    def observe(self, observation: Observation, *, memory_bytes: int, held_s: float) -> None:
        """Buffer the observation of a pack that has just ended.

        held_s  for how long the worker has held shards: before that there was nothing to prepare
        """
        preparing_s = min(observation.preparing_s, max(0.0, held_s - observation.forward_s))
        complete = replace(observation, preparing_s=preparing_s, memory_bytes=memory_bytes)
        with self._lock:
            self._observations.append(complete)

    def exchange(self, batcher: Batcher) -> None:
        """Send the observations, and apply the limit. Raises what Redis raises; the observations
        are kept then."""
        with self._lock:
            sent = list(self._observations)
            self._observations.clear()
        try:
            limit = self._fleet.push(self._worker_id, sent)
        except Exception:
            self._put_back(sent)
            raise
        if limit is not None and limit.version != self._version:
            self._apply(limit, batcher)

    def _put_back(self, sent: Sequence[Observation]) -> None:
        with self._lock:
            newer = list(self._observations)
            self._observations.clear()
            self._observations.extend([*sent, *newer])

    def _apply(self, limit: BatchLimit, batcher: Batcher) -> None:
        """Set the batcher's limit, clamped to this worker's bounds."""
        policy = self.policy
        tokens = min(max(limit.tokens, policy.tokens_min), policy.tokens_max)
        applied = Limit(tokens, max(1, limit.pairs))
        if applied != (self._applied or batcher.limit):
            log.info("batch limit", tokens=tokens, pairs=applied.pairs, reason=limit.reason)
        batcher.limit = self._applied = applied
        self._version, self.reason, self.at_s = limit.version, limit.reason, limit.at_s


def policy_of(settings: Settings, *, tokens_max: int, memory_bytes: int = 0) -> PolicySettings:
    """The policy of a worker whose memory allows packs of `tokens_max`, on a device with
    `memory_bytes` (0: unknown).

    Deterministic margins need packs that do not depend on the device's speed: the policy is fixed.
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
