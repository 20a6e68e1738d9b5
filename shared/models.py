"""The data both sides agree on: what a line of input is, what a job is, what comes back.

Validated once, at the border; frozen from there on. No logic beyond validation.
"""

from __future__ import annotations

import re
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from shared.calibration import Calibration
from shared.errors import InvalidOption
from shared.pictures import (
    FRAMES_MAX,
    MAX_PIXELS,
    MIN_PIXELS,
    PRESETS,
    VIDEO_PIXELS,
    PictureOptions,
    ResizeMode,
    target_within,
)
from shared.scores import ScoreDistribution

POCKET_MODELS = ("pocket-text", "pocket-vl")
"""Demonstration models that ship with the package: never chosen silently."""

DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

NO_PROFILE = "default"
"""Under which jobs without a profile are counted."""

QualityAction = Literal["off", "reject", "downweight"]

URI_CHARACTERS = 8 << 10
"""Length of an image's URI or path at the most; data: URIs carry the image and have their own."""
DATA_URI_BYTES = 8 << 20
URIS_MAX = 10_000
"""Images or frames of one query or document."""
FIELDS_MAX = 64
"""Of an object with more fields so many are looked at: none has as many that are right."""

POOR_QUERY = "low_quality_query"
"""Rejects a whole request: each of its pairs has this code, its line of output says it once."""
REJECTIONS = frozenset({"low_quality", POOR_QUERY})
"""Codes of failures that are decisions by the job's own options, not errors."""
RETRYABLE = frozenset({"cancelled", "fetch_failed", "timeout", "decode_timeout"})
"""Codes of failures that may be gone when the same is asked again. All others need a change."""


class Priority(StrEnum):
    """Which queue a job's hints go to. Interactive pairs also go first in packs."""

    interactive = "interactive"
    normal = "normal"
    bulk = "bulk"


def canonical_model(model: str) -> str:
    """The name under which a model is served: a folder by its full path, a hub name as it is."""
    try:
        is_folder = model not in POCKET_MODELS and Path(model).is_dir()
    except OSError:  # a name that no file may have
        is_folder = False
    return str(Path(model).resolve()) if is_folder else model


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Told(_Frozen):
    """What a worker told of its work: what a newer one tells beside it is passed over."""

    model_config = ConfigDict(extra="ignore")


# ---- content ------------------------------------------------------------------------------------


def _image_uri(value: str) -> str:
    """Check the shape of an image's URI. No message repeats it: it may hold a signature."""
    if value.startswith("data:"):
        return _data_uri(value)
    if len(value) > URI_CHARACTERS:
        raise PydanticCustomError("uri", f"the URI is longer than {URI_CHARACTERS} characters")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", value)
    if scheme and scheme[1] not in _URI_SHAPES:
        raise PydanticCustomError(
            "uri", "expected s3://, https://, http://, file://, data:image/… or a path"
        )
    shape = _URI_SHAPES[scheme[1]] if scheme else r"[^\0]*[^\s\0][^\0]*"
    if not re.fullmatch(shape, value):
        raise PydanticCustomError("uri", "the URI or path is incomplete or malformed")
    if not value.isascii():
        _refuse_surrogates(value)
    return value


_URI_SHAPES = {
    "s3": r"s3://[^/\s\0]+/[^\0]+",
    "https": r"https://[^/\s\0]+[^\s\0]*",
    "http": r"http://[^/\s\0]+[^\s\0]*",
    "file": r"file:///[^\0]+",
}


def _data_uri(value: str) -> str:
    if len(value) > DATA_URI_BYTES:
        raise PydanticCustomError(
            "uri", f"the data: URI has {len(value)} bytes, at most {DATA_URI_BYTES} are allowed"
        )
    if not re.match(r"data:image/[a-z0-9.+-]+;base64,[A-Za-z0-9+/_-]", value[:100]):
        raise PydanticCustomError("uri", "expected data:image/…;base64, and the image")
    if not value.isascii():
        raise PydanticCustomError("uri", "a data: URI is ASCII")
    return value


def _refuse_surrogates(value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("uri", "holds half a surrogate pair, which is no text") from None


def _one_or_many(value: Any) -> Any:
    """A URI or a list of URIs, as a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Uris = Annotated[
    tuple[Annotated[str, AfterValidator(_image_uri)], ...],
    FailFast(),
    Field(max_length=URIS_MAX),
    BeforeValidator(_one_or_many),
]
"""Image URIs: s3://, https://, http://, file://, data:image/…;base64, or a local path."""


class Video(_Frozen):
    """Frames of a video, in order; `fps` says how many of them stand for a second."""

    model_config = ConfigDict(strict=True)

    frames: Uris = Field(min_length=1)
    fps: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class Content(_Frozen):
    """What a query or a document is: text, images, video frames, or any of them together.

    A bare string in the input is its text; a bare URI in `image` is a list of one.
    """

    model_config = ConfigDict(strict=True)

    text: str | None = None
    image: Uris = ()
    video: Video | None = None

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
    def pictures(self) -> tuple[str, ...]:
        """URIs of its images, then of its frames."""
        return self.image + (self.video.frames if self.video else ())


class Document(Content):
    """One candidate. A bare string in the input becomes `Document(text=...)`."""

    id: str | int | None = None
    metadata: dict[str, Any] | None = None
    """Handed back with its result or failure; nothing looks into it."""


def content_fields(value: Any) -> Any:
    """A content as its fields: a bare string is its text, `frames` is short for `video`. What is
    neither stays as it is, for the validation to refuse."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        return value
    value = few_fields(value)
    if isinstance(value.get("video"), dict):
        return {**value, "video": few_fields(value["video"])}
    if "frames" not in value or value.get("video") is not None:
        return value
    rest = {name: found for name, found in value.items() if name not in ("frames", "video")}
    frames = value["frames"]
    return rest if frames is None else {**rest, "video": {"frames": frames}}


def few_fields(value: dict[str, Any]) -> dict[str, Any]:
    """No more of them than it takes to say that one is wrong: each wrong one costs memory."""
    return value if len(value) <= FIELDS_MAX else dict(islice(value.items(), FIELDS_MAX))


def _as_bare(content: Content) -> str | dict[str, Any]:
    """Plain text as a bare string: files of text stay as small as text is."""
    if content.plain and content.text is not None:
        return content.text
    return content.model_dump(exclude_defaults=True)


QueryContent = Annotated[Content, BeforeValidator(content_fields), PlainSerializer(_as_bare)]
"""A content that is written and read as a bare string when it is one."""


# ---- a line of input ----------------------------------------------------------------------------


class RerankRequest(_Frozen):
    """One query with its documents: one line of input. Documents are validated one by one, later,
    so that a bad one costs only its own pair."""

    model_config = ConfigDict(strict=True)

    id: str | int | None = None
    query: QueryContent
    documents: list[Any]
    instruction: str | None = None
    top_n: int | None = Field(default=None, ge=1)
    metadata: dict[str, Any] | None = None


class Failure(_Told):
    """Why a line (index None) or one pair has no score."""

    line: int
    index: int | None = None
    id: str | int | None = None
    """The document's own."""
    code: str
    message: str
    hint: str = ""
    quality: float | None = None
    """Of the picture that was too poor, 0..1."""
    metadata: dict[str, Any] | None = None
    """The document's own."""

    @property
    def rejected(self) -> bool:
        """Whether it counts as rejected rather than as an error: a retry leaves it as it is."""
        return self.code in REJECTIONS

    @property
    def retryable(self) -> bool:
        """Whether asking the same again may help."""
        return self.code in RETRYABLE


class Provenance(_Told):
    """What produced a score."""

    model: str
    revision: str
    template: str
    dtype: str
    attention: str
    device: str
    version: str
    pixels: str | None = None
    """What pictures were brought to, preset first; None for a model that reads text only."""
    video: str | None = None
    """Frames of a video at the most, their pixels in all, and the frames per second assumed."""


class PictureFacts(_Told):
    """What was done to one image before it was scored. Sizes are (width, height) in pixels."""

    original: tuple[int, int]
    used: tuple[int, int]
    cropped: float
    """Share of the picture's area that was cropped away, 0..1."""
    quality: float
    """0..1, from sharpness and exposure."""
    tokens: int
    """Visual tokens."""


class Scored(_Told):
    """One pair's score. `truncated_tokens` counts what max_length and max_tokens_per_doc cut off.

    The fields of images are None for a pair of text.
    """

    index: int
    id: str | int | None = None
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
    images: list[PictureFacts] | None = None
    channels: dict[str, float] | None = None
    """Margins of its parts, when the job asks for sub-scores: see `shared.explain`."""
    metadata: dict[str, Any] | None = None
    """The document's own."""


class Slice(_Frozen):
    """A contiguous run of one request's items in the job's cut order: what a shard file holds.

    Each pair is one item, and so is each line without pairs. Items to be scored come first
    (`documents`, with their `indices` in the request), then those decided at the door (`failures`).
    """

    line: int
    id: str | int | None = None
    query: QueryContent = Content(text="")
    instruction: str | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    documents: list[Document] = Field(default_factory=list)
    indices: list[int] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    continued: bool = False
    """Its request began in an earlier slice: so requests are counted once."""

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
                "continued": self.continued or first > 0,
            }
        )


class ImageRun(_Frozen):
    """One image of a catalog and a run of its queries, by ordinal: what a catalog's shard file
    holds. Each pair is one item. `shared.shards.load_slices` makes a slice of each."""

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


class SliceOutcome(_Told):
    """What became of a slice: each of its items is in `results` or in `errors`."""

    line: int
    id: str | int | None = None
    top_n: int | None = None
    metadata: dict[str, Any] | None = None
    results: list[Scored] = Field(default_factory=list)
    errors: list[Failure] = Field(default_factory=list)


class ShardSummary(_Frozen):
    """The counts that a commit adds to its job and to the statistics."""

    scored: int = 0
    errors: int = 0
    rejected: int = 0
    cancelled: int = 0
    tokens: int = 0
    truncated: int = 0
    crowded: int = 0
    requests: int = 0
    """Requests that begin in the shard; of a catalog, images."""
    scores: ScoreDistribution = ScoreDistribution()
    profile: str = NO_PROFILE
    priority: Priority = Priority.normal

    @property
    def counts(self) -> dict[str, int]:
        """What is added up, by name; without what is 0."""
        named = self.model_dump(exclude={"scores", "profile", "priority"}) | self.scores.fields()
        return {name: count for name, count in named.items() if count}


class InputRef(_Frozen):
    """Which bytes a job reads, pinned so that a change is noticed."""

    uri: str
    size: int
    tag: str
    """ETag of an object, modification time of a file."""
    sha256: str | None = None
    """Known where the bytes passed through the client, or lie in a folder."""


OutputFormat = Literal["jsonl", "parquet"]


class Catalog(_Frozen):
    """What makes a job a catalog: every query meets every image of the input."""

    queries: InputRef
    """One JSON content a line, with its id."""
    count: int = Field(ge=1)
    """How many queries there are."""
    format: OutputFormat = "jsonl"


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
"""See `shared.calibration.relevance_score`; 1 is off."""
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


class JobSpec(_Frozen):
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
    """A document's text is cut to so many tokens; its pictures are never cut."""
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
    """A crop that would lose more than this share of the picture becomes `fit`."""
    pad_color: tuple[int, int, int] | None = None
    """What `fit` pads with to the preset's shape, as red, green, blue; None: no padding."""
    min_pixels: Pixels = MIN_PIXELS
    """A picture with fewer is enlarged to about so many."""
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
    def _makes_pictures(self) -> JobSpec:
        """Raises InvalidOption for options of pictures that do not go together."""
        _ = self.pictures
        return self

    @property
    def pictures(self) -> PictureOptions:
        """How its pictures are prepared."""
        budget: dict[str, Any] = {}
        if self.max_pixels is not None:
            target = target_within(self.image_preset, self.max_pixels)
            budget = {"max_pixels": self.max_pixels, "target": target}
        return PictureOptions(
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
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidOption(field, f"{field} is wrong: {first['msg']}") from error


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
    crowded: int = 0

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
    scores: ScoreDistribution = ScoreDistribution()
    """Of its scores so far: sigmoid(margin / temperature), before top_p."""
