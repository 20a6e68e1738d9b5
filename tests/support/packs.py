"""Observations of packs on a device that is much too slow for its first limit."""

from __future__ import annotations

from dataclasses import replace

from rerankfleet.shared.observations import Observation

TOKENS = 4096


def seconds(cost: float) -> float:
    """Seconds of a pack on a device that is much too slow for the first limit."""
    return 0.05 + cost / 2000


def pack(cost: float = TOKENS, **fields) -> Observation:
    """A pack that was filled to its limit."""
    observation = Observation(
        at_s=1000.0,
        pairs=max(1, int(cost / 80)),
        text_tokens=int(cost),
        image_tokens=0,
        shared_tokens=0,
        cost=cost,
        waiting_s=1.0,
        preparing_s=0.0,
        forward_s=seconds(cost),
        memory_bytes=1 << 30,
        limited_by="limit",
        limit_tokens=int(cost),
        limit_pairs=1024,
    )
    return replace(observation, **fields)
