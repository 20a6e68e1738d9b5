"""What a policy remembers of a worker between two decisions; JSON beside the limit in Redis."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from rerankfleet.shared.observations import Observation
from rerankfleet.workers.batch_limits.latency import Fit
from rerankfleet.workers.batch_limits.settings import PolicySettings

#: The longest time for which a ceiling holds before it rises.
CEILING_MAX_S = 86_400.0
#: The policy `thresholds`: packs before the latest ones count as at most this many.
AVERAGED = 32


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ceiling(_Frozen):
    """The pack that ran out of memory, and the limit since."""

    oom_tokens: FiniteFloat
    tokens: FiniteFloat = Field(gt=0)
    at_s: FiniteFloat
    holds_s: FiniteFloat = Field(gt=0, le=CEILING_MAX_S)

    def at(self, now_s: float) -> float:
        """The ceiling in tokens: constant at first, then rising."""
        rising_s = max(now_s - self.at_s - self.holds_s, 0.0)
        return self.tokens * math.exp2(min(rising_s / self.holds_s, 64.0))


class PackMemory(_Frozen):
    """A pack that fitted, and the memory that it used (0: unknown)."""

    cost: FiniteFloat = Field(gt=0)
    memory_bytes: int = Field(ge=0)


class Latencies(_Frozen):
    """Packs since the limit last changed: their number and total seconds."""

    packs: int = Field(0, ge=0)
    seconds: FiniteFloat = Field(0.0, ge=0)

    def plus(self, packs: Sequence[Observation]) -> Latencies:
        """With these packs added. Earlier ones count as AVERAGED packs at most, so that a change of
        speed is noticed within a few packs even after an hour at another one."""
        earlier = min(self.packs, AVERAGED)
        seconds = self.seconds * earlier / max(self.packs, 1) + sum(p.forward_s for p in packs)
        return Latencies(packs=earlier + len(packs), seconds=seconds)

    @property
    def mean_ms(self) -> float:
        """Their mean; 0 when there are none."""
        return 1000 * self.seconds / max(self.packs, 1)


class PolicyState(_Frozen):
    """A worker's limit, the reason for it, and what its policy learned. A few kilobytes of JSON."""

    tokens: int
    pairs: int
    reason: str = Field(max_length=500)
    changed: bool = False
    """Whether the last decision changed the limit."""
    first_tokens: int
    """The limit at the start."""
    first_pairs: int
    ceiling: Ceiling | None = None
    smallest: PackMemory | None = None
    largest: PackMemory | None = None
    interactive_at_s: FiniteFloat | None = None
    """When interactive pairs were last scored."""
    fit: Fit | None = None
    full: Latencies = Latencies()
    """Full packs under this limit (policy `thresholds`)."""
    every: Latencies = Latencies()
    """All packs under this limit (policy `thresholds`)."""

    def with_limit(
        self, settings: PolicySettings, tokens: float, pairs: int, reason: str | None = None
    ) -> PolicyState:
        """The same with another limit, clamped to the policy's bounds."""
        thresholds = settings.policy == "thresholds"
        low = settings.pairs_low if thresholds else 1
        high = settings.pairs_high if thresholds else settings.pairs_max
        update = {
            "tokens": int(min(max(tokens, settings.tokens_min), settings.tokens_max)),
            "pairs": min(max(pairs, low), high),
            "reason": self.reason if reason is None else reason,
        }
        return self.model_copy(update=update)

    def to_json(self) -> str:
        """For `from_json`."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str | bytes | None) -> PolicyState | None:
        """Reads what `to_json` wrote; None for anything else, so that the caller starts afresh."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            return None
