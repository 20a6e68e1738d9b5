"""Ports of this machine."""

from __future__ import annotations

import socket

from rerankfleet.shared.errors import UsageError


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
