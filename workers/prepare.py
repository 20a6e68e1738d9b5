"""A shard's contents -> prepared pairs (tokens, pixels) or their errors, ahead of the device.

Images are fetched and decoded by `images`, each once for all the pairs of a run; what fails
costs its own pairs. Knows nothing of Redis, Celery or torch.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from rerankfleet.shared.content.content import Content
from rerankfleet.shared.content.images import (
    FRAME_PIXELS_MAX,
    FRAMES_MAX,
    FRAMES_PER_S,
    MIN_PIXELS,
    VIDEO_PIXELS,
    ImageSpec,
)
from rerankfleet.shared.content.outcomes import POOR_QUERY, ImageFacts, Provenance
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.job_spec import JobSpec, Priority
from rerankfleet.shared.metrics import IMAGES_REJECTED
from rerankfleet.shared.sub_scores import CHANNELS, TEXT
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.prompting.languages import instruction_for
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, Request, Side
from rerankfleet.workers.prompting.tokens import Visual
from rerankfleet.workers.recorder import Recorder

#: Images of one content at the most: more fit no model, and their pixels would fill the memory.
IMAGES_MAX = 64
#: Quality counts as at least so much when it lowers a margin.
QUALITY_FLOOR = 0.05
#: Codes of an image that could not be fetched, as against one that could not be read.
FETCH_CODES = frozenset({"not_found", "refused_source", "fetch_failed", "timeout", "too_large"})
#: Runs whose images are loaded at the same time, of all shards together; and beside them, of
#: requests that somebody waits for.
LOADS_AT_A_TIME = 16
URGENT_LOADS_AT_A_TIME = 4
#: So many of a job's newest fetches are judged together; while there are fewer than the latter, as
#: if the missing ones had gone well.
FETCHES_JUDGED = 200
FETCHES_MIN = 50
#: Jobs whose images are counted at a time.
JOBS_COUNTED = 64

Found = Mapping["Wanted", PreparedImage | ItemError]
Channels = Mapping[str, list[list[Prompt | ItemError]]]


class Images(Protocol):
    """The seam to fetching and decoding."""

    def load(
        self, wanted: Iterable[Wanted], *, urgent: bool = False
    ) -> dict[Wanted, PreparedImage | ItemError]:
        """Each image or why it could not be had; an urgent one waits for none that is not.
        Raises UsageError when none of them can be, since credentials are refused."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image by its address, and what is to be made of it."""

    uri: str
    options: ImageSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A pair, ready for the device, and what became of its images."""

    prompt: Prompt
    images: tuple[ImageFacts, ...] = ()
    quality: float | None = None
    """The poorest of the pair's images."""
    visual_tokens: int | None = None
    """Of the document."""
    channels: Mapping[str, Prompt] = field(default_factory=dict)
    """Prompts of its parts, for sub-scores; one that has a single part is that part."""

    @property
    def parts(self) -> dict[str, Prompt]:
        """The channels that are not the pair itself: what is scored beside it."""
        return {name: p for name, p in self.channels.items() if p != self.prompt}

    def lowered(self, margin: float) -> float:
        """The margin of a pair that is weighed down by its quality."""
        return margin + math.log(max(QUALITY_FLOOR, self.quality or QUALITY_FLOOR))


_NOT_READ = ItemError(
    "pictures_not_read", "this model reads text only", hint="use a Qwen3-VL reranker"
)


class Preparer:
    """Prepares the pairs of one model. Safe to use from several threads."""

    def __init__(
        self,
        prompter: Prompter,
        images: Images | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._prompter = prompter
        self._images = images
        self._recorder = recorder or Recorder()
        self._fetches = _Fetches()
        self._threads = {
            False: ThreadPoolExecutor(LOADS_AT_A_TIME, "load"),
            True: ThreadPoolExecutor(URGENT_LOADS_AT_A_TIME, "load-urgent"),
        }

    def load(self, slices: Sequence[Slice], spec: JobSpec) -> Future[Found]:
        """Begin to fetch and decode the images of some slices, for `prepare`."""
        wanted = dict.fromkeys(
            w
            for piece in slices
            for content in (piece.query, *piece.documents)
            for w in images_of(content, spec)
        )
        if wanted and self._images is not None:
            urgent = spec.priority is Priority.interactive
            return self._threads[urgent].submit(self._images.load, wanted, urgent=urgent)
        found: Future[Found] = Future()
        found.set_result(dict.fromkeys(wanted, _NOT_READ))
        return found

    def prepare(
        self, slices: Sequence[Slice], spec: JobSpec, loaded: Future[Found] | None = None
    ) -> list[list[Prepared | ItemError]]:
        """The pairs of some slices; an error where there is none. `loaded` is what `load` gave.

        Raises UsageError when images cannot be fetched at all, more of them fail than the job
        allows, or languages cannot be told that it has instructions for: a person must look.
        """
        found = (loaded or self.load(slices, spec)).result()
        self._fetches.judge(found, spec)
        poor = sum(_is_refused(outcome, spec) for outcome in found.values())
        self._recorder.add(IMAGES_REJECTED, "low_quality", amount=poor)
        requests = [_request(piece, spec, found) for piece in slices]
        with self._recorder.timed("tokenize"):
            encoded = self._encode(requests, spec)
            channels = self._channels(requests, spec) if spec.explain else {}
        return [
            [
                prompt
                if isinstance(prompt, ItemError)
                else _prepared(prompt, piece, at, spec, found, _of_pair(channels, line, at))
                for at, prompt in enumerate(prompts)
            ]
            for line, (piece, prompts) in enumerate(zip(slices, encoded, strict=True))
        ]

    def _channels(self, requests: Sequence[Request], spec: JobSpec) -> Channels:
        """The prompts of each channel, as those of the whole: by request, then by document."""
        by_channel = {
            name: [_channel(request, *name.split("-")) for request in requests] for name in CHANNELS
        }
        return {name: self._encode(asked, spec) for name, asked in by_channel.items()}

    def _encode(self, requests: Sequence[Request], spec: JobSpec) -> list[list[Prompt | ItemError]]:
        return self._prompter.encode_all(
            requests, max_length=spec.max_length, max_tokens_per_doc=spec.max_tokens_per_doc
        )


def images_of(content: Content, spec: JobSpec) -> list[Wanted]:
    """Images, then the frames of the video, each as the job wants it; none of too many images."""
    if content.plain or len(content.image) > IMAGES_MAX:
        return []
    options = spec.image_spec
    found = [Wanted(uri, options) for uri in content.image]
    if content.video:
        given = content.video.frames
        frames = [given[at] for at in frames_chosen(len(given), spec.video_max_frames)]
        most = frame_pixels(len(frames), spec.video_total_pixels)
        most = min(most, spec.max_pixels or most)
        of_frames = replace(options, min_pixels=MIN_PIXELS, max_pixels=most)
        found += [Wanted(uri, of_frames) for uri in frames]
    return found


def provenance_of(engine: Provenance, spec: JobSpec, *, sees: bool) -> Provenance:
    """What produces a job's scores: the engine's own, and what a model that sees is shown."""
    if not sees:
        return engine
    fps = spec.video_fps or FRAMES_PER_S
    video = f"{spec.video_max_frames}:{spec.video_total_pixels}:{fps:g}"
    return engine.model_copy(update={"pixels": spec.image_spec.key(), "video": video})


def frames_chosen(count: int, most: int = FRAMES_MAX) -> list[int]:
    """Which frames of a video are read: all, or the `most` there may be, spread evenly over it; of
    one alone the first."""
    if count <= most:
        return list(range(count))
    return [at * (count - 1) // max(most - 1, 1) for at in range(most)]


def frame_pixels(count: int, total: int = VIDEO_PIXELS) -> int:
    """Pixels of one of so many frames at the most, as in the authors' procedure: two frames make
    one visual token's step in time."""
    return int(max(min(FRAME_PIXELS_MAX, 2 * total / count), MIN_PIXELS))


class _Fetches:
    """What became of each job's newest fetches here, since its failures last stopped it.

    Bounded both ways: a cluster of dead links among many good ones stops no job, and a source that
    dies late is noticed as soon as one that was dead from the first.
    """

    def __init__(self) -> None:
        self._newest: OrderedDict[str, deque[ItemError | None]] = OrderedDict()
        self._lock = threading.Lock()

    def judge(self, found: Found, spec: JobSpec) -> None:
        """Raises UsageError when more failed than the job allows. Of an interactive request each
        failure is its pair's alone: nobody is there to resume it."""
        if not found or spec.priority is Priority.interactive:
            return
        job = spec.model_dump_json()
        with self._lock:
            newest = self._newest.setdefault(job, deque(maxlen=FETCHES_JUDGED))
            self._newest.move_to_end(job)
            newest.extend(_failed_fetch(outcome) for outcome in found.values())
            failed = [error for error in newest if error is not None]
            if len(failed) <= spec.max_error_rate * max(len(newest), FETCHES_MIN):
                if len(self._newest) > JOBS_COUNTED:
                    self._newest.popitem(last=False)
                return
            del self._newest[job]
        raise UsageError(
            f"{len(failed)} of the last {len(newest)} images could not be fetched; the first: "
            f"{failed[0].message}",
            hint="mend the cause and `rerank resume`, or submit again with a higher "
            "--max-error-rate",
        )


def _failed_fetch(outcome: PreparedImage | ItemError) -> ItemError | None:
    if isinstance(outcome, ItemError) and outcome.code in FETCH_CODES:
        return outcome
    return None


def _request(piece: Slice, spec: JobSpec, found: Found) -> Request:
    return Request(
        _of_query(_side(piece.query, spec, found, of_query=True)),
        [_side(document, spec, found) for document in piece.documents],
        piece.instruction or instruction_for(piece.query, spec),
    )


def _side(
    content: Content, spec: JobSpec, found: Found, *, of_query: bool = False
) -> Side | ItemError:
    """A content with its images, or the first error among them."""
    if content.plain:
        return Side(content.text or "")
    if len(content.image) > IMAGES_MAX:
        return ItemError(
            "too_many_images",
            f"{len(content.image)} images in one content, at most {IMAGES_MAX} are read",
            hint="make several documents of them",
        )
    prepared: list[PreparedImage] = []
    for wanted in images_of(content, spec):
        image = found[wanted]
        if isinstance(image, ItemError):
            return image
        if _is_refused(image, spec):
            return _too_poor(image, spec, of_query=of_query)
        prepared.append(image)
    images, frames = prepared[: len(content.image)], prepared[len(content.image) :]
    if len({frame.size for frame in frames}) > 1:
        return ItemError("frames_differ", "the video's frames have different shapes")
    return Side(
        content.text or "",
        tuple(Visual(image.key, (image.pixels,)) for image in images),
        tuple(_steps(content, frames, spec)),
    )


def _of_query(side: Side | ItemError) -> Side | ItemError:
    """The query's side; an error says that it is the query's, since each pair will tell it."""
    if not isinstance(side, ItemError) or side.code == POOR_QUERY:
        return side
    return ItemError(side.code, f"the query: {side.message}", hint=side.hint)


def _is_refused(outcome: PreparedImage | ItemError, spec: JobSpec) -> bool:
    """Whether the job wants no image of such a quality."""
    if isinstance(outcome, ItemError) or spec.quality_action != "reject":
        return False
    return outcome.quality < spec.quality_threshold


def _too_poor(image: PreparedImage, spec: JobSpec, *, of_query: bool) -> ItemError:
    what = "query image" if of_query else "image"
    return ItemError(
        POOR_QUERY if of_query else "low_quality",
        f"the {what}'s quality {image.quality:.2f} is below {spec.quality_threshold:.2f}",
        hint="give a sharper, well exposed image, or lower --quality-threshold",
        quality=image.quality,
    )


def _steps(
    content: Content, frames: Sequence[PreparedImage], spec: JobSpec
) -> Iterator[tuple[float, Visual]]:
    """Two frames a step, the last one doubled if it is alone; the mean of their times."""
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


def _channel(request: Request, query_part: str, document_part: str) -> Request:
    """The request with one part of each side; a side that lacks it stands as an error."""
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
    """A pair's channels: those that it has."""
    chosen = {name: prompts[line][at] for name, prompts in channels.items()}
    return {name: prompt for name, prompt in chosen.items() if isinstance(prompt, Prompt)}


def _prepared(
    prompt: Prompt,
    piece: Slice,
    at: int,
    spec: JobSpec,
    found: Found,
    channels: Mapping[str, Prompt],
) -> Prepared:
    """A pair with the facts of its images; the query's count for its quality."""
    document = piece.documents[at]
    if document.plain and piece.query.plain:
        return Prepared(prompt, channels=channels)
    own, query = (
        [p for w in images_of(content, spec) if isinstance(p := found[w], PreparedImage)]
        for content in (document, piece.query)
    )
    return Prepared(
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
