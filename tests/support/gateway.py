"""A gateway in this process, on a real port, with a fleet without a model."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.gateway.app import drop_unread, make_app
from rerankfleet.producer.gateway.connections import Connection
from rerankfleet.producer.ports import listen
from rerankfleet.shared.settings import Settings
from tests.support.fleet import Worker, run, worker_row
from tests.support.wait import patient, wait_until

LOOK_S = 0.01


@contextmanager
def running_gateway(settings: Settings) -> Iterator[httpx.Client]:
    """Serve during the block. Yields a client."""
    config = uvicorn.Config(
        make_app(Client(settings)),
        http=Connection,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as listening:
        drop_unread(listening)
        port = listening.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        wait_until(lambda: server.started, 20, "the gateway listens")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=patient(30)) as client:
            yield client
        server.should_exit = True
        thread.join(patient(10))


@contextmanager
def posted(http: httpx.Client, path: str, body: Mapping[str, Any]) -> Iterator[socket.socket]:
    """Send a request; its client disconnects after the block."""
    data = json.dumps(body).encode()
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.sendall(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (path.encode(), len(data), data)
        )
        yield connection


@contextmanager
def working_fleet(control: Control, worker: Worker | None = None) -> Iterator[Worker]:
    """Run a worker and a coordinator in a thread during the block."""
    worker = worker or Worker(control)
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(LOOK_S):
            row = worker_row(worker.name, worker.model, pairs_per_s=7.0, pairs=70)
            control.store.fleet.beat(row)
            for job_id in control.store.jobs.unfinished():
                control.hints.feed(job_id)
            run(control, worker)
            worker.work()
            for job_id in control.store.jobs.unfinished():
                control.hints.finish(job_id)
            run(control, worker)

    thread = threading.Thread(target=work, daemon=True)
    control.store.fleet.beat(worker_row(worker.name, worker.model))
    thread.start()
    try:
        yield worker
    finally:
        stop.set()
        thread.join(patient(10))


def families(http: httpx.Client, **parameters: str) -> dict[str, Metric]:
    """Families of a scrape by name, as Prometheus' own parser reads them."""
    answer = http.get("/metrics", params=parameters)
    assert answer.status_code == 200
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def scrape(http: httpx.Client, **parameters: str) -> dict[str, list[Sample]]:
    """Samples of a scrape by name."""
    samples: dict[str, list[Sample]] = {}
    for family in families(http, **parameters).values():
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    return samples


def value(samples: dict[str, list[Sample]], name: str, **labels: str) -> float:
    """The value of the one sample of this name that has these labels."""
    (sample,) = [s for s in samples[name] if labels.items() <= s.labels.items()]
    return sample.value


@contextmanager
def stalled(http: httpx.Client, sent: bytes, path: str = "/v1/rerank") -> Iterator[socket.socket]:
    """A connection that has sent only the first bytes of a body."""
    with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
        connection.settimeout(patient(20))
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 900000\r\n\r\n".encode() + sent)
        yield connection


def everything(connection: socket.socket) -> bytes:
    """All bytes until the other side closes the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))
