"""The connection to Redis, and what all modules here share: keys, scripts, the server's clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.settings import Settings, mask
from rerankfleet.shared.state.keys import Keys

CONNECTIONS_MAX = 64
"""Connections of one process. A thread waits while none is free."""
CONNECTION_WAIT_S = 30.0
"""How long it waits at most."""

REDIS_ERRORS = (redis.RedisError,)
"""What a call raises while Redis is unavailable: a retry may succeed."""

_SCRIPTS = Path(__file__).with_name("scripts")
_INCLUDE = "-- include "
"""First line of a script that uses another file's functions."""


def connect(settings: Settings) -> redis.Redis:
    """Connect and check that the server answers. Raises QueueUnavailable saying where it looked."""
    address = settings.redis_address
    try:
        pool = redis.BlockingConnectionPool.from_url(
            address,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECTION_WAIT_S,
            decode_responses=True,
            socket_timeout=30,
            socket_connect_timeout=5,
            socket_keepalive=True,
            health_check_interval=25,
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
        client = redis.Redis.from_pool(pool)
        client.ping()
    except ValueError as error:
        raise UsageError(
            f"RERANK_REDIS_URL is wrong: {mask(address)} is not the address of a Redis",
            hint="write redis://host:6379/0, or rediss:// for TLS",
        ) from error
    except redis.RedisError as error:
        raise QueueUnavailable(
            f"Redis at {mask(address)} does not answer ({type(error).__name__})",
            hint="start it, or set RERANK_REDIS_URL",
            command="or let `rerank up` start one of its own",
        ) from error
    return client


def now_ms(client: redis.Redis) -> int:
    """The time in ms by the server's clock, which all leases use."""
    return as_ms(client.time())


def as_ms(time: tuple[int, int]) -> int:
    """A reply to TIME in milliseconds."""
    seconds, micros = time
    return seconds * 1000 + micros // 1000


class Scripts:
    """The Lua scripts in `scripts/`, each an atomic operation, by the name of its file."""

    def __init__(self, client: redis.Redis) -> None:
        self._scripts = {
            path.stem: client.register_script(_source(path)) for path in _SCRIPTS.glob("*.lua")
        }

    def run(self, name: str, keys: Sequence[str], args: Iterable[str | int | float]) -> Any:
        """Run a script and return its answer."""
        return self._scripts[name](keys=list(keys), args=list(args))


def _source(path: Path) -> str:
    """A script's text, preceded by that of the file it includes."""
    text = path.read_text()
    first = text.partition("\n")[0]
    if not first.startswith(_INCLUDE):
        return text
    return (_SCRIPTS / first.removeprefix(_INCLUDE)).read_text() + text


@dataclass(frozen=True, slots=True)
class Connection:
    """What the classes of this package work with."""

    redis: redis.Redis
    keys: Keys
    scripts: Scripts
    settings: Settings
