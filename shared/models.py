"""The data both sides agree on: what a line of input is, what a job is, what comes back.

Validated once, at the border; frozen from there on. No logic beyond validation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class Priority(StrEnum):
    """Which queue a job's hints go to. Interactive pairs also go first in packs."""

    interactive = "interactive"
    normal = "normal"
    bulk = "bulk"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Document(_Frozen):
    """One candidate. A bare string in the input becomes `Document(text=...)`."""

    id: str | None = None
    text: str


class RerankRequest(_Frozen):
    """One query with its documents: one line of input."""

    id: str | None = None
    query: str
    documents: list[Document] = Field(min_length=1)
    instruction: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    metadata: dict[str, Any] | None = None

    @field_validator("query")
    @classmethod
    def _query_says_something(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("the query is empty")
        return query

    @field_validator("documents", mode="before")
    @classmethod
    def _bare_strings_are_documents(cls, documents: Any) -> Any:
        if isinstance(documents, list):
            return [{"text": d} if isinstance(d, str) else d for d in documents]
        return documents


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
    id: str | None = None
    margin: float
    truncated_tokens: int = 0


class Slice(_Frozen):
    """A contiguous run of one request's documents inside a shard, or a line decided at the door.

    `start` is the ordinal of its first item in the job's cut order, where each pair is one item and
    each line without pairs is one item. `first` is the index of its first document in the request.
    """

    line: int
    start: int
    id: str | None = None
    query: str = ""
    instruction: str | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    first: int = 0
    total: int = 0
    documents: list[Document] = Field(default_factory=list)
    indices: list[int] | None = None
    """Set by a retry: the indices of `documents` in the request, when they are not contiguous."""
    failure: Failure | None = None

    @property
    def items(self) -> int:
        """How many items of the cut order it covers."""
        return 1 if self.failure else len(self.documents)

    def index(self, position: int) -> int:
        """The request's index of the document at `position` in this slice."""
        return self.indices[position] if self.indices is not None else self.first + position


class SliceOutcome(_Frozen):
    """What became of a slice: each of its items is in `results` or in `errors`."""

    line: int
    id: str | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    results: list[Scored] = Field(default_factory=list)
    errors: list[Failure] = Field(default_factory=list)
    provenance: int | None = None
    """Position of the provenance in its part's header."""


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
    """sha256 of an uploaded input; ETag of an object; modification time of a file."""


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


JobState = Literal["running", "paused", "finishing", "done", "cancelled", "failed"]


class JobStatus(_Frozen):
    """What `rerank status` shows: facts from Redis and what they mean."""

    id: str
    state: JobState
    reason: str = ""
    """What holds the job back now, in words; for a failed job, why it failed."""
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
