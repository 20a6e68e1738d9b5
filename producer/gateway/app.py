"""The gateway's application: middleware, routes, the page.

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
from starlette.middleware import Middleware
from starlette.staticfiles import StaticFiles

from rerankfleet import __version__
from rerankfleet.producer.api_keys import KeyRing
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway import downloads, fleet, jobs, metrics, openapi_page, uploads
from rerankfleet.producer.gateway.admission import Gateway
from rerankfleet.producer.gateway.connections import Connection
from rerankfleet.producer.gateway.errors import handle_errors
from rerankfleet.producer.gateway.formats import cohere, native, vllm
from rerankfleet.producer.gateway.history import History
from rerankfleet.producer.gateway.middleware import slow_clients
from rerankfleet.producer.gateway.middleware.body_limits import BodyLimits
from rerankfleet.producer.gateway.middleware.head_requests import HeadRequests
from rerankfleet.producer.gateway.middleware.internal_errors import InternalErrors
from rerankfleet.producer.gateway.middleware.keys import Keys
from rerankfleet.producer.gateway.middleware.names import Names
from rerankfleet.producer.gateway.middleware.request_count import RequestCount
from rerankfleet.producer.gateway.middleware.request_id import RequestId
from rerankfleet.producer.gateway.middleware.safe_headers import SafeHeaders
from rerankfleet.producer.gateway.middleware.slashes import Slashes
from rerankfleet.producer.gateway.middleware.slow_clients import SlowClients
from rerankfleet.producer.gateway.paths import Paths
from rerankfleet.producer.gateway.rights import require_rules
from rerankfleet.producer.ports import listen, refuse_open
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.rates import Rates

SHUTDOWN_S = 5
"""How long open requests may take when the gateway is stopped."""

log = structlog.get_logger()

PAGE = files("rerankfleet.producer") / "web"

PARTS = (native, cohere, vllm, jobs, downloads, uploads, fleet, metrics, openapi_page)
ROUTES = tuple(part.routes for part in PARTS)
"""All routes, by part."""


def make_app(client: Client) -> FastAPI:
    """The application over a fleet's client. Raises UsageError where its keys cannot be read."""
    history = History(client)
    settings = client.settings
    ring = KeyRing(settings)
    exposition = metrics.Exposition(client)
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
        ring.start()
        app.state.gateway = Gateway(client, history, *map(anyio.CapacityLimiter, most))
        yield
        ring.stop()
        history.stop()

    app = FastAPI(
        title="rerankfleet",
        version=__version__,
        description="Reranking of texts, images and video frames with Qwen3 rerankers.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(client, ring, exposition),
    )
    app.state.metrics = exposition
    handle_errors(app)
    for routes in ROUTES:
        app.include_router(routes)
    all_routes = [route for routes in ROUTES for route in routes.routes]
    require_rules(all_routes)
    Paths(all_routes, StaticFiles(directory=str(PAGE), html=True)).install(app)
    return app


def _middleware(client: Client, ring: KeyRing, exposition: metrics.Exposition) -> list[Middleware]:
    """What every request passes, outermost first: see `middleware/__init__.py` for the order."""
    settings = client.settings
    if settings.api_keys or settings.api_keys_file:
        guard = Middleware(Keys, ring=ring, rates=Rates(client.store))
    else:
        guard = Middleware(Names, names=(settings.gateway_host, *settings.gateway_names))
    return [
        Middleware(Slashes),
        Middleware(RequestId),
        Middleware(SafeHeaders),
        Middleware(RequestCount, count=exposition.requests.count),
        Middleware(InternalErrors),
        Middleware(SlowClients),
        Middleware(BodyLimits, payload_max=settings.inline_bytes_max),
        guard,
        Middleware(HeadRequests),
    ]


def serve(settings: Settings, listening: socket.socket | None = None) -> None:
    """Serve until a signal ends it, on a socket that listens already or on the address of the
    settings. Raises QueueUnavailable when Redis does not answer, UsageError where others could
    reach it without a key."""
    refuse_open(settings)
    listening = listening or listen(settings.gateway_host, settings.gateway_port)
    drop_unread(listening)
    config = uvicorn.Config(
        make_app(Client(settings)),
        log_level="warning",
        access_log=False,
        http=Connection,
        timeout_graceful_shutdown=SHUTDOWN_S,
        server_header=False,
    )
    with listening:
        host, port = listening.getsockname()[:2]
        log.info("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}")
        uvicorn.Server(config).run(sockets=[listening])


def drop_unread(listening: socket.socket) -> None:
    """Have the system end connections of this socket whose clients do not take what was sent: it is
    not kept for ever."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        unread_ms = int(slow_clients.UNREAD_S * 1000)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, unread_ms)
