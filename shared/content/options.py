"""The options of scoring, each declared once: its type, bounds, default and description.

The specification of a job, the parameters of the command line, the bodies of the gateway, profiles
and docs/options.md are made from the classes below. An option that is not given, or null, has the
value of the job's profile, or else its default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.images import (
    FRAMES_MAX,
    FRAMES_PER_S,
    MAX_CROP,
    MAX_PIXELS,
    MIN_PIXELS,
    PRESET,
    PRESETS,
    RESIZE_MODE,
    VIDEO_PIXELS,
    ResizeMode,
)
from rerankfleet.shared.content.validation import WHOLE, no_boolean

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

NO_PROFILE = "default"
"""Under which jobs without a profile are counted."""

ENGLISH = "en"
LANGUAGES = frozenset(
    "af ar az be bg bn bs ca cs cy da de el en eo es et eu fa fi fr ga gu he hi hr hu hy id is it "
    "ja ka kk ko la lg lt lv mi mk mn mr ms nb nl nn pa pl pt ro ru sk sl sn so sq sr st sv sw ta "
    "te th tl tn tr ts uk ur vi xh yo zh zu".split()
)
"""ISO 639-1 codes of the languages that a worker recognises: those of lingua."""


@dataclass(frozen=True, slots=True)
class Unset:
    """Metadata of an option whose default is None: what that means, in a few words."""

    meaning: str


def _preset(value: str) -> str:
    if value not in PRESETS:
        raise PydanticCustomError("preset", f"expected one of {', '.join(PRESETS)}")
    return value


def _few_languages(value: Any) -> Any:
    """Refuse more entries than there are languages, before each of them becomes an error; null and
    a blank instruction are no entry."""
    if not isinstance(value, dict):
        return value
    if len(value) > len(LANGUAGES):
        raise PydanticCustomError("language", f"expected at most {len(LANGUAGES)} languages")
    return {code: text for code, text in value.items() if _empty_if_blank(text) not in (None, "")}


def _empty_if_blank(value: Any) -> Any:
    return "" if isinstance(value, str) and not value.strip() else value


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


TOKENS_MAX = 40_960
"""No model reads more tokens than this."""

Instruction = Annotated[str, Field(max_length=64 << 10), BeforeValidator(_empty_if_blank)]
"""A blank one is empty, and an empty one is none."""
Instructions = Annotated[
    dict[str, Annotated[str, Field(max_length=64 << 10)]],
    BeforeValidator(_few_languages),
    AfterValidator(_by_language),
]
"""ISO 639-1 code -> the instruction for queries in that language."""
TopN = Annotated[int, Field(ge=0, le=1 << 31), WHOLE]
"""0 means all."""
MaxLength = Annotated[int, Field(ge=128, le=TOKENS_MAX)]
MaxTokensPerDoc = Annotated[int, Field(ge=0, le=TOKENS_MAX)]
"""0 means no limit."""
Pixels = Annotated[int, Field(ge=MIN_PIXELS, le=MAX_PIXELS)]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[int, Field(ge=0, le=255)]
"""Of a colour."""
QualityAction = Literal["off", "reject", "downweight"]
ImagePreset = Annotated[
    str, AfterValidator(_preset), WithJsonSchema({"type": "string", "enum": list(PRESETS)})
]


class OptionGroup(Frozen):
    """Options that belong together."""

    panel: ClassVar[str]
    """Their heading in the help of commands and in the documentation."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where something else is expected: they would be read as 1 and 0."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        is_switch = bool in (annotation, *get_args(annotation))
        return value if is_switch else no_boolean(value)


class PairOptions(OptionGroup):
    """How a pair of query and document is scored."""

    panel: ClassVar[str] = "Scores"

    instruction: Annotated[Instruction | None, Unset("the model's own")] = Field(
        default=None, description="the task, for requests that bring none; English works best"
    )
    instructions: Instructions = Field(
        default_factory=dict,
        description="the task for queries in a language, instead of the instruction; "
        "by ISO 639-1 code",
    )
    max_length: MaxLength = Field(
        default=8192, description="tokens of a query with its document, whose text is cut to fit"
    )
    max_tokens_per_doc: Annotated[MaxTokensPerDoc | None, Unset("no limit")] = Field(
        default=None,
        description="tokens that a document's text is cut to; images are never cut; 0: no limit",
    )
    temperature: float = Field(
        default=1.0,
        ge=0.1,
        le=2,
        description="divides the margin before the sigmoid; never changes an order",
    )
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a score becomes 0 or 1 when its likelier answer is at least this probable; "
        "1: off",
    )
    explain: bool = Field(
        default=False,
        description="add visual match, text alignment and consistency; up to 5 × the work",
    )


class ResultOptions(OptionGroup):
    """Which results are kept."""

    panel: ClassVar[str] = "Results"

    top_n: Annotated[TopN | None, Unset("all")] = Field(
        default=None,
        description="results kept per request, of a catalog ranked per query; 0: all",
    )


class AdaptationOptions(OptionGroup):
    """What a job changes for later jobs."""

    panel: ClassVar[str] = "Scores"

    adaptive_temperature: bool = Field(
        default=False,
        description="whether the scores may change the temperature of the profile's later jobs",
    )


class ImageOptions(OptionGroup):
    """How images are prepared."""

    panel: ClassVar[str] = "Images"

    image_preset: ImagePreset = Field(default=PRESET, description="target resolution of images")
    resize_mode: ResizeMode = Field(
        default=RESIZE_MODE,
        description="crop to the nearest usual shape, or fit the whole image",
    )
    max_crop: Share = Field(
        default=MAX_CROP,
        description="share of an image that may be cropped; one that would lose more is fitted",
    )
    pad_color: Annotated[
        tuple[Level, Level, Level] | None, Field(strict=False), Unset("no padding")
    ] = Field(
        default=None,
        description="red, green and blue that a fitted image is padded with, to the preset's shape",
    )
    min_pixels: Pixels = Field(
        default=MIN_PIXELS, description="an image with fewer pixels is enlarged to about this many"
    )
    max_pixels: Annotated[Pixels | None, Unset("the preset's")] = Field(
        default=None, description="pixels of an image in the preset's shape, instead of its size"
    )
    quality_threshold: Share = Field(
        default=0.65, description="quality of an image below which the quality action is taken"
    )
    quality_action: QualityAction = Field(
        default="off",
        description="what happens to a poor image: nothing, a rejection, or a lower margin",
    )


class VideoOptions(OptionGroup):
    """How the frames of videos are prepared."""

    panel: ClassVar[str] = "Videos"

    video_fps: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, Unset(f"{FRAMES_PER_S:g}")
    ] = Field(default=None, description="frames that stand for a second, in videos that do not say")
    video_max_frames: int = Field(
        default=FRAMES_MAX,
        ge=1,
        le=FRAMES_MAX,
        description="frames read of a video, evenly spread",
    )
    video_total_pixels: int = Field(
        default=VIDEO_PIXELS,
        ge=MIN_PIXELS,
        le=VIDEO_PIXELS,
        description="pixels of all frames of a video together",
    )


class JobOptions(OptionGroup):
    """What a job takes from its input, and when it is paused."""

    panel: ClassVar[str] = "Jobs"

    limit: Annotated[Annotated[int, Field(ge=1, le=1 << 62)] | None, Unset("all")] = Field(
        default=None, description="take only the first requests, or images of a catalog"
    )
    max_error_rate: Share = Field(
        default=0.5, description="share of failed image fetches at which the job is paused"
    )


class ScoringOptions(
    PairOptions, ResultOptions, AdaptationOptions, ImageOptions, VideoOptions, JobOptions
):
    """Every option of scoring."""

    panel: ClassVar[str] = "Options"


GROUPS: tuple[type[OptionGroup], ...] = (
    *(PairOptions, AdaptationOptions, ResultOptions),
    *(ImageOptions, VideoOptions, JobOptions),
)
"""The groups of `ScoringOptions` in the order in which people read them."""

OF_JOBS = frozenset({*AdaptationOptions.model_fields, *JobOptions.model_fields})
"""The options that have no effect on a single request."""

PLAIN_OPTIONS = ScoringOptions()
"""The defaults."""
