"""The address of Redis, as both of its clients are given it: redis-py for the records, Celery for
the hints. Each reads a URL in a way of its own, and Celery's checks no certificate; so here the one
URL is taken apart, and both get the same server, database and TLS checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from rerankfleet.shared.addresses import mask
from rerankfleet.shared.errors import UsageError

TIMEOUTS = {
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
}
"""What every connection to Redis has, in seconds."""

_WORDS = {"required": "required", "optional": "optional", "none": "none"}
_WORDS |= {f"cert_{word}": word for word in _WORDS}
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_CHECKED = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
"""TLS unless the URL says otherwise: the certificate and the host's name are checked."""


@dataclass(frozen=True, slots=True)
class RedisURL:
    """The parts of an address. `tls` holds redis-py's options of that name; None: no TLS."""

    host: str
    """With user and password, as they stand in a URL."""
    database: int
    options: str
    """Other options of redis-py, as a query."""
    tls: dict[str, Any] | None

    @property
    def for_records(self) -> str:
        """The URL for redis-py, which also takes `tls` as arguments."""
        scheme = "redis" if self.tls is None else "rediss"
        query = f"?{self.options}" if self.options else ""
        return f"{scheme}://{self.host}/{self.database}{query}"

    @property
    def for_hints(self) -> str:
        """The URL for Celery, to which a semicolon separates several."""
        return f"redis://{self.host.replace(';', '%3B')}/{self.database}"


def read_redis_url(url: str) -> RedisURL:
    """Take an address apart. Raises UsageError saying what is wrong with it, without its password.

    TLS options are those of redis-py; Celery's spelling of them, such as CERT_REQUIRED, is
    understood too.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss") or not _is_host(parts) or "@" in parts.path:
            raise ValueError("it is not the address of a Redis")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        database = query.pop("db", "") or parts.path.strip("/") or "0"
        if not (database.isascii() and database.isdigit()):
            raise ValueError(f"the database {database!r} is not a number")
        tls = {name: query.pop(name) for name in list(query) if name.startswith("ssl_")}
        if tls and parts.scheme == "redis":
            raise ValueError(f"{min(tls)} needs rediss://")
        options = _CHECKED | {name: _tls_option(name, value) for name, value in tls.items()}
    except ValueError as error:
        raise UsageError(
            f"RERANK_REDIS_URL is wrong: {mask(url)}: {error}",
            hint="write redis://host:6379/0, or rediss:// for TLS",
        ) from error
    if options["ssl_cert_reqs"] == "none":
        options["ssl_check_hostname"] = False
    secure = options if parts.scheme == "rediss" else None
    return RedisURL(parts.netloc, int(database), urlencode(query), secure)


def _is_host(parts: SplitResult) -> bool:
    """Whether it names a host. What is wrong with a port is not said: where a password holds a
    slash, its beginning looks like one."""
    try:
        _port = parts.port
    except ValueError:
        return False
    return bool(parts.hostname)


def _tls_option(name: str, value: str) -> Any:
    """An option's value as redis-py takes it."""
    word = value.lower()
    if name in _FILES:
        return value
    if name == "ssl_cert_reqs" and word in _WORDS:
        return _WORDS[word]
    if name == "ssl_check_hostname" and word in _SWITCH:
        return _SWITCH[word]
    known = ", ".join((*_CHECKED, *_FILES))
    raise ValueError(f"{name}={value} is not an option of TLS; these are: {known}")
