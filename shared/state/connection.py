"""The connection to Redis, and what all modules here share: keys, scripts, the server's clock."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

from rerankfleet.shared.addresses import mask
from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.redis_url import TIMEOUTS, read_redis_url
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.keys import Keys

CONNECTIONS_MAX = 64
"""Connections of one process. A thread waits while none is free."""
CONNECTION_WAIT_S = 30.0
"""How long it waits at most."""

REDIS_ERRORS = (redis.RedisError,)
"""What a call raises that Redis did not carry out."""
REDIS_AWAY = (
    redis.ConnectionError,
    redis.TimeoutError,
    redis.ReadOnlyError,
    redis.OutOfMemoryError,
)
"""Those of them that pass: the same call may succeed a little later. While it loads, fails over or
is full, Redis is away as well."""

_SCRIPTS = Path(__file__).with_name("scripts")
_INCLUDE = "-- include "
"""A line of a script that uses another file's functions."""


def connect(settings: Settings) -> redis.Redis:
    """Connect and check that the server answers. Raises QueueUnavailable saying what is wrong."""
    address = read_redis_url(settings.redis_address)
    try:
        pool = redis.BlockingConnectionPool.from_url(
            address.for_records,
            max_connections=CONNECTIONS_MAX,
            timeout=CONNECTION_WAIT_S,
            decode_responses=True,
            encoding_errors="backslashreplace",  # what is no text must not stop its reader
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), 3),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
            **TIMEOUTS,
            **(address.tls or {}),
        )
        client = redis.Redis.from_pool(pool)
        client.ping()
    except (ValueError, TypeError) as error:  # of an option that redis-py does not have
        raise UsageError(
            f"RERANK_REDIS_URL is wrong: {mask(settings.redis_address)}: {error}",
            hint="write redis://host:6379/0, or rediss:// for TLS",
        ) from error
    except (redis.RedisError, OSError) as error:
        raise redis_unavailable(error, f"Redis at {mask(settings.redis_address)}") from error
    return client


def as_stored(text: str) -> bytes:
    """The bytes that were read as this text: those that are no text stand in it as \\xff."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())


def redis_unavailable(error: Exception, name: str = "Redis") -> QueueUnavailable:
    """What is wrong with Redis, and what to do, by what its client raised."""
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for kinds, what, hint in _WRONG:
        for cause in causes:
            if isinstance(cause, kinds):
                return QueueUnavailable(f"{name} {what} ({_reason(cause)})", hint=hint)
    return QueueUnavailable(
        f"{name} does not answer ({_reason(error)})",
        hint="start it, or set RERANK_REDIS_URL",
        command="`rerank up` starts one of its own",
    )


_WRONG: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (NoPermissionError,),
        "does not allow its user what is needed",
        "docs/security.md lists the rights of each role",
    ),
    (
        (redis.AuthenticationError,),
        "refuses the user or the password",
        "write both into RERANK_REDIS_URL: redis://user:password@host:6379/0",
    ),
    (
        (ssl.SSLCertVerificationError,),
        "has a certificate that is not trusted",
        "name its authority, ?ssl_ca_certs=FILE, and the host as the certificate does",
    ),
    ((ssl.SSLError,), "does not speak TLS as expected", "redis:// is without TLS"),
    ((socket.gaierror,), "is at a host that is not known", "look at the name in RERANK_REDIS_URL"),
    ((redis.BusyLoadingError,), "is loading its data", "wait a moment"),
    ((redis.ReadOnlyError,), "is a replica, which cannot be written", "name the primary"),
    ((redis.OutOfMemoryError,), "is full", "give it more memory, or end jobs"),
)
"""Errors by kind, the most telling first: what is wrong, what to do."""


def _reason(error: BaseException) -> str:
    """The words of the server or of the system, in one line."""
    if isinstance(error, ssl.SSLError):
        return str(getattr(error, "verify_message", "") or error.reason or error)
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


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
    """A script's text, preceded by those of the files it includes."""
    text = path.read_text()
    names = [line.removeprefix(_INCLUDE) for line in text.splitlines() if line.startswith(_INCLUDE)]
    return "".join((_SCRIPTS / name).read_text() for name in names) + text


@dataclass(frozen=True, slots=True)
class Connection:
    """What the classes of this package work with."""

    redis: redis.Redis
    keys: Keys
    scripts: Scripts
    settings: Settings
