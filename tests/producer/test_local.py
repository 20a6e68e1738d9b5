"""Where `rerank up` finds its ports."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest
from pydantic import SecretStr

from rerankfleet.producer import local
from rerankfleet.producer.ports import free_port, refuse_open
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings


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
        assert free_port(port, host=host) != port
    assert free_port(port, host=host) == port


def test_an_address_of_another_host_is_refused_with_what_to_do():
    with pytest.raises(UsageError, match=r"no port of 192.0.2.1 .* RERANK_GATEWAY_HOST"):
        free_port(8080, host="192.0.2.1")


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
    url, (child,) = local._gateway(Settings(gateway_host=host, state_dir=tmp_path))
    assert url is not None
    assert url.startswith(shown)
    assert child.name == "gateway"
