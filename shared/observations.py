"""What a worker measured of one pack: the input of batch policies."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """One pack. Times in seconds, sizes in bytes.

    Written by workers as JSON, read by the monitor, which trusts none of its values.
    """

    at_s: float
    """The worker's wall clock when the pack ended."""
    pairs: int
    text_tokens: int
    """Computed tokens of text."""
    image_tokens: int
    """Computed tokens of images."""
    shared_tokens: int
    """Tokens that were not computed, since pairs share them."""
    cost: float
    """Token-equivalents: what the limit bounds."""
    waiting_s: float
    """How long its oldest pair waited, prepared, for the device."""
    preparing_s: float
    """How long the device was idle before it while the worker prepared shards."""
    forward_s: float
    """Seconds of the device's thread: planning, layout and the synchronised forward pass."""
    memory_bytes: int
    """Peak device memory of the pass; resident memory on a CPU; 0 when unknown."""
    limited_by: str
    """What ended the pack: "limit", or "empty" for the queue."""
    oom: bool = False
    interactive: bool = False
    """Holds pairs of interactive requests."""
    limit_tokens: int = 0
    """The limit it was planned under; 0 when unknown."""
    limit_pairs: int = 0
    warm_up: bool = False
    video_tokens: int = 0
    """Those of the image tokens that are of video frames."""
