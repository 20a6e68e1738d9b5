"""The data both sides agree on: what a line of input is, what a job is, what comes back.

Validated once, at the border; frozen from there on. No logic beyond validation.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import UsageError

POCKET_MODELS = ("pocket-text",)
"""Demonstration models that ship with the package: never chosen silently."""

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class Priority(StrEnum):
    """Which queue a job's hints go to. Interactive pairs also go first in packs."""

    interactive = "interactive"
    normal = "normal"
    bulk = "bulk"


def canonical_model(model: str) -> str:
    """The name under which a model is served: a folder by its full path, a hub name as it is."""
    return (
        model if model in POCKET_MODELS or not Path(model).is_dir() else str(Path(model).resolve())
    )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(_Frozen):
    """One candidate. A bare string in the input becomes `Document(text=...)`."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = None
    text: str


class RerankRequest(_Frozen):
    """One query with its documents: one line of input. Documents are validated one by one, later,
    so that a bad one costs only its own pair."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = None
    query: str
    documents: list[Any]
    instruction: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    metadata: dict[str, Any] | None = None


class Failure(_Frozen):
    """Why a line (index None) or one pair has no score."""

    line: int
    index: int | None = None
    code: str
    message: str
    hint: str = ""


class Provenance(_Frozen):
    """What produced a score."""

    model: str
    revision: str
    template: str
    dtype: str
    attention: str
    device: str
    version: str


class Scored(_Frozen):
    """One pair's score. `truncated_tokens` counts what max_length cut off its body."""

    index: int
    id: str | int | None = None
    margin: float
    truncated_tokens: int = 0
    crowded: bool = False
    """The query alone filled max_length: nothing of the document was read."""


class Slice(_Frozen):
    """A contiguous run of one request's items in the job's cut order: what a shard file holds.

    Each pair is one item, and so is each line without pairs. Items to be scored come first
    (`documents`, with their `indices` in the request), then those decided at the door (`failures`).
    """

    line: int
    id: str | int | None = None
    query: str = ""
    instruction: str | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    documents: list[Document] = Field(default_factory=list)
    indices: list[int] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)

    @property
    def items(self) -> int:
        """How many items of the cut order it covers."""
        return len(self.documents) + len(self.failures)

    def cut(self, first: int, last: int) -> Slice:
        """The items at positions [first, last) as a slice of their own."""
        if first <= 0 and last >= self.items:
            return self
        pairs, first, last = len(self.documents), max(first, 0), min(last, self.items)
        return self.model_copy(
            update={
                "documents": self.documents[first:last],
                "indices": self.indices[first:last],
                "failures": self.failures[max(first - pairs, 0) : max(last - pairs, 0)],
            }
        )


class SliceOutcome(_Frozen):
    """What became of a slice: each of its items is in `results` or in `errors`."""

    line: int
    id: str | int | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    results: list[Scored] = Field(default_factory=list)
    errors: list[Failure] = Field(default_factory=list)


class ShardSummary(_Frozen):
    """The counts that a commit adds to its job."""

    scored: int = 0
    errors: int = 0
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0


class InputRef(_Frozen):
    """Which bytes a job reads, pinned so that a change is noticed."""

    uri: str
    size: int
    tag: str
    """ETag of an object, modification time of a file."""
    sha256: str | None = None
    """Known where the bytes passed through the client, or lie in a folder."""


class JobSpec(_Frozen):
    """A job's options: validated once, never changed."""

    model: str
    input: InputRef
    output: str | None = None
    """A URI that the coordinator writes, or None: the client fetches the result from storage."""
    instruction: str | None = None
    max_length: int = Field(default=8192, ge=128, le=40960)
    top_n: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    priority: Priority = Priority.normal
    temperature: float = Field(default=1.0, ge=0.1, le=2.0)
    key: str | None = None
    force: bool = False
    name: str = ""
    local_output: str | None = None
    """Where the submitting client wants the result; it writes there itself."""

    @property
    def scoring_options(self) -> dict[str, Any]:
        """What the output depends on besides input and model, as a manifest records it."""
        names = {"instruction", "max_length", "top_n", "limit", "temperature"}
        return self.model_dump(mode="json", include=names)


def make_spec(**fields: Any) -> JobSpec:
    """Validate a job's options. Raises UsageError naming the first that is wrong."""
    try:
        return JobSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{field} is wrong: {first['msg']}") from error


class Progress(_Frozen):
    """A job's counts. `total` is known once the whole input was read."""

    lines: int = 0
    fed: int = 0
    total: int | None = None
    scored: int = 0
    errors: int = 0
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0

    @property
    def done(self) -> int:
        """Items with an outcome."""
        return self.scored + self.errors + self.rejected + self.cancelled


JobState = Literal["running", "paused", "finishing", "done", "cancelled"]


class JobStatus(_Frozen):
    """What `rerank status` shows: facts from Redis and what they mean."""

    id: str
    state: JobState
    reason: str = ""
    """What holds the job back now, in words."""
    model: str
    priority: Priority
    progress: Progress
    open_shards: int = 0
    leased_shards: int = 0
    created_s: float
    finished_s: float | None = None
    pairs_per_s: float = 0.0
    eta_s: float | None = None
    name: str = ""
    round: int = 0
    output: str | None = None
