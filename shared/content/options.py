"""The options of scoring: their types, bounds and defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rerankfleet.shared.content.images import (
    FRAMES_MAX,
    MAX_PIXELS,
    MIN_PIXELS,
    PRESETS,
    VIDEO_PIXELS,
)

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

NO_PROFILE = "default"
"""Under which jobs without a profile are counted."""

QualityAction = Literal["off", "reject", "downweight"]


IMAGE_OPTIONS = {
    "image_preset",
    "resize_mode",
    "max_crop",
    "pad_color",
    "min_pixels",
    "max_pixels",
    "video_fps",
    "video_max_frames",
    "video_total_pixels",
    "quality_threshold",
    "quality_action",
    "explain",
    "max_error_rate",
}
CALIBRATION_OPTIONS = {"temperature", "top_p"}
LENGTH_OPTIONS = {"max_length", "max_tokens_per_doc"}
SCORING_OPTIONS = (
    {"profile", "instruction", "instructions", "top_n", "limit"}
    | LENGTH_OPTIONS
    | CALIBRATION_OPTIONS
    | IMAGE_OPTIONS
)

ENGLISH = "en"
LANGUAGES = frozenset(
    "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gu he hi hr hu hy id is it "
    "ja ka kk ko la lg lt lv mi mk mn mr ms nb nl nn pa pl pt ro ru sk sl sn so sq sr st sv sw ta "
    "te th tl tn tr ts uk ur vi xh yo zh zu".split()
)
"""ISO 639-1 codes of the languages that a worker can tell: those of lingua."""


def _preset(value: str) -> str:
    if value not in PRESETS:
        raise PydanticCustomError("preset", f"expected one of {', '.join(PRESETS)}")
    return value


def _by_language(value: dict[str, str]) -> dict[str, str]:
    """Check the languages that have an instruction of their own."""
    for code in value:
        if code == ENGLISH:
            raise PydanticCustomError("language", "the instruction itself is the English one")
        if code not in LANGUAGES:
            raise PydanticCustomError(
                "language", f"{code!r} is no known language: expected a code such as de, fr or zh"
            )
    return value


Temperature = Annotated[float, Field(ge=0.1, le=2.0)]
"""Divides the margin before the sigmoid."""
TopP = Annotated[float, Field(gt=0, le=1)]
"""See `rerankfleet.shared.calibration.relevance_score`; 1 is off."""
MaxLength = Annotated[int, Field(ge=128, le=40960)]
"""Tokens of a pair."""
MaxTokensPerDoc = Annotated[int, Field(ge=1, le=40960)]
"""Tokens of a document's text."""
Pixels = Annotated[int, Field(ge=MIN_PIXELS, le=MAX_PIXELS)]
VideoFps = Annotated[float, Field(gt=0, allow_inf_nan=False)]
VideoFrames = Annotated[int, Field(ge=1, le=FRAMES_MAX)]
VideoPixels = Annotated[int, Field(ge=MIN_PIXELS, le=VIDEO_PIXELS)]
ImagePreset = Annotated[str, AfterValidator(_preset)]
Instructions = Annotated[
    dict[str, Annotated[str, Field(min_length=1)]], AfterValidator(_by_language)
]
"""ISO 639-1 code -> the instruction of queries in that language."""
