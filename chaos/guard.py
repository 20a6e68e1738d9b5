"""Whether a fleet may be broken: never one that anybody else uses."""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis

from rerankfleet.chaos.users import OURS
from rerankfleet.producer.client import Client
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.records import Job

FLAG = "--i-know-this-breaks-things"
DEFAULT_PREFIX: str = Settings.model_fields["key_prefix"].default
KEYS_LOOKED_AT = 20_000
LOOK_S = 2.0


def refuse_unless_told(told: bool) -> None:
    """Raise UsageError unless whoever runs this said that things may break."""
    if not told:
        raise UsageError(
            "this kills processes, closes connections and loses messages on purpose",
            hint=f"on a cluster that nobody needs, say {FLAG}",
        )


def refuse_used(client: Client, raw: redis.Redis) -> None:
    """Raise UsageError where a fleet could be anybody else's: it has the usual key prefix, shares
    its server with other data, or has jobs in hand."""
    prefix = client.settings.key_prefix
    if prefix == DEFAULT_PREFIX:
        raise UsageError(
            f"a fleet with the key prefix {prefix!r} may be the one that people work with",
            hint="start a cluster for tests, with RERANK_KEY_PREFIX=test for all of its processes "
            "and for this command, on a Redis of its own",
        )
    if stranger := _strange_key(raw, prefix):
        raise UsageError(
            f"this Redis also holds {stranger}, and its connections would be cut as well",
            hint="give the test cluster a Redis of its own",
        )
    refuse_strange_jobs(client)


def refuse_strange_jobs(client: Client) -> None:
    """Raise UsageError where a job is in hand that no run like this one made."""
    jobs = client.store.jobs
    if strange := _strange(jobs.get_many(jobs.unfinished())):
        raise UsageError(
            f"job {strange} of somebody else is in hand",
            hint="wait for it or cancel it, and let nobody use this cluster meanwhile",
        )


class Lookout:
    """Looks again and again whether somebody else began to use the cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._looked_s = time.monotonic()

    def __call__(self) -> None:
        """Look, when it is time. Raises UsageError; while Redis is away there is nothing to see."""
        if time.monotonic() - self._looked_s < LOOK_S:
            return
        self._looked_s = time.monotonic()
        try:
            refuse_strange_jobs(self._client)
        except redis.RedisError:
            return


def _strange(jobs: Sequence[Job]) -> str | None:
    return next((job.id for job in jobs if not job.spec.name.startswith(f"{OURS}-")), None)


def _strange_key(raw: redis.Redis, prefix: str) -> str | None:
    """What else the server holds, if anything."""
    database = raw.connection_pool.connection_kwargs.get("db") or 0
    for name in raw.info("keyspace"):
        if name != f"db{database}":
            return f"the database {name}"
    for number, key in enumerate(raw.scan_iter(count=1000)):
        if not key.startswith(f"{prefix}:"):
            return f"the key {key!r}"
        if number > KEYS_LOOKED_AT:
            return f"more than {KEYS_LOOKED_AT:,} keys of this fleet: it is in use"
    return None
