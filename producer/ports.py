"""Ports of this machine, and who may reach them."""

from __future__ import annotations

import ipaddress
import socket

from rerankfleet.producer.api_keys import KeyRing
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings


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
