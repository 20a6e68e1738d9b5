"""The two kinds of data models: ours, checked strictly, and what another process wrote."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Validated once, at the border; frozen from there on; an unknown field is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Reported(Frozen):
    """What a worker told of its work: what a newer one tells beside it is passed over."""

    model_config = ConfigDict(extra="ignore")
