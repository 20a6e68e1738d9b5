"""What recent traffic means for a decision: the present latency target, and empty queues. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.settings import PolicySettings
from rerankfleet.workers.batch_limits.state import PolicyState

#: How long interactive traffic counts as recent.
INTERACTIVE_S = 10.0
STARVED = "starved: the queue was empty, unchanged"


def target(settings: PolicySettings, state: PolicyState, now_s: float) -> tuple[float, str]:
    """Seconds that a pack may take, and a remark when interactive traffic shortens them.

    An interactive pair waits for the running pack and then for its own: half for each.
    """
    target_s = settings.latency_target_ms / 1000
    half_s = settings.interactive_latency_target_ms / 2000
    at_s = state.interactive_at_s
    if at_s is None or now_s - at_s > INTERACTIVE_S or half_s >= target_s:
        return target_s, ""
    return half_s, f", half of the interactive one: such pairs came at {clock(at_s)}"


def clock(at_s: float) -> str:
    """A time of day: a reason may be shown for hours."""
    return f"{datetime.fromtimestamp(at_s, UTC):%H:%M:%S} UTC"


def starved(packs: Sequence[Observation]) -> bool:
    """Whether the queue was empty: then no pack was as large as the limit allows."""
    return all(pack.limited_by == "empty" for pack in packs)


def unchanged(state: PolicyState) -> str:
    """That nothing was learned, with the reason for the limit that still holds."""
    before = state.reason
    return before if before.startswith(STARVED) else f"{STARVED} since: {before}"
