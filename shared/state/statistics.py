"""Statistics by the hour, and the temperatures that profiles got from their jobs."""

from __future__ import annotations

from typing import cast

from rerankfleet.shared.state.connection import Connection, now_ms
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.statistics import (
    KINDS,
    Kind,
    Statistics,
    TemperatureChange,
    statistics_of,
)

CHANGES_KEPT = 100
"""How many changes of a profile's temperature are kept."""
CHANGES_TTL_MS = 90 * 86_400_000
"""How long a profile's adapted temperature is kept after its last change."""


class StatisticsRecords:
    """What commits counted, and the temperatures of profiles."""

    def __init__(self, connection: Connection) -> None:
        self._redis = connection.redis
        self._keys = connection.keys
        self._scripts = connection.scripts
        self._settings = connection.settings

    def rows(self, hours: int) -> list[Statistics]:
        """What each worker, model, profile and priority did in the last full hours and this one."""
        now = now_ms(self._redis) // 3_600_000
        known = cast("list[str]", self._redis.zrange(self._keys.stats, 0, -1))
        pipe = self._redis.pipeline(transaction=False)
        for key in known:
            for hour in range(now - hours + 1, now + 1):
                pipe.hgetall(f"{key}{hour}")
        counters = pipe.execute()
        rows = []
        for number, key in enumerate(known):
            kind, _, name = key.removeprefix(f"{self._keys.stats}:").partition(":")
            of_hours = counters[number * hours : (number + 1) * hours]
            if any(of_hours):
                rows.append(statistics_of(cast(Kind, kind), name.removesuffix(":"), of_hours))
        return sorted(rows, key=lambda row: (KINDS.index(row.kind), row.name))

    def adapt_temperature(self, job: Job, to: float) -> bool:
        """Change the temperature of later jobs of a job's profile: once per job, and only if it ran
        with the present one. Returns whether it changed."""
        change = TemperatureChange(
            at_s=now_ms(self._redis) / 1000,
            job=job.id,
            mean=job.scores.mean,
            base=job.spec.profile_temperature,
            before=job.spec.temperature,
            to=to,
        )
        keys = [self._keys.job(job.id), self._keys.profile(job.spec.profile or "")]
        args = (change.model_dump_json(), CHANGES_KEPT, CHANGES_TTL_MS)
        return bool(self._scripts.run("adapt", keys, args))

    def profile_temperature(self, profile: str, base: float) -> float:
        """A profile's present temperature: the adapted one, or the configured one, `base`, if there
        is none or it was adapted from another base."""
        newest = self.temperature_changes(profile, 1)
        return newest[0].to if newest and newest[0].base == base else base

    def temperature_changes(
        self, profile: str, count: int = CHANGES_KEPT
    ) -> list[TemperatureChange]:
        """The changes of a profile's temperature, newest first."""
        changes = cast("list[str]", self._redis.lrange(self._keys.profile(profile), 0, count - 1))
        return [TemperatureChange.model_validate_json(change) for change in changes]

    def forget_temperature(self, profile: str) -> None:
        """Reset a profile to its configured temperature."""
        self._redis.delete(self._keys.profile(profile))
