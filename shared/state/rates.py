"""How often each API key was used lately, counted for all gateways together.

A sliding window of two counters, by the server's clock: it costs the same whatever the rate is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from limits import RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from rerankfleet.shared.state.store import Store


@dataclass(frozen=True, slots=True)
class Allowance:
    """Whether a request is within its rate, how many more are now, and when that changes."""

    is_within: bool
    left: int
    reset_s: float


class Rates:
    """Counts requests on the connections of a store: with its address, its TLS, its prefix."""

    def __init__(self, store: Store) -> None:
        storage = RedisStorage(
            "redis://", store.client.connection_pool, key_prefix=store.keys.rates
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    def take(self, name: str, count: int, window_s: int) -> Allowance:
        """Count a request of `name`, which may send `count` in any `window_s` seconds. One that is
        not within that is not counted. Raises redis.RedisError."""
        rate = RateLimitItemPerSecond(count, window_s)
        is_within = self._limiter.hit(rate, name)
        window = self._limiter.get_window_stats(rate, name)
        return Allowance(is_within, window.remaining, max(window.reset_time - time.time(), 0.0))
