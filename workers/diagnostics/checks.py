"""The findings of `rerank doctor`: a fact, a verdict, and a remedy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rerankfleet.shared.errors import RerankError

Verdict = Literal["ok", "warning", "broken"]


class Check(BaseModel):
    """One row of the doctor's findings."""

    model_config = ConfigDict(frozen=True)

    name: str
    verdict: Verdict
    fact: str = Field(serialization_alias="found")  # the name in `rerank doctor --json`
    remedy: str = ""


def ok(name: str, fact: str) -> Check:
    """A finding without a problem."""
    return Check(name=name, verdict="ok", fact=fact)


def warning(name: str, fact: str, remedy: str) -> Check:
    """A finding that limits what works."""
    return Check(name=name, verdict="warning", fact=fact, remedy=remedy)


def broken(name: str, fact: str, remedy: str) -> Check:
    """A finding that keeps something from working."""
    return Check(name=name, verdict="broken", fact=fact, remedy=remedy)


def failed(name: str, error: RerankError) -> Check:
    """An error as a finding."""
    return broken(name, error.message, error.shell_hint)
