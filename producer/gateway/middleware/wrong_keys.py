"""Wrong keys, counted by the address that they come from.

From the eleventh of a minute on they are answered with 429. A right key still gets in: many clients
may stand behind one address, and one of them that is misconfigured must not lock out the others.
"""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

TRIES = 10
"""Wrong keys of a window that are answered as such."""
WINDOW_S = 60.0
ADDRESSES_MAX = 10_000
"""Addresses that are counted at a time; the one that was quiet for longest is forgotten."""

log = structlog.get_logger()


class WrongKeys:
    """Counts wrong keys by address, and logs those that repeat once a minute, never the key."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def count(self, address: str) -> float | None:
        """Count a wrong key. Returns in how many seconds another may be tried, where that is not
        at once."""
        now_s, network = self._now_s(), _network(address)
        tries = self._tries.get(network)
        if tries is None or now_s - tries.since_s >= WINDOW_S:
            tries = self._tries[network] = _Tries(now_s, before=tries.count if tries else 0)
        self._tries.move_to_end(network)
        if len(self._tries) > ADDRESSES_MAX:
            self._tries.popitem(last=False)
        tries.count += 1
        if tries.count == TRIES:
            log.warning(
                "wrong API keys come again and again",
                address=network,
                count=tries.count,
                in_the_window_before=tries.before,
            )
        return None if tries.count <= TRIES else tries.since_s + WINDOW_S - now_s


@dataclass(slots=True)
class _Tries:
    """Wrong keys from one address in one window."""

    since_s: float
    before: int
    """How many came in the address's window before this one."""
    count: int = 0


def _network(address: str) -> str:
    """What one client has: an IPv4 address, a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a unix socket's client has none
        return address or "unknown"
    return str(ip) if ip.version == 4 else str(ipaddress.ip_network((ip, 64), strict=False))
