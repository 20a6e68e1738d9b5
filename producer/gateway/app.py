"""The gateway's application: routes, the door before them, the page behind them.

`rerank gateway` runs it under uvicorn. One process; any number of gateways may run.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

import anyio
import structlog
import uvicorn
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from rerankfleet import __version__
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway import downloads, fleet, jobs, metrics, openapi_page, uploads
from rerankfleet.producer.gateway.admission import Gateway
from rerankfleet.producer.gateway.errors import handle_errors
from rerankfleet.producer.gateway.formats import cohere, native, vllm
from rerankfleet.producer.gateway.history import History
from rerankfleet.producer.gateway.middleware import door
from rerankfleet.producer.gateway.middleware.door import LOCAL, Door
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings

SHUTDOWN_S = 5
"""How long answers under way may take when the gateway is told to stop."""

log = structlog.get_logger()

PAGE = files("rerankfleet.producer") / "web"


def make_app(client: Client) -> FastAPI:
    """The application over a fleet's client."""
    history = History(client)
    settings = client.settings
    most = (
        settings.gateway_requests_max,
        settings.gateway_streams_max,
        settings.gateway_jobs_max,
        settings.gateway_events_max,
        settings.gateway_uploads_max,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        history.start()
        app.state.gateway = Gateway(client, history, *map(anyio.CapacityLimiter, most))
        yield
        history.stop()

    app = FastAPI(
        title="rerankfleet",
        version=__version__,
        description="Reranking of texts, images and video frames with Qwen3 rerankers.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.metrics = metrics.Exposition(client)
    counted = app.state.metrics.requests
    app.add_middleware(Door, settings=settings, count=counted.count)
    handle_errors(app)
    for part in (native, cohere, vllm, jobs, downloads, uploads, fleet, metrics, openapi_page):
        app.include_router(part.routes)
    app.mount("/", StaticFiles(directory=str(PAGE), html=True), name="page")
    return app


def serve(settings: Settings) -> None:
    """Serve until a signal ends it. Raises QueueUnavailable when Redis does not answer."""
    if not settings.api_keys and settings.gateway_host not in LOCAL:
        log.warning("no RERANK_API_KEYS: whoever reaches this gateway may use it")
    listening = listen(settings.gateway_host, settings.gateway_port)
    config = uvicorn.Config(
        make_app(Client(settings)),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )
    with listening:
        host, port = listening.getsockname()[:2]
        log.info("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError when the address is taken or none of this host's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named, or asyncio would not set TCP_NODELAY: 40 ms with each answer
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # what nobody takes is not kept for ever
            unread_ms = int(door.UNREAD_S * 1000)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
        listening.bind((host, port))
        listening.listen()
        return listening
    except OSError as error:
        listening.close()
        raise UsageError(
            f"{host}:{port} cannot be listened on ({error.strerror})",
            hint="set RERANK_GATEWAY_HOST and RERANK_GATEWAY_PORT to what is free",
        ) from error
