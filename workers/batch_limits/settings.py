"""One worker's policy with its bounds and thresholds; JSON in its heartbeat."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Policy = Literal["model", "thresholds", "aimd", "fixed"]


class PolicySettings(BaseModel):
    """A policy and what it may do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Policy = "model"
    latency_target_ms: FiniteFloat = Field(1000, gt=0)
    """Target p95 latency of a pack."""
    interactive_latency_target_ms: FiniteFloat = Field(200, gt=0)
    """Target p95 latency of an interactive pair: it waits for the running pack, then for its own,
    and each may take half of it."""
    tokens_min: int = Field(64, ge=1)
    tokens_max: int = Field(131_072, ge=1)
    pairs_max: int = Field(1024, ge=1)
    """Cap on pairs for the policies that limit tokens."""
    memory_bytes_max: int = Field(0, ge=0)
    """Device memory that a pass may use, weights and caches included (policy `model`); 0 when
    unknown."""
    latency_high_ms: FiniteFloat = Field(1000, gt=0)
    latency_low_ms: FiniteFloat = Field(200, ge=0)
    pairs_low: int = Field(4, ge=1)
    pairs_high: int = Field(16, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> PolicySettings:
        for low, high in (
            ("tokens_min", "tokens_max"),
            ("pairs_low", "pairs_high"),
            ("latency_low_ms", "latency_high_ms"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is above {high}")
        return self
