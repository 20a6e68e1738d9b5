"""The options of scoring as fields of a body; those of images and of videos are objects in it.

They are the fields of `ScoringOptions`, by the names below. What a body does not have, or has as
null, is left to the profile and the defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rerankfleet.producer.gateway.formats.fields import Fields, refuse_two
from rerankfleet.shared.content import options
from rerankfleet.shared.content.requests import RerankRequest


class ImageOptions(Fields, options.ImageOptions):
    """How images are prepared."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=lambda name: name.removeprefix("image_")
    )


class VideoOptions(Fields, options.VideoOptions):
    """How the frames of videos are prepared."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=lambda name: name.removeprefix("video_")
    )


class Options(Fields, options.PairOptions):
    """What a request and a job both take."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=512)
    profile: str | None = Field(
        default=None,
        max_length=200,
        description="values for the options that are not given: the name of one of /v1/presets",
    )
    image: ImageOptions | None = None
    video: VideoOptions | None = None

    @field_validator(
        "explain", mode="before", json_schema_input_type=bool | Literal["none", "contributions"]
    )
    @classmethod
    def _explain(cls, value: Any) -> Any:
        words = {"none": False, "contributions": True}
        return words.get(value, value) if isinstance(value, str) else value

    def options(self) -> dict[str, Any]:
        """Those that are set, as options of a job."""
        scoring = set(options.ScoringOptions.model_fields)
        values = self.model_dump(exclude_unset=True, include={*scoring, "profile"})
        for part in (self.image, self.video):
            values |= part.model_dump(exclude_unset=True) if part else {}
        return values


def _of_a_pair(tokens: int) -> int:
    """Tokens as max_length has them, or none at all."""
    if tokens in (-1, 0):
        return tokens
    try:
        return _MAX_LENGTH.validate_python(tokens)
    except ValidationError as error:
        raise PydanticCustomError("tokens", f"{error.errors()[0]['msg']}, or -1") from None


_MAX_LENGTH: TypeAdapter[int] = TypeAdapter(options.MaxLength)
PromptTokens = Annotated[int, AfterValidator(_of_a_pair)]


class RequestOptions(Options):
    """What requests take. Fields that other servers know are ignored, and reported."""

    model_config = ConfigDict(extra="allow")

    truncate_prompt_tokens: PromptTokens | None = Field(
        default=None, description="vLLM's word for max_length; -1: the default"
    )

    @model_validator(mode="after")
    def _has_one_length(self) -> RequestOptions:
        """Raises InvalidField when both words for the length are there and differ."""
        tokens = self.truncate_prompt_tokens or -1
        if tokens > 0 and "max_length" in self.model_fields_set:
            refuse_two("max_length", self.max_length, "truncate_prompt_tokens", tokens)
        return self

    def options(self) -> dict[str, Any]:
        """Those that are set, as options of a job; without what the request itself holds."""
        values = super().options()
        if (self.truncate_prompt_tokens or -1) > 0:
            values.setdefault("max_length", self.truncate_prompt_tokens)
        return {name: value for name, value in values.items() if name not in _OF_A_REQUEST}


_OF_A_REQUEST = set(RerankRequest.model_fields)
