"""What coordinators share: leadership, a sign of life, and counts of what the monitor repaired."""

from __future__ import annotations

from typing import cast

from rerankfleet.shared.state.connection import Connection, now_ms
from rerankfleet.shared.state.shards import OUTAGE_MS


def seconds_since(pulse: str | None, now_ms: int) -> float:
    """Seconds since a coordinator's last sign of life; infinite without one."""
    return (now_ms - int(pulse)) / 1000 if pulse else float("inf")


class Coordination:
    """Leadership, the coordinators' pulse, and counted events."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts
        self._settings = connection.settings

    def pulse(self) -> bool:
        """Record that a coordinator lives. Returns whether all had been silent."""
        keys = [self._keys.pulse, self._keys.amnesty]
        return bool(self._scripts.run("pulse", keys, [OUTAGE_MS, self._settings.lease_ms]))

    def silent_s(self) -> float:
        """Seconds since the last pulse; infinite if there was none."""
        last = cast("str | None", self._redis.get(self._keys.pulse))
        return seconds_since(last, now_ms(self._redis))

    def lead(self, role: str, token: str, ttl_s: float) -> bool:
        """Take or keep a role. Returns whether the caller has it."""
        return bool(
            self._scripts.run("lead", [self._keys.leader(role)], [token, int(ttl_s * 1000)])
        )

    def count_event(self, kind: str, count: int = 1) -> None:
        """Count an event; the counter ends an hour after its first event."""
        key = self._keys.seen(kind)
        pipe = self._redis.pipeline()
        pipe.incrby(key, count)
        pipe.expire(key, 3600, nx=True)
        pipe.execute()

    def event_count(self, kind: str) -> int:
        """How often an event was counted, within the last hour."""
        return int(cast("str | None", self._redis.get(self._keys.seen(kind))) or 0)
