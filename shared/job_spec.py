"""What a job is: its input, its options, its priority. Validated once, never changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from rerankfleet.shared.calibration import Calibration
from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.images import ImageSpec, target_within
from rerankfleet.shared.content.options import PLAIN_OPTIONS, ScoringOptions
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
    passed_over: str = ""
    """Of a prefix or folder: what was no image when the job was made, in one line."""


OutputFormat = Literal["jsonl", "parquet"]


class Catalog(Frozen):
    """What makes a job a catalog: every query meets every image of the input."""

    queries: InputRef
    """One JSON content a line, with its id."""
    count: int = Field(ge=1)
    """How many queries there are."""
    format: OutputFormat = "jsonl"


class JobSpec(ScoringOptions):
    """A job: its input, output and options. Validated once, never changed."""

    model: str
    input: InputRef
    """Of a catalog: its lines, or a folder or prefix, whose URI ends with a slash."""
    catalog: Catalog | None = None
    output: str | None = None
    """A URI that the coordinator writes, or None: the client fetches the result from storage.
    Of a catalog it ends with a slash."""
    profile: str | None = None
    """The profile that was named: its values stand in the other fields, as the client found it."""
    priority: Priority = Priority.normal
    profile_temperature: float = PLAIN_OPTIONS.temperature
    """The profile's own, from which `temperature` may have been adapted."""
    key: str | None = None
    force: bool = False
    over_http: bool = False
    """Whether it was submitted over HTTP: then its output must lie where such outputs may."""
    name: str = ""
    owner: str = ""
    """The name of the API key that it was made with: only that key's holder sees it. Empty: made by
    who has Redis, or through a gateway without keys."""
    own_uploads_only: bool = False
    """Whether it may read only uploads of its owner, not those of others."""
    local_output: str | None = None
    """Where the submitting client wants the result; it writes there itself. A path, or where its
    name is no plain text, the file: address of that path."""

    @field_validator("instruction", "top_n", "max_tokens_per_doc")
    @classmethod
    def _none_for_no_choice(cls, value: str | int | None) -> str | int | None:
        """An empty instruction is the model's own, 0 results are all, 0 tokens are no limit: the
        profile has no say any more, and equal jobs have equal specifications."""
        return value or None

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
        return self.model_dump(mode="json", include=_RECORDED)


_RECORDED = {"profile", *ScoringOptions.model_fields} - {"adaptive_temperature"}
"""Not the last: it is about the jobs that come later."""


def make_spec(**fields: Any) -> JobSpec:
    """Validate a job's options. Raises InvalidOption naming the first that is wrong."""
    try:
        return JobSpec(**fields)
    except ValidationError as error:
        path, message = first_error(error.errors())
        text = f"{dotted(path)} is wrong: {message}"
        raise InvalidOption(str(path[0]), text, inside=path[1:]) from error
