"""Slices -> pairs that are ready for the device (tokens, pixels), or their errors.

Images are loaded through an `ImageLoader`, each once for all the pairs of a run; a failure affects
only the pairs with that image. Knows nothing of Redis, Celery or torch.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Protocol

from rerankfleet.shared.addresses import without_secrets
from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.images import (
    FRAME_PIXELS_MAX,
    FRAMES_MAX,
    FRAMES_PER_S,
    MIN_PIXELS,
    VIDEO_PIXELS,
    short_number,
)
from rerankfleet.shared.content.outcomes import POOR_QUERY, ImageFacts, Provenance
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.job_spec import JobSpec, Priority
from rerankfleet.shared.metrics import IMAGES_REJECTED
from rerankfleet.shared.sub_scores import CHANNELS, TEXT
from rerankfleet.workers.images.prepared import ImageRef, PreparedImage
from rerankfleet.workers.images.turns import Caller, FairThreads, result
from rerankfleet.workers.prompting.languages import instruction_for
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import Visual
from rerankfleet.workers.recorder import Recorder

#: Most images of one content: more fit no model, and their pixels would fill the memory.
IMAGES_MAX = 64
#: A quality below this lowers a margin no further.
QUALITY_FLOOR = 0.05
#: Error codes of an image that could not be fetched, as opposed to one that could not be decoded.
FETCH_CODES = frozenset(
    {"not_found", "refused_source", "unreadable", "fetch_failed", "timeout", "too_large"}
)
#: Runs whose images are loaded at the same time, over all shards; and in addition, those of
#: interactive requests, of which one has only a part.
LOADS_AT_A_TIME = 16
URGENT_LOADS_AT_A_TIME = 16
LOADS_OF_A_REQUEST = 4
#: The error rate of a job's fetches is that of the newest ones, this many; while there are fewer
#: than FETCHES_MIN, the missing ones count as successes.
FETCHES_JUDGED = 200
FETCHES_MIN = 50
#: Jobs whose fetches are counted at a time.
JOBS_COUNTED = 64

LoadedImages = Mapping[ImageRef, PreparedImage | ItemError]
Channels = Mapping[str, list[list[Prompt | ItemError]]]
"""Prompts by channel, then by request, then by document."""


class ImageLoader(Protocol):
    """The seam to fetching and decoding."""

    def load(
        self, refs: Iterable[ImageRef], caller: Caller | None = None
    ) -> dict[ImageRef, PreparedImage | ItemError]:
        """Each image, or the error why it could not be loaded; callers take turns. Raises
        UsageError when the credentials are refused: then no image can be loaded; CancelledError
        when the caller stops."""


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A pair that is ready for the device, and the facts of its images."""

    prompt: Prompt
    images: tuple[ImageFacts, ...] = ()
    quality: float | None = None
    """That of the pair's poorest image."""
    visual_tokens: int | None = None
    """Of the document."""
    channels: Mapping[str, Prompt] = field(default_factory=dict)
    """Prompts for sub-scores, by channel; the pair's own where it has that channel only."""

    @property
    def parts(self) -> dict[str, Prompt]:
        """The channels that are scored besides the pair itself."""
        return {name: p for name, p in self.channels.items() if p != self.prompt}

    def lowered(self, margin: float) -> float:
        """The margin, reduced by the pair's quality."""
        return margin + math.log(max(QUALITY_FLOOR, self.quality or QUALITY_FLOOR))


_NOT_READ = ItemError(
    "pictures_not_read", "this model reads text only", hint="use a Qwen3-VL reranker"
)


class Preparer:
    """Prepares the pairs of one model. Safe to use from several threads."""

    def __init__(
        self,
        prompter: Prompter,
        images: ImageLoader | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._prompter = prompter
        self._images = images
        self._recorder = recorder or Recorder()
        self._fetches = _Fetches()
        self._threads = {
            False: FairThreads(LOADS_AT_A_TIME, "load"),
            True: FairThreads(URGENT_LOADS_AT_A_TIME, "load-urgent", per_turn=LOADS_OF_A_REQUEST),
        }

    def load(
        self, slices: Sequence[Slice], spec: JobSpec, caller: Caller | None = None
    ) -> Future[LoadedImages]:
        """Begin to fetch and decode the images of some slices, for `prepare`."""
        caller = caller or caller_of(spec)
        refs = dict.fromkeys(
            ref
            for piece in slices
            for content in (piece.query, *piece.documents)
            for ref in images_of(content, spec)
        )
        if refs and self._images is not None:
            return self._threads[caller.urgent].submit(caller, self._images.load, refs, caller)
        loaded: Future[LoadedImages] = Future()
        loaded.set_result(dict.fromkeys(refs, _NOT_READ))
        return loaded

    def prepare(
        self,
        slices: Sequence[Slice],
        spec: JobSpec,
        loading: Future[LoadedImages] | None = None,
        caller: Caller | None = None,
    ) -> list[list[PreparedPair | ItemError]]:
        """The pairs of some slices, or their errors. `loading` is the result of `load` with the
        same caller; ends with CancelledError when that stops.

        Raises UsageError when no image can be fetched, when more of them fail than the job allows,
        or when the job has instructions by language and there is no detector: a person must act.
        """
        caller = caller or caller_of(spec)
        loaded = result(loading or self.load(slices, spec, caller), caller.stop)
        self._fetches.judge(loaded, spec)
        poor = sum(_is_too_poor(outcome, spec) for outcome in loaded.values())
        self._recorder.add(IMAGES_REJECTED, "low_quality", amount=poor)
        requests = [_request(piece, spec, loaded) for piece in slices]
        with self._recorder.timed("tokenize"):
            encoded = self._encode(requests, spec, caller)
            channels = self._channels(requests, spec, caller) if spec.explain else {}
        return [
            [
                prompt
                if isinstance(prompt, ItemError)
                else _pair(prompt, piece, at, spec, loaded, _of_pair(channels, line, at))
                for at, prompt in enumerate(prompts)
            ]
            for line, (piece, prompts) in enumerate(zip(slices, encoded, strict=True))
        ]

    def _channels(
        self, requests: Sequence[PromptRequest], spec: JobSpec, caller: Caller
    ) -> Channels:
        by_channel = {
            name: [_channel(request, *name.split("-")) for request in requests] for name in CHANNELS
        }
        return {name: self._encode(parts, spec, caller) for name, parts in by_channel.items()}

    def _encode(
        self, requests: Sequence[PromptRequest], spec: JobSpec, caller: Caller
    ) -> list[list[Prompt | ItemError]]:
        return self._prompter.encode_all(
            requests,
            max_length=spec.max_length,
            max_tokens_per_doc=spec.max_tokens_per_doc,
            stop=caller.stop,
        )


def caller_of(spec: JobSpec, stop: threading.Event | None = None, turn: Hashable = None) -> Caller:
    """Who prepares pairs of a job: `turn` names the job or request; else this is one of its own."""
    urgent = spec.priority is Priority.interactive
    owner = spec.owner if spec.own_uploads_only else None
    return Caller(turn or object(), urgent, stop or threading.Event(), owner)


def images_of(content: Content, spec: JobSpec) -> list[ImageRef]:
    """A content's images, then the frames of its video, with the job's options; none when there are
    too many images."""
    if content.plain or len(content.image) > IMAGES_MAX:
        return []
    options = spec.image_spec
    refs = [ImageRef(uri, options) for uri in content.image]
    if content.video:
        uris = content.video.frames
        frames = [uris[at] for at in frames_chosen(len(uris), spec.video_max_frames)]
        most = frame_pixels(len(frames), spec.video_total_pixels)
        most = min(most, spec.max_pixels or most)
        of_frames = replace(options, min_pixels=MIN_PIXELS, max_pixels=most)
        refs += [ImageRef(uri, of_frames) for uri in frames]
    return refs


def provenance_of(engine: Provenance, spec: JobSpec, *, supports_images: bool) -> Provenance:
    """What a job's scores depend on: the engine, and how images and videos are prepared."""
    if not supports_images:
        return engine
    fps = spec.video_fps or FRAMES_PER_S
    video = f"{spec.video_max_frames}:{spec.video_total_pixels}:{short_number(fps)}"
    return engine.model_copy(update={"pixels": spec.image_spec.key(), "video": video})


def frames_chosen(count: int, most: int = FRAMES_MAX) -> list[int]:
    """Which frames of a video are read: all, or at most `most` at even distances; if only one, the
    first."""
    if count <= most:
        return list(range(count))
    return [at * (count - 1) // max(most - 1, 1) for at in range(most)]


def frame_pixels(count: int, total: int = VIDEO_PIXELS) -> int:
    """The most pixels of each of `count` frames, as in the authors' procedure: two frames make one
    step in time."""
    return int(max(min(FRAME_PIXELS_MAX, 2 * total / count), MIN_PIXELS))


class _Fetches:
    """The outcomes of each job's newest fetches in this process, since failures last paused it.

    Only the newest count: a few dead links in a row among many good ones pause no job, and a source
    that fails late is noticed as soon as one that failed from the start.
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[str, deque[ItemError | None]] = OrderedDict()
        self._lock = threading.Lock()

    def judge(self, loaded: LoadedImages, spec: JobSpec) -> None:
        """Raises UsageError when more failed than the job allows. An interactive request cannot be
        resumed, so its failures are outcomes of their pairs."""
        if not loaded or spec.priority is Priority.interactive:
            return
        job = spec.model_dump_json()
        with self._lock:
            newest = self._newest.setdefault(job, deque(maxlen=FETCHES_JUDGED))
            self._newest.move_to_end(job)
            newest.extend(_failed_fetch(outcome) for outcome in loaded.values())
            failed = [error for error in newest if error is not None]
            if len(failed) <= spec.max_error_rate * max(len(newest), FETCHES_MIN):
                if len(self._newest) > JOBS_COUNTED:
                    self._newest.popitem(last=False)
                return
            del self._newest[job]
        raise UsageError(
            f"{len(failed)} of the last {len(newest)} images could not be fetched; the first: "
            f"{failed[0].message}",
            hint="fix the cause and resume the job, or submit it again with a higher "
            "max_error_rate",
        )


def _failed_fetch(outcome: PreparedImage | ItemError) -> ItemError | None:
    if isinstance(outcome, ItemError) and outcome.code in FETCH_CODES:
        return outcome
    return None


def _request(piece: Slice, spec: JobSpec, loaded: LoadedImages) -> PromptRequest:
    return PromptRequest(
        _of_query(_side(piece.query, spec, loaded, of_query=True)),
        [_side(document, spec, loaded) for document in piece.documents],
        piece.instruction or instruction_for(piece.query, spec),
    )


def _side(
    content: Content, spec: JobSpec, loaded: LoadedImages, *, of_query: bool = False
) -> Side | ItemError:
    """A content with its images, or the first error among them."""
    if content.plain:
        return Side(content.text or "")
    if len(content.image) > IMAGES_MAX:
        return ItemError(
            "too_many_images",
            f"{len(content.image)} images in one content, at most {IMAGES_MAX} are read",
            hint="split it into several documents",
        )
    good: list[PreparedImage] = []
    for ref in images_of(content, spec):
        image = loaded[ref]
        if isinstance(image, ItemError):
            return image.about(without_secrets(ref.uri))
        if _is_too_poor(image, spec):
            return _too_poor(image, spec, of_query=of_query).about(without_secrets(ref.uri))
        good.append(image)
    images, frames = good[: len(content.image)], good[len(content.image) :]
    if len({frame.size for frame in frames}) > 1:
        return ItemError("frames_differ", "the video's frames have different shapes")
    return Side(
        content.text or "",
        tuple(Visual(image.key, (image.pixels,)) for image in images),
        tuple(_steps(content, frames, spec)),
    )


def _of_query(side: Side | ItemError) -> Side | ItemError:
    """The query's side; its error names the query, since each pair of the request will have it."""
    if not isinstance(side, ItemError) or side.code == POOR_QUERY:
        return side
    message = f"the query: {side.message}"
    return ItemError(side.code, message, hint=side.hint, image=side.image)


def _is_too_poor(outcome: PreparedImage | ItemError, spec: JobSpec) -> bool:
    """Whether the job rejects an image of this quality."""
    if isinstance(outcome, ItemError) or spec.quality_action != "reject":
        return False
    return outcome.quality < spec.quality_threshold


def _too_poor(image: PreparedImage, spec: JobSpec, *, of_query: bool) -> ItemError:
    what = "query image" if of_query else "image"
    return ItemError(
        POOR_QUERY if of_query else "low_quality",
        f"the {what}'s quality {image.quality:.2f} is below {spec.quality_threshold:.2f}",
        hint="use a sharper, well exposed image, or lower quality_threshold",
        quality=image.quality,
    )


def _steps(
    content: Content, frames: Sequence[PreparedImage], spec: JobSpec
) -> Iterator[tuple[float, Visual]]:
    """Steps of two frames, with the mean of their times; an odd last frame is repeated."""
    if content.video is None:
        return
    fps = content.video.fps or spec.video_fps
    chosen = frames_chosen(len(content.video.frames), spec.video_max_frames)
    times = [(at if fps else number) / (fps or FRAMES_PER_S) for number, at in enumerate(chosen)]
    for at in range(0, len(frames), 2):
        last = min(at + 1, len(frames) - 1)
        pair = (frames[at], frames[last])
        key = f"{pair[0].key}+{pair[1].key}"
        yield (times[at] + times[last]) / 2, Visual(key, (pair[0].pixels, pair[1].pixels))


def _channel(request: PromptRequest, query_part: str, document_part: str) -> PromptRequest:
    """The request with one part of each side; a side that lacks it becomes an error."""
    return replace(
        request,
        query=_part(request.query, query_part),
        documents=[_part(side, document_part) for side in request.documents],
    )


def _part(side: Side | ItemError, part: str) -> Side | ItemError:
    if isinstance(side, ItemError):
        return side
    only = replace(side, images=(), steps=()) if part == TEXT else replace(side, text="")
    if only == Side():
        return ItemError("no_such_part", f"there is no {part}")
    return only


def _of_pair(channels: Channels, line: int, at: int) -> dict[str, Prompt]:
    """The channels that a pair has."""
    prompts_of_pair = {name: prompts[line][at] for name, prompts in channels.items()}
    return {name: p for name, p in prompts_of_pair.items() if isinstance(p, Prompt)}


def _pair(
    prompt: Prompt,
    piece: Slice,
    at: int,
    spec: JobSpec,
    loaded: LoadedImages,
    channels: Mapping[str, Prompt],
) -> PreparedPair:
    """A pair with the facts of its document's images; the query's images count for its quality."""
    document = piece.documents[at]
    if document.plain and piece.query.plain:
        return PreparedPair(prompt, channels=channels)
    own, query = (
        [image for r in images_of(content, spec) if isinstance(image := loaded[r], PreparedImage)]
        for content in (document, piece.query)
    )
    return PreparedPair(
        prompt,
        tuple(_facts(image) for image in own),
        min(image.quality for image in (*own, *query)),
        sum(visual.tokens for _, visual in prompt.document.visuals),
        channels,
    )


def _facts(image: PreparedImage) -> ImageFacts:
    return ImageFacts(
        original=image.original,
        used=image.size,
        cropped=round(image.cropped_share, 4),
        quality=round(image.quality, 4),
        tokens=image.tokens,
    )
