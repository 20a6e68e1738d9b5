"""The outcome of a pair, a score or a failure, and what produced it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from rerankfleet.shared.content.base import Reported
from rerankfleet.shared.content.validation import ItemId

POOR_QUERY = "low_quality_query"
"""Rejects a whole request: each of its pairs has this code, its line of output has it once."""
REJECTIONS = frozenset({"low_quality", POOR_QUERY})
"""Codes of failures that are decisions by the job's own options, not errors."""
RETRYABLE = frozenset({"cancelled", "fetch_failed", "timeout", "decode_timeout"})
"""Codes of failures for which a retry may succeed. All others need a change."""


class Failure(Reported):
    """Why a line (index None) or one pair has no score."""

    margin: ClassVar[None] = None
    """So that scores and failures can be told apart in one list."""

    line: int
    index: int | None = None
    id: ItemId | None = None
    """The document's own."""
    image: str | None = None
    """The address of the image that is wrong, without secrets."""
    code: str
    message: str
    hint: str = ""
    quality: float | None = None
    """Of the image that was too poor, 0..1."""
    metadata: dict[str, Any] | None = None
    """The document's own."""

    @property
    def rejected(self) -> bool:
        """Whether it counts as rejected rather than as an error: a retry leaves it as it is."""
        return self.code in REJECTIONS

    @property
    def retryable(self) -> bool:
        """Whether a retry may succeed."""
        return self.code in RETRYABLE


class Provenance(Reported):
    """What produced a score."""

    model: str
    revision: str
    template: str
    dtype: str
    attention: str
    device: str
    version: str
    pixels: str | None = None
    """How images were resized, preset first; None for a model that reads text only."""
    video: str | None = None
    """Most frames of a video, their pixels in total, and the frames per second assumed."""


class ImageFacts(Reported):
    """What was done to one image before it was scored. Sizes are (width, height) in pixels."""

    original: tuple[int, int]
    used: tuple[int, int]
    cropped: float
    """Share of the image's area that was cropped away, 0..1."""
    quality: float
    """0..1, from sharpness and exposure."""
    tokens: int
    """Visual tokens."""


class Scored(Reported):
    """One pair's score. `truncated_tokens` counts what max_length and max_tokens_per_doc cut off.

    The fields of images are None for a pair of text.
    """

    code: ClassVar[None] = None
    """So that scores and failures can be told apart in one list."""

    index: int
    id: ItemId | None = None
    margin: float
    truncated_tokens: int = 0
    crowded: bool = False
    """The query alone filled max_length: nothing of the document was read."""
    quality: float | None = None
    """The poorest of the pair's images, 0..1."""
    tokens: int | None = None
    """Visual tokens of the document."""
    plain_margin: float | None = None
    """The margin before it was lowered for poor quality."""
    images: list[ImageFacts] | None = None
    channels: dict[str, float] | None = None
    """Margins of its parts, when the job asks for sub-scores: see `shared.sub_scores`."""
    metadata: dict[str, Any] | None = None
    """The document's own."""
    twin: str | None = None
    """The index of the first equal document of its request, where that is another one; in a ranked
    catalog a word that equal images share. See `shared.content.twins`."""


class SliceOutcome(Reported):
    """The outcome of a slice: each of its items is in `results` or in `errors`."""

    line: int
    id: ItemId | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    results: list[Scored] = Field(default_factory=list)
    errors: list[Failure] = Field(default_factory=list)
