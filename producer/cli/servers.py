"""The commands that run the fleet's processes, and check their health."""

from __future__ import annotations

import socket
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from rerankfleet.producer.cli.common import connected
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.shown import tell

POCKET = "pocket-text"


class Role(StrEnum):
    """What `rerank health` checks."""

    worker = "worker"
    coordinator = "coordinator"
    gateway = "gateway"


NoKeys = Annotated[
    bool,
    typer.Option(
        "--no-keys",
        help="without API keys, let everyone who reaches the gateway use it",
    ),
]


def _no_keys(no_keys: bool) -> dict[str, bool]:
    """The override of the setting; the flag's absence leaves RERANK_NO_KEYS as it is."""
    return {"no_keys": True} if no_keys else {}


def up(
    model: Annotated[
        str | None, typer.Option(help="a model folder or hub name; pocket-text to try it out")
    ] = None,
    no_keys: NoKeys = False,
) -> None:
    """Run the whole stack on this machine in the foreground: server, coordinator, worker, gateway.

    Example: rerank up --model Qwen/Qwen3-Reranker-0.6B

    Example: RERANK_GATEWAY_PORT=9000 RERANK_STATE_DIR=/data/rerank rerank up
    """
    from rerankfleet.producer.local import stack
    from rerankfleet.shared.processes import Signals
    from rerankfleet.shared.settings import read_environment

    signals = Signals()
    signals.heed()  # also while the stack is being started
    settings = read_environment(**_no_keys(no_keys))  # not the address of another `rerank up`
    if model is None:
        model = POCKET
        sys.stderr.write(
            f"No --model was named: this serves {POCKET}, a DEMONSTRATION MODEL that knows little "
            "more than shared words.\nFor real scores: rerank up --model Qwen/Qwen3-Reranker-0.6B\n"
        )
    no_gateway = "pip install 'rerankfleet[gateway]' adds it"
    with stack(settings, model, gateway=True, signals=signals) as local:
        from rerankfleet.shared.addresses import mask

        for line in (
            f"Redis    {mask(local.settings.redis_address)}",
            f"storage  {local.settings.storage_uri}",
            f"state    {settings.state_dir}",
            f"gateway  {local.gateway or no_gateway}",
            "The worker is loading the model. In another terminal:",
            f"  rerank submit pairs.jsonl -o ranked.jsonl --model {model} --wait",
            "Ctrl-C stops everything and keeps the data.",
        ):
            tell(line)
        local.supervisor.wait()
        sys.stderr.write("stopping\n")


def demo() -> None:
    """Run the main job once, on free ports: a small stack, the example, its ranking, the figures.

    Example: rerank demo
    """
    from rerankfleet.producer.demo import run_demo

    run_demo()


def coordinator() -> None:
    """Run what feeds, finishes and monitors jobs. Any number may run.

    Example: RERANK_REDIS_URL=redis://redis:6379/0 rerank coordinator
    """
    from rerankfleet.producer.coordinator.process import children
    from rerankfleet.shared.processes import Supervisor
    from rerankfleet.shared.settings import load_settings
    from rerankfleet.shared.state.connection import connect

    settings = load_settings()
    connect(settings).close()
    Supervisor(children(settings)).run()


def gateway(
    host: Annotated[str | None, typer.Option(help="else RERANK_GATEWAY_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="else RERANK_GATEWAY_PORT")] = None,
    no_keys: NoKeys = False,
    opened: Annotated[
        int | None,
        typer.Option("--socket", hidden=True, help="the number of an open socket"),
    ] = None,
) -> None:
    """Serve the fleet over HTTP: /v1/rerank and its kin, jobs, uploads, metrics, the page.

    Example: rerank gateway --port 8080
    """
    from rerankfleet.shared.settings import load_settings

    address: dict[str, Any] = {"gateway_host": host, "gateway_port": port}
    address |= _no_keys(no_keys)
    settings = load_settings(**{name: v for name, v in address.items() if v is not None})
    try:
        from rerankfleet.producer.gateway.app import serve
    except ImportError as error:
        raise UsageError(
            f"the gateway needs {error.name}", hint="pip install 'rerankfleet[gateway]'"
        ) from error
    serve(settings, _opened(opened))


def _opened(number: int | None) -> socket.socket | None:
    """The socket that whoever started this process has opened for it."""
    if number is None:
        return None
    try:
        return socket.socket(fileno=number)
    except OSError as error:
        raise UsageError(f"--socket {number} is no socket ({error.strerror})") from error


def health(
    role: Annotated[
        Role,
        typer.Argument(help="what to look at; `worker` and `gateway` mean: on this host"),
    ],
) -> None:
    """Check the health of a role: exit code 0 or 1, and one sentence. For container health checks.

    Example: rerank health worker
    """
    look = {
        Role.worker: _worker_health,
        Role.coordinator: _coordinator_health,
        Role.gateway: _gateway_health,
    }
    healthy, sentence = look[role]()
    tell(sentence)
    if not healthy:
        raise typer.Exit(1)


def _worker_health() -> tuple[bool, str]:
    here = [w for w in connected().workers() if w.host == socket.gethostname()]
    ready = [w for w in here if w.state != "loading"]
    sentence = f"{len(ready)} of {len(here)} workers of this host have loaded their model"
    return bool(ready), sentence


def _coordinator_health() -> tuple[bool, str]:
    from rerankfleet.shared.advice import silent_limit_s

    client = connected()
    client.objects.check(client.objects.at("jobs"))
    silent_s = client.store.coordination.silent_s()
    sentence = f"the coordinator gave a sign of life {silent_s:.0f} s ago"
    return silent_s < silent_limit_s(client.settings.tick_s), sentence


def _gateway_health() -> tuple[bool, str]:
    from http.client import HTTPConnection, HTTPException

    from rerankfleet.shared.settings import load_settings

    settings = load_settings()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.gateway_host, settings.gateway_host)
    connection = HTTPConnection(host, settings.gateway_port, timeout=5)
    try:
        connection.request("GET", "/health/live")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return False, f"the gateway at {host}:{settings.gateway_port} does not answer ({error})"
    finally:
        connection.close()
    return status == 200, f"the gateway answers with {status}"
