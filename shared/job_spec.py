"""What a job is: its input, its options, its priority. Validated once, never changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from rerankfleet.shared.calibration import Calibration
from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.images import (
    FRAMES_MAX,
    MIN_PIXELS,
    VIDEO_PIXELS,
    ImageSpec,
    ResizeMode,
    target_within,
)
from rerankfleet.shared.content.options import (
    SCORING_OPTIONS,
    ImagePreset,
    Instructions,
    MaxLength,
    MaxTokensPerDoc,
    Pixels,
    QualityAction,
    Temperature,
    TopP,
    VideoFps,
    VideoFrames,
    VideoPixels,
)
from rerankfleet.shared.content.validation import first_error
from rerankfleet.shared.errors import InvalidOption, dotted


class Priority(StrEnum):
    """Which queue a job's hints go to. Interactive pairs also go first in packs."""

    interactive = "interactive"
    normal = "normal"
    bulk = "bulk"


class InputRef(Frozen):
    """Which bytes a job reads, pinned so that a change is noticed."""

    uri: str
    size: int
    tag: str
    """ETag of an object, modification time of a file."""
    sha256: str | None = None
    """Known where the bytes passed through the client, or lie in a folder."""


OutputFormat = Literal["jsonl", "parquet"]


class Catalog(Frozen):
    """What makes a job a catalog: every query meets every image of the input."""

    queries: InputRef
    """One JSON content a line, with its id."""
    count: int = Field(ge=1)
    """How many queries there are."""
    format: OutputFormat = "jsonl"


class JobSpec(Frozen):
    """A job's options: validated once, never changed."""

    model: str
    input: InputRef
    """Of a catalog: its lines, or a folder or prefix, whose URI ends with a slash."""
    catalog: Catalog | None = None
    output: str | None = None
    """A URI that the coordinator writes, or None: the client fetches the result from storage.
    Of a catalog it ends with a slash."""
    profile: str | None = None
    """The profile that was named: its values stand in the other fields, as the client found it."""
    instruction: str | None = None
    instructions: Instructions = Field(default_factory=dict)
    """Instead of `instruction`, for queries in these languages."""
    max_length: MaxLength = 8192
    max_tokens_per_doc: MaxTokensPerDoc | None = None
    """A document's text is cut to so many tokens; its images are never cut."""
    top_n: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    priority: Priority = Priority.normal
    temperature: Temperature = 1.0
    top_p: TopP = 1.0
    adaptive_temperature: bool = False
    """Whether this job's scores may change the temperature of later jobs of its profile."""
    profile_temperature: float = 1.0
    """The profile's own, from which `temperature` may have been adapted."""
    image_preset: ImagePreset = "general"
    resize_mode: ResizeMode = "crop"
    max_crop: float = Field(default=0.15, ge=0, le=1)
    """A crop that would lose more than this share of the image becomes `fit`."""
    pad_color: tuple[int, int, int] | None = None
    """What `fit` pads with to the preset's shape, as red, green, blue; None: no padding."""
    min_pixels: Pixels = MIN_PIXELS
    """An image with fewer is enlarged to about so many."""
    max_pixels: Pixels | None = None
    """Instead of the pixels of the preset's target, whose shape stays."""
    video_fps: VideoFps | None = None
    """How many frames stand for a second in videos that do not say."""
    video_max_frames: VideoFrames = FRAMES_MAX
    """Of a longer video so many are read, spread evenly."""
    video_total_pixels: VideoPixels = VIDEO_PIXELS
    """Of all frames of a video together; each has 4 tokens at the least."""
    quality_threshold: float = Field(default=0.65, ge=0, le=1)
    quality_action: QualityAction = "off"
    explain: bool = False
    """Score each pair again with parts left out, for its sub-scores."""
    max_error_rate: float = Field(default=0.5, ge=0, le=1)
    """The share of failed fetches that pauses the job."""
    key: str | None = None
    force: bool = False
    name: str = ""
    local_output: str | None = None
    """Where the submitting client wants the result; it writes there itself."""

    @model_validator(mode="after")
    def _has_an_image_spec(self) -> JobSpec:
        """Raises InvalidOption for options of images that do not go together."""
        _ = self.image_spec
        return self

    @property
    def image_spec(self) -> ImageSpec:
        """How its images are prepared."""
        budget: dict[str, Any] = {}
        if self.max_pixels is not None:
            target = target_within(self.image_preset, self.max_pixels)
            budget = {"max_pixels": self.max_pixels, "target": target}
        return ImageSpec(
            preset=self.image_preset,
            resize_mode=self.resize_mode,
            max_crop=self.max_crop,
            pad_color=self.pad_color,
            min_pixels=self.min_pixels,
            **budget,
        )

    @property
    def calibration(self) -> Calibration:
        """How its margins become scores."""
        return Calibration(self.temperature, self.top_p)

    @property
    def scoring_options(self) -> dict[str, Any]:
        """What the output depends on besides input and model, as a manifest records it."""
        return self.model_dump(mode="json", include=SCORING_OPTIONS)


def make_spec(**fields: Any) -> JobSpec:
    """Validate a job's options. Raises InvalidOption naming the first that is wrong."""
    try:
        return JobSpec(**fields)
    except ValidationError as error:
        path, message = first_error(error.errors())
        text = f"{dotted(path)} is wrong: {message}"
        raise InvalidOption(str(path[0]), text, inside=path[1:]) from error
