"""OUTPUT.manifest.json: what a finished output holds and how it was made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.job_spec import InputRef


class Part(BaseModel):
    """A file of a catalog's output: the rows of the items [start, end)."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    start: int
    end: int


class Manifest(BaseModel):
    """The counts of a whole job; `provenance` lists all models and settings that scored it."""

    model_config = ConfigDict(extra="forbid")

    job: str | None = None
    model: str
    input: InputRef
    options: dict[str, Any] = Field(default_factory=dict)
    lines: int = 0
    pairs: int = 0
    """Its pairs, and the lines that could not be read."""
    scored: int = 0
    errors: int = 0
    bad_lines: int = 0
    """Of `pairs` and `errors`: lines that could not be read."""
    rejected: int = 0
    cancelled: int = 0
    truncated: int = 0
    tokens: int = 0
    round: int = 0
    started_s: float = 0.0
    seconds: float = 0.0
    pairs_per_s: float = 0.0
    provenance: list[Provenance] = Field(default_factory=list)
    parts: list[Part] = Field(default_factory=list)
    """A catalog's files, in the order of its images; the folder may hold others too."""
    ranking: str | None = None
    """The file with the best images of each query."""


def manifest_uri(output: str) -> str:
    """The URI of an output's manifest: beside a file, or in a folder (which ends with /)."""
    return f"{output}manifest.json" if output.endswith("/") else f"{output}.manifest.json"
