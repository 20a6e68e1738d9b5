"""What a query or a document is: text, images, video frames, or any of them together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_core import PydanticCustomError

from rerankfleet.shared.content.base import Frozen
from rerankfleet.shared.content.uris import Uris
from rerankfleet.shared.content.validation import ItemId

FIELDS_MAX = 64
"""So many fields of an object are read: no valid one has more."""


class Video(Frozen):
    """Frames of a video, in order; `fps` is how many of them cover a second."""

    model_config = ConfigDict(strict=True)

    frames: Uris = Field(min_length=1)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class Content(Frozen):
    """What a query or a document is: text, images, video frames, or any of them together.

    A bare string in the input is its text; a bare URI in `image` is a list of one.
    """

    model_config = ConfigDict(strict=True)

    text: str | None = None
    image: Uris = ()
    video: Video | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_one_video(cls, value: Any) -> Any:
        if isinstance(value, dict) and "frames" in value and "video" in value:
            raise PydanticCustomError(
                "frames", "`frames` and `video` mean the same and have different frames"
            )
        return value

    @model_validator(mode="after")
    def _holds_something(self) -> Content:
        if self.text is None and not self.image and self.video is None:
            raise PydanticCustomError("empty", "give at least one of text, image, video")
        return self

    @property
    def plain(self) -> bool:
        """Whether it is text alone."""
        return not self.image and self.video is None

    @property
    def image_uris(self) -> tuple[str, ...]:
        """URIs of its images, then of its frames."""
        return self.image + (self.video.frames if self.video else ())


class Document(Content):
    """One candidate. A bare string in the input becomes `Document(text=...)`."""

    id: ItemId | None = None
    metadata: dict[str, Any] | None = None
    """Returned with its result or failure; nothing else reads it."""


def content_fields(value: Any) -> Any:
    """A content as its fields: a bare string is its text, null is absent, `frames` is short for
    `video`. Anything else stays as it is, for the validation to refuse."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        return value
    value = given_fields(value)
    if isinstance(value.get("video"), dict):
        value["video"] = given_fields(value["video"])
    if "frames" not in value:
        return value
    frames, video = value["frames"], value.get("video")
    if video is None:
        value["video"] = {"frames": frames}
    elif not isinstance(video, dict) or video.get("frames") != frames:
        return value
    del value["frames"]
    return value


def given_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there: null is absent. Of too many the first, enough to report that one
    is wrong: each wrong one costs memory."""
    few = islice(value.items(), FIELDS_MAX)
    return {name: field for name, field in few if field is not None}


def _as_bare(content: Content) -> str | dict[str, Any]:
    """Plain text as a bare string, which keeps files of text small."""
    if content.plain and content.text is not None:
        return content.text
    return content.model_dump(exclude_defaults=True)


QueryContent = Annotated[Content, BeforeValidator(content_fields), PlainSerializer(_as_bare)]
"""A content that is written and read as a bare string when it is one."""
