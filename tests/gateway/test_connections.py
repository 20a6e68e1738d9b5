"""Connections that send no whole request keep nobody out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from rerankfleet.producer.gateway import connections
from rerankfleet.producer.gateway.connections import Connection
from rerankfleet.shared.settings import Settings
from tests.support.gateway import running_gateway
from tests.support.wait import patient, wait_until

HALF = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: "
WHOLE = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def http(settings: Settings, monkeypatch) -> Iterator[httpx.Client]:
    """A gateway that waits a second for a head."""
    monkeypatch.setattr(connections, "HEAD_S", patient(1))
    with running_gateway(settings) as client:
        yield client


def connected(http: httpx.Client) -> socket.socket:
    address = (http.base_url.host, http.base_url.port)
    return socket.create_connection(address, timeout=patient(20))


def everything(connection: socket.socket) -> bytes:
    """What comes until the gateway closes."""
    received = b""
    while data := connection.recv(1 << 16):
        received += data
    return received


@pytest.mark.parametrize("sent", [b"", b"G", HALF])
def test_a_head_that_does_not_come_is_not_waited_for(http, sent):
    with connected(http) as client:
        client.sendall(sent)
        assert everything(client).startswith(b"HTTP/1.1 408 ")
    assert not Connection.waiting


def test_a_later_head_on_the_same_connection_has_a_deadline_too(http):
    with connected(http) as client:
        client.sendall(WHOLE)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        client.sendall(HALF)
        assert b"HTTP/1.1 408 " in everything(client)


def test_a_head_that_came_in_time_leaves_its_body_the_time_it_needs(http):
    with connected(http) as client:
        client.sendall(
            b"POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: 4\r\n\r\n[1"
        )
        client.settimeout(1.5 * connections.HEAD_S)  # longer than a head is waited for
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(patient(20))
        client.sendall(b",]")
        assert everything(client).startswith(b"HTTP/1.1 422 ")


def test_a_health_check_gets_in_while_others_hold_all_connections(http, monkeypatch):
    # given more half requests than there are connections
    monkeypatch.setattr(Connection, "most", 8)
    monkeypatch.setattr(connections, "HEAD_S", patient(300))
    with ExitStack() as held:
        for _ in range(3 * Connection.most):
            held.enter_context(connected(http)).sendall(HALF)
        wait_until(lambda: len(Connection.waiting) >= Connection.most - 1)
        # then new clients are answered, and those that waited longest made room
        for _ in range(20):
            with httpx.Client(base_url=http.base_url, timeout=patient(20)) as client:
                assert client.get("/version").status_code == 200
        assert len(Connection.waiting) <= Connection.most


def test_as_many_connections_are_held_as_the_process_may_open_files():
    assert 16 <= connections.connections_max() <= connections.CONNECTIONS_MAX
