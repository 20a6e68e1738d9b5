"""A worker's rates over the last seconds: pairs, tokens, and where the time went. No clock but
the monotonic one; no Redis."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from workers.batcher import PackReport

WINDOW_S = 10.0
PACKS = 32
"""The device's rate is that of its last packs, however long ago they were."""


class _Pack(NamedTuple):
    at_s: float
    pairs: int
    tokens: int
    forward_s: float


class Meter:
    """Collects pack reports and samples of whether shards were in hand."""

    def __init__(self, tokens_per_s: float) -> None:
        self._initial = tokens_per_s
        self._packs: deque[_Pack] = deque()
        self._last: deque[_Pack] = deque(maxlen=PACKS)
        self._holding: deque[tuple[float, bool]] = deque()
        self._pairs = 0
        self._lock = threading.Lock()
        self._started_s = time.monotonic()

    def pack(self, report: PackReport) -> None:
        """One forward pass."""
        if report.oom:
            return
        now = time.monotonic()
        found = _Pack(now, report.pairs, report.computed_tokens, report.forward_s)
        with self._lock:
            self._packs.append(found)
            self._last.append(found)
            self._pairs += report.pairs

    def sample(self, *, holding: bool) -> None:
        """Whether any shard is in hand now; called several times a second."""
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
            pairs = self._pairs
        window = min(WINDOW_S, max(time.monotonic() - self._started_s, 1.0))
        busy = min(sum(pack.forward_s for pack in packs) / window, 1.0)
        forward_s = sum(pack.forward_s for pack in last)
        tokens = sum(pack.tokens for pack in last)
        return {
            "pairs_per_s": round(sum(pack.pairs for pack in packs) / window, 2),
            "tokens_per_s": round(tokens / forward_s if forward_s else self._initial, 1),
            "busy_share": round(busy, 3),
            "preparing_share": round(max(held - busy, 0.0), 3),
            "latency_s": round(forward_s / len(last), 4) if last else 0.0,
            "pairs": pairs,
        }
