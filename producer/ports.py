"""Ports of this machine, and who may reach them."""

from __future__ import annotations

import ipaddress
import socket

from rerankfleet.producer.api_keys import KeyRing
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings


def listen(host: str, *ports: int) -> socket.socket:
    """A socket that listens on the first of these ports of `host` that is free; 0 is any.

    Nobody else can take the port between the choice and its use. Raises UsageError when none is
    free, or when `host` is no address of this machine.
    """
    for port in ports:
        listening = _socket(host)
        try:
            listening.bind((host, port))
            listening.listen()
            return listening
        except OSError as error:
            listening.close()
            failure = error
    raise UsageError(
        f"{host}:{ports[-1] or '*'} cannot be listened on ({failure.strerror})",
        hint="set RERANK_GATEWAY_HOST and RERANK_GATEWAY_PORT to what is free on this host",
    )


def _socket(host: str) -> socket.socket:
    """A socket for the family of an address; a port that was left a moment ago counts as free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol given asyncio sets TCP_NODELAY: 40 ms less for each response
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def free_port(*preferred: int) -> int:
    """A port of loopback that is free at this moment, one of the preferred if possible.

    For servers that take no socket: they may find it taken by now.
    """
    with listen("127.0.0.1", *preferred, 0) as probe:
        return int(probe.getsockname()[1])


def refuse_open(settings: Settings) -> None:
    """Raise UsageError where a gateway could be used by anyone who reaches this host, unless that
    was asked for; and where its keys cannot be read."""
    KeyRing(settings)
    has_keys = settings.api_keys or settings.api_keys_file
    if not (has_keys or settings.no_keys or is_loopback(settings.gateway_host)):
        raise UsageError(
            f"a gateway on {settings.gateway_host} without keys would serve anyone who reaches it",
            hint="set RERANK_API_KEYS_FILE or RERANK_API_KEYS, unless a proxy or network guards it",
            command="then say --no-keys",
        )


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
