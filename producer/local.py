"""`rerank up` and `rerank demo`: the whole stack on one machine, as child processes.

An embedded Valkey with an append-only file, a coordinator and a worker per model. Data is kept in
the state folder across restarts; the address is recorded there for commands in other terminals.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rerankfleet.producer.coordinator import process
from rerankfleet.producer.embedded import embedded_server
from rerankfleet.producer.ports import listen, refuse_open
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.processes import Child, Signals, Supervisor
from rerankfleet.shared.settings import ADDRESS_FILE, STORAGE_FOLDER, Settings, read_address
from rerankfleet.shared.state.connection import connect

SERVER_FOLDER = "redis"
"""Where in the state folder the embedded server keeps its data."""
PORTS_TRIED = 20
"""How many ports the gateway tries, from its configured one on."""


@contextmanager
def stack(
    settings: Settings,
    *models: str,
    environment: Mapping[str, str] | None = None,
    log_dir: Path | None = None,
    gateway: bool = False,
    signals: Signals | None = None,
) -> Iterator[Local]:
    """Run server, coordinator, a worker per model and, with `gateway`, a gateway if installed.

    The address is recorded while the block runs; at its end all are stopped. `environment` is
    added to that of the workers: for example, access to S3.
    """
    if gateway:
        refuse_open(settings)
    _make_private_folders(settings)
    with (
        _gateway_socket(settings, gateway) as listening,
        _server(settings) as (redis_url, server),
    ):
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
        url, gateways = _gateway(settings, listening) if listening else (None, [])
        children = [*server, *process.children(settings), *workers, *gateways]
        for child in children:
            child.log_file = str(log_dir / f"{child.name}.log") if log_dir else None
        supervisor = Supervisor(children, signals)
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


@contextmanager
def _gateway_socket(settings: Settings, wanted: bool) -> Iterator[socket.socket | None]:
    """The socket that the gateway will listen on; None where its libraries are not installed.

    It is opened here and handed over, so that nobody else takes its port meanwhile, and a gateway
    that is started again has the same.
    """
    if not wanted or not all(map(find_spec, ("fastapi", "uvicorn", "prometheus_client"))):
        yield None
        return
    first = settings.gateway_port
    ports = range(first, min(first + PORTS_TRIED, 65_536)) if first else ()
    with listen(settings.gateway_host, *ports, 0) as listening:
        yield listening


def _gateway(settings: Settings, listening: socket.socket) -> tuple[str, list[Child]]:
    """The gateway's address, and its process."""
    host, port = listening.getsockname()[:2]
    env = settings.model_copy(update={"gateway_port": port}).environment()
    command = _command("gateway", "--socket", str(listening.fileno()))
    child = Child("gateway", command, env, vital=False, files=(listening.fileno(),))
    return f"http://{f'[{host}]' if ':' in host else host}:{port}", [child]


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
    with (
        _only_stack(settings.state_dir),
        embedded_server(settings.state_dir / SERVER_FOLDER) as (url, server),
    ):
        yield url, [server]


def _make_private_folders(settings: Settings) -> None:
    """Make the state folder and ours in it, which this user alone may read.

    A state folder that exists already may hold other things, so its own mode is left as it is.
    """
    state = settings.state_dir
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (state / SERVER_FOLDER, state / STORAGE_FOLDER):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)


@contextmanager
def _only_stack(state: Path) -> Iterator[None]:
    """Hold the state folder during the block; one whose holder was killed is free again.

    Raises UsageError where another stack holds it.
    """
    with (state / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = read_address(state).get("pid", "still starting")
            raise UsageError(
                f"`rerank up` already runs with the state folder {state} (pid {pid})",
                hint="use it, stop it, or set RERANK_STATE_DIR to another folder",
            ) from error
        yield
