"""Two kinds of data models: checked strictly, or read from what another process wrote."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Validated once, where it enters, and immutable from then on; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reported(Frozen):
    """Written by a worker; fields that only a newer version knows are ignored."""

    model_config = ConfigDict(extra="ignore")
