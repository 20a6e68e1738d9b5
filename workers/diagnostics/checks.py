"""What `rerank doctor` finds: one fact, whether it is well, and what helps where it is not."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from rerankfleet.shared.errors import RerankError

Verdict = Literal["ok", "warning", "broken"]


class Check(BaseModel):
    """One row of the doctor's findings."""

    model_config = ConfigDict(frozen=True)

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, verdict="ok", found=found)


def warning(name: str, found: str, remedy: str) -> Check:
    """It works, but not as it should."""
    return Check(name=name, verdict="warning", found=found, remedy=remedy)


def broken(name: str, found: str, remedy: str) -> Check:
    """Something that is needed does not work."""
    return Check(name=name, verdict="broken", found=found, remedy=remedy)


def failed(name: str, error: RerankError) -> Check:
    """What an error says, as a finding."""
    return broken(name, error.message, error.hint)
