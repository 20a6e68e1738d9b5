"""Where `rerank up` finds its ports."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
from pydantic import SecretStr

from rerankfleet.producer import local
from rerankfleet.producer.ports import listen, refuse_open
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings
from tests.support.server import free_port
from tests.support.wait import patient, wait_until


def listener(host: str) -> socket.socket:
    """A socket that listens on an address, on a port of the system's choice."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.bind((host, 0))
    sock.listen()
    return sock


def has_ipv6() -> bool:
    try:
        listener("::1").close()
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", pytest.param("::1", marks=IPV6)])
def test_a_port_must_be_free_on_the_given_address(host):
    with closing(listener(host)) as taken:
        port = taken.getsockname()[1]
        with listen(host, port, 0) as other:
            assert other.getsockname()[1] != port
    with listen(host, port, 0) as own:
        assert own.getsockname()[1] == port


def test_an_address_of_another_host_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"192.0.2.1:\* cannot be .* RERANK_GATEWAY_HOST"):
        listen("192.0.2.1", 8080, 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gpu-node"])
def test_beyond_this_host_a_gateway_needs_keys(tmp_path, host):
    open_to_all = Settings(gateway_host=host, state_dir=tmp_path / "state")
    with (
        pytest.raises(UsageError, match=r"without keys .* RERANK_API_KEYS, unless a proxy"),
        local.stack(open_to_all, gateway=True),
    ):
        pass
    assert not open_to_all.state_dir.exists()  # refused before anything was started
    refuse_open(open_to_all.model_copy(update={"no_keys": True}))
    refuse_open(open_to_all.model_copy(update={"api_keys": (SecretStr("k"),)}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_on_this_host_it_needs_none(host):
    refuse_open(Settings(gateway_host=host))


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "http://127.0.0.1:"), pytest.param("::1", "http://[::1]:", marks=IPV6)],
)
def test_the_address_that_is_shown_can_be_opened(tmp_path, host, shown):
    pytest.importorskip("fastapi")
    settings = Settings(gateway_host=host, state_dir=tmp_path)
    with local._gateway_socket(settings, wanted=True) as listening:
        assert listening is not None
        url, (child,) = local._gateway(settings, listening)
        assert url == f"{shown}{listening.getsockname()[1]}"
        assert child.name == "gateway"


def test_two_that_choose_at_once_get_ports_of_their_own():
    # given many that want the same ports
    first = free_port()
    start = threading.Barrier(8)

    def chosen(_: int) -> socket.socket:
        start.wait(patient(10))
        return listen("127.0.0.1", *range(first, first + 3), 0)

    # when all choose at the same moment
    with ThreadPoolExecutor(8) as pool:
        sockets = list(pool.map(chosen, range(8)))
    # then nobody has another's
    ports = [s.getsockname()[1] for s in sockets]
    for opened in sockets:
        opened.close()
    assert len(set(ports)) == 8
    assert first in ports


@pytest.mark.slow
def test_two_stacks_that_start_at_once_both_have_a_gateway(tmp_path, redis_server):
    # given two stacks that want the same port
    pytest.importorskip("fastapi")
    port = free_port()
    settings = [
        Settings(redis_url=redis_server, state_dir=tmp_path / name, gateway_port=port)
        for name in ("one", "other")
    ]
    with ExitStack() as stacks:
        # when both have started, and neither gateway has come so far as to use its port
        both = [stacks.enter_context(local.stack(s, gateway=True)) for s in settings]
        # then each answers at the address that was shown
        assert both[0].gateway == f"http://127.0.0.1:{port}"
        assert both[1].gateway != both[0].gateway
        for stack in both:
            assert httpx.get(f"{stack.gateway}/health/live", timeout=patient(60)).status_code == 200
        # and one that is killed comes back to its own
        (child,) = [c for c in both[0].supervisor.children if c.name == "gateway"]
        assert child.process is not None
        child.process.kill()
        child.process.wait(patient(10))
        wait_until(
            lambda: both[0].supervisor.watch() or (child.process and not child.process.poll())
        )
        assert httpx.get(f"{both[0].gateway}/health/live", timeout=patient(60)).status_code == 200
