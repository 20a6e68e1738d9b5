"""A worker's rates over the last seconds: pairs, tokens, latencies, and where the time went. Uses
the monotonic clock only; no Redis."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from rerankfleet.shared.observations import Observation

WINDOW_S = 10.0
PACKS = 32
"""The device's rate is that of its last packs, however long ago they were."""
LATENCIES = 256
"""Latency quantiles are those of the last packs, this many."""


class _Pack(NamedTuple):
    at_s: float
    pairs: int
    tokens: int
    forward_s: float
    waiting_s: float


class Meter:
    """Collects observations of packs, and samples of whether shards were held."""

    def __init__(self, tokens_per_s: float) -> None:
        self._initial = tokens_per_s
        self._packs: deque[_Pack] = deque()
        self._last: deque[_Pack] = deque(maxlen=PACKS)
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES)
        self._peaks_bytes: deque[int] = deque(maxlen=PACKS)
        self._holding: deque[tuple[float, bool]] = deque()
        self._pairs = self._ooms = 0
        self._lock = threading.Lock()
        self._started_s = time.monotonic()

    def pack(self, observation: Observation, *, memory_bytes: int = 0) -> None:
        """Add one forward pass, and the memory that it used (0: unknown)."""
        now = time.monotonic()
        tokens = observation.text_tokens + observation.image_tokens
        pack = _Pack(now, observation.pairs, tokens, observation.forward_s, observation.waiting_s)
        with self._lock:
            self._peaks_bytes.append(memory_bytes)
            if observation.oom:
                self._ooms += 1
                return
            self._packs.append(pack)
            self._last.append(pack)
            self._latencies_s.append(observation.forward_s)
            self._pairs += observation.pairs

    def sample(self, *, holding: bool) -> None:
        """Note whether any shard is held now; called several times a second."""
        now = time.monotonic()
        with self._lock:
            self._holding.append((now, holding))
            while self._holding and now - self._holding[0][0] > WINDOW_S:
                self._holding.popleft()
            while self._packs and now - self._packs[0].at_s > WINDOW_S:
                self._packs.popleft()

    def rates(self) -> dict[str, float]:
        """Fields of a heartbeat."""
        with self._lock:
            packs, last = list(self._packs), list(self._last)
            held = sum(holding for _, holding in self._holding) / max(len(self._holding), 1)
            latencies_s = sorted(self._latencies_s)
            pairs, ooms, peak = self._pairs, self._ooms, max(self._peaks_bytes, default=0)
        window = min(WINDOW_S, max(time.monotonic() - self._started_s, 1.0))
        busy = min(sum(pack.forward_s for pack in packs) / window, 1.0)
        forward_s = sum(pack.forward_s for pack in last)
        waiting_s = sum(pack.waiting_s for pack in last)
        tokens = sum(pack.tokens for pack in last)
        return {
            "pairs_per_s": round(sum(pack.pairs for pack in packs) / window, 2),
            "tokens_per_s": round(tokens / forward_s if forward_s else self._initial, 1),
            "busy_share": round(busy, 3),
            "preparing_share": round(max(held - busy, 0.0), 3),
            "latency_s": round(forward_s / len(last), 4) if last else 0.0,
            "latency_p50_s": round(_quantile(latencies_s, 0.5), 4),
            "latency_p95_s": round(_quantile(latencies_s, 0.95), 4),
            "waiting_share": round(waiting_s / (waiting_s + forward_s), 3) if forward_s else 0.0,
            "pairs": pairs,
            "ooms": ooms,
            "memory_bytes": peak,
        }


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values; 0 when there are none."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0
