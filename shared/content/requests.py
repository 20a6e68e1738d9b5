"""A request, and the slices of it that shard files hold."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.content import Content, Document, QueryContent
from rerankfleet.shared.content.options import Instruction, TopN
from rerankfleet.shared.content.outcomes import Failure
from rerankfleet.shared.content.validation import ItemId, listed


class RerankRequest(Frozen):
    """One query with its documents: one line of input. Documents are validated one by one, later,
    so that a bad one costs only its own pair."""

    model_config = ConfigDict(strict=True)

    id: ItemId | None = None
    query: QueryContent
    documents: Annotated[list[Any], BeforeValidator(listed)]
    instruction: Instruction | None = None
    top_n: TopN | None = None
    """None: as the job has it."""
    metadata: dict[str, Any] | None = None


class Slice(Frozen):
    """A contiguous run of one request's items in the job's cut order: what a shard file holds.

    Each pair is one item, and so is each line without pairs. Items to be scored come first
    (`documents`, with their `indices` in the request), then those refused already (`failures`).
    """

    line: int
    id: ItemId | None = None
    query: QueryContent = Content(text="")
    instruction: str | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    documents: list[Document] = Field(default_factory=list)
    indices: list[int] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    twins: dict[int, int] = Field(default_factory=dict)
    """Indices of documents that have an equal one before them -> that one's: see
    `shared.content.twins`."""
    continued: bool = False
    """Its request began in an earlier slice: so requests are counted once."""

    @property
    def items(self) -> int:
        """How many items of the cut order it covers."""
        return len(self.documents) + len(self.failures)

    @property
    def is_bad_line(self) -> bool:
        """Whether it is a line that could not be read, which has no pairs."""
        return any(failure.index is None for failure in self.failures)

    def cut(self, first: int, last: int) -> Slice:
        """The items at positions [first, last) as a slice of their own."""
        if first <= 0 and last >= self.items:
            return self
        pairs, first, last = len(self.documents), max(first, 0), min(last, self.items)
        indices = self.indices[first:last]
        return self.model_copy(
            update={
                "documents": self.documents[first:last],
                "indices": indices,
                "twins": {i: self.twins[i] for i in indices if i in self.twins},
                "failures": self.failures[max(first - pairs, 0) : max(last - pairs, 0)],
                "continued": self.continued or first > 0,
            }
        )


class ImageRun(Frozen):
    """One image of a catalog and a run of its queries, by ordinal: what a catalog's shard file
    holds. Each pair is one item. `load_slices` makes a slice of each."""

    run: tuple[int, int]
    """The queries [first, last)."""
    line: int
    document: Document

    @property
    def items(self) -> int:
        """How many items of the cut order it covers."""
        return self.run[1] - self.run[0]

    def cut(self, first: int, last: int) -> ImageRun:
        """The items at positions [first, last) as a run of their own."""
        at, end = self.run
        return self.model_copy(update={"run": (at + max(first, 0), min(at + last, end))})


Piece = Slice | ImageRun
"""What a shard file holds in a line."""
