"""Slices -> outcomes: prepare pairs ahead of the device, score them, collect each slice's results.

The only path from content to margin, used by the queue's workers and by `rerank score` alike.

A shard has up to thousands of pairs, so it goes through the pipeline in runs of a few slices: while
one run is scored, the next is tokenised and the images of the one after it are loaded. The number
of runs ahead bounds the memory that prompts and pixels take, whatever the size of the shard.

Knows nothing of Redis, Celery or torch.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass

import structlog

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.options import NO_PROFILE, PLAIN_OPTIONS
from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import DeviceBroken, EngineError, ItemError, RerankError
from rerankfleet.shared.formats.output import failure_of, failures_of
from rerankfleet.shared.job_spec import JobSpec, Priority
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.metrics import BATCH_SPLITS, RETRIES
from rerankfleet.shared.score_distribution import ScoreDistribution
from rerankfleet.workers.batching.batcher import Batcher, Outcome
from rerankfleet.workers.prepare import (
    ImageLoader,
    LoadedImages,
    PreparedPair,
    Preparer,
    caller_of,
)
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, PromptRequest
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.recorder import Recorder
from rerankfleet.workers.twins import Twins

PAIRS_AHEAD = 256
"""Pairs of a run, about."""

IMAGES_AHEAD = 16
"""Images of a run at most, of about two megabytes each."""

FIRST_IMAGES = 2
"""Images of the first run, so that the device starts early; each next run may have twice as many,
up to IMAGES_AHEAD."""

LOADS_AHEAD = 1
"""Runs whose images are loaded besides those of the run being prepared, so that decoding never
waits for the last image of a run."""

RUNS_AHEAD = 4
"""Runs submitted to the device before the oldest is waited for, so that it never runs dry."""

CANARY = PromptRequest.of("How many days has a year?", ["365"])
"""A pair that every working device can score: it is tried before another pair is blamed."""

log = structlog.get_logger()


class Stopped(Exception):
    """The worker drains, the job was cancelled, or the shard was lost to another worker."""


@dataclass(frozen=True, slots=True)
class Run:
    """Some slices, their prepared pairs (or errors), and the outcomes to come."""

    slices: list[Slice]
    prepared: list[list[PreparedPair | ItemError]]
    spec: JobSpec
    twins: list[list[str | None]]
    """Of each pair: see `twins`."""
    prompts: list[Prompt]
    """All that is scored; of equal ones only the first, so that their outcomes are equal."""
    places: list[int]
    """Of each pair, and each channel, the place of its prompt in `prompts`."""
    future: Future[list[Outcome]]

    @property
    def tokens(self) -> int:
        """The query's tokens once per slice, the document's once per pair."""
        by_slice = [
            [pair.prompt for pair in pairs if isinstance(pair, PreparedPair)]
            for pairs in self.prepared
        ]
        return sum(
            sum(len(p.document) for p in prompts) + max((len(p.query) for p in prompts), default=0)
            for prompts in by_slice
        )


class Scorer:
    """Scores slices with one prompter and one batcher; `images` for a model that supports them."""

    def __init__(
        self,
        prompter: Prompter,
        batcher: Batcher,
        images: ImageLoader | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Recorder()
        self._preparer = Preparer(prompter, images, self._recorder)
        self._batcher = batcher
        (encoded,) = prompter.encode_all([CANARY], max_length=PLAIN_OPTIONS.max_length)
        self._canary = [p for p in encoded if isinstance(p, Prompt)]

    def score(
        self, slices: Iterable[Slice], spec: JobSpec, stop: threading.Event, turn: Hashable = None
    ) -> tuple[list[SliceOutcome], int]:
        """Score slices. Returns their outcomes in order, and the number of their tokens. Their
        images take turns with those of other jobs; `turn` names this one.

        Raises Stopped when `stop` is set, DeviceBroken when the device fails on any pair.
        """
        outcomes: list[SliceOutcome] = []
        tokens = 0
        for run in self.runs(slices, spec, stop, turn):
            outcomes += self.collect(run, spec.priority, stop)
            tokens += run.tokens
        return outcomes, tokens

    def runs(
        self, slices: Iterable[Slice], spec: JobSpec, stop: threading.Event, turn: Hashable = None
    ) -> Iterator[Run]:
        """Runs in order, each submitted to the device a few before it is to be collected."""
        caller = caller_of(spec, stop, turn)
        loading: deque[tuple[list[Slice], Future[LoadedImages]]] = deque()
        pending: deque[Run] = deque()
        twins = Twins(spec)
        for slices_of_run in in_runs(slices):
            loading.append((slices_of_run, self._preparer.load(slices_of_run, spec, caller)))
            if len(loading) > LOADS_AHEAD:
                next_slices, images = loading.popleft()
                pending.append(self.begin(next_slices, spec, stop, images, twins))
            if len(pending) > RUNS_AHEAD:
                yield pending.popleft()
        pending.extend(self.begin(last, spec, stop, images, twins) for last, images in loading)
        while pending:
            yield pending.popleft()

    def begin(
        self,
        slices: list[Slice],
        spec: JobSpec,
        stop: threading.Event,
        images: Future[LoadedImages] | None = None,
        twins: Twins | None = None,
    ) -> Run:
        """Prepare some slices and submit their pairs; blocks while too many wait."""
        if stop.is_set():
            raise Stopped
        try:
            prepared = self._preparer.prepare(slices, spec, images, caller_of(spec, stop))
        except CancelledError:
            raise Stopped from None
        twins = twins or Twins(spec)
        of_pairs = [twins.of(*slice_) for slice_ in zip(slices, prepared, strict=True)]
        prompts, places = _without_repeats(p for pairs in prepared for p in _prompts(pairs))
        future = self._batcher.submit(prompts, priority=spec.priority, stop=stop)
        return Run(slices, prepared, spec, of_pairs, prompts, places, future)

    def collect(
        self, run: Run, priority: Priority, stop: threading.Event
    ) -> Iterator[SliceOutcome]:
        """The outcomes of a run, in order; waits for the device.

        Raises Stopped when `stop` is set, DeviceBroken when the device fails on any pair.
        """
        scored = self._outcomes(run, priority, stop)
        outcomes = iter([scored[place] for place in run.places])
        for piece, pairs, twins in zip(run.slices, run.prepared, run.twins, strict=True):
            margins = [p if isinstance(p, ItemError) else next(outcomes) for p in pairs]
            channels = [_channels(p, m, outcomes) for p, m in zip(pairs, margins, strict=True)]
            yield _slice_outcome(piece, pairs, margins, run.spec, channels, twins)

    def _outcomes(self, run: Run, priority: Priority, stop: threading.Event) -> list[Outcome]:
        try:
            return run.future.result()
        except CancelledError:
            raise Stopped from None
        except EngineError as error:
            log.warning("a pack failed, its pairs are retried", error=str(error))
            self._recorder.add(RETRIES, "pack_failed")
            return self._retry(run.prompts, priority, stop)

    def _retry(
        self, prompts: Sequence[Prompt], priority: Priority, stop: threading.Event
    ) -> list[Outcome]:
        """Score pairs in packs of their own, in halves when that fails: a pair that fails alone
        gets an error."""
        try:
            return self._score_apart(prompts, priority, stop)
        except EngineError as error:
            if len(prompts) == 1:
                self._try_canary(priority, stop, error)
                return [ItemError("engine_error", f"the model failed on this pair: {error}")]
        self._recorder.add(BATCH_SPLITS, "poison")
        middle = len(prompts) // 2
        halves = (prompts[:middle], prompts[middle:])
        return [outcome for half in halves for outcome in self._retry(half, priority, stop)]

    def _try_canary(self, priority: Priority, stop: threading.Event, error: EngineError) -> None:
        """Raises DeviceBroken when the device cannot score the canary either."""
        try:
            (margin,) = self._score_apart(self._canary, priority, stop) or [0.0]
        except EngineError as again:
            margin, error = ItemError(again.code, again.message), again
        if isinstance(margin, ItemError):
            raise DeviceBroken(
                f"the device fails on any pair ({error.message})",
                hint="check the driver's log and restart the worker",
            )

    def _score_apart(
        self, prompts: Sequence[Prompt], priority: Priority, stop: threading.Event
    ) -> list[Outcome]:
        try:
            return self._batcher.submit(prompts, priority=priority, stop=stop, apart=True).result()
        except CancelledError:
            raise Stopped from None


def in_runs(slices: Iterable[Slice]) -> Iterator[list[Slice]]:
    """Group slices into runs of about PAIRS_AHEAD pairs and at most IMAGES_AHEAD images (a single
    document may have more); the first runs have fewer images.

    A slice with many images is cut; the outcomes of a line are merged when it is written.
    """
    run: list[Slice] = []
    pairs, images, most = 0, set[str](), FIRST_IMAGES
    for piece in slices:
        start = 0
        images.update(piece.query.image_uris)
        for at, document in enumerate(piece.documents):
            own = set(document.image_uris)
            if own and (run or at > start) and len(images | own) > most:
                yield [*run, piece.cut(start, at)] if at > start else run
                run, pairs, images, start = [], 0, set(piece.query.image_uris), at
                most = min(2 * most, IMAGES_AHEAD)
            images |= own
        run.append(piece.cut(start, piece.items))
        pairs += max(len(piece.documents) - start, 1)
        if pairs >= PAIRS_AHEAD or len(images) >= most:
            yield run
            run, pairs, images = [], 0, set()
            most = min(2 * most, IMAGES_AHEAD)
    if run:
        yield run


def _slice_outcome(
    piece: Slice,
    pairs: Sequence[PreparedPair | ItemError],
    margins: Sequence[Outcome],
    spec: JobSpec,
    channels: Sequence[dict[str, float]],
    twins: Sequence[str | None],
) -> SliceOutcome:
    results, errors = [], list(piece.failures)
    for document, index, pair, margin, by_channel, twin in zip(
        piece.documents, piece.indices, pairs, margins, channels, twins, strict=True
    ):
        if isinstance(margin, ItemError):
            errors.append(failure_of(piece.line, index, document, margin))
            continue
        assert isinstance(pair, PreparedPair)
        more = {"channels": by_channel or None, "twin": twin}
        results.append(_scored(index, document, pair, margin, spec).model_copy(update=more))
    return SliceOutcome(
        line=piece.line,
        id=piece.id,
        top_n=piece.top_n,
        metadata=piece.metadata,
        results=results,
        errors=errors,
    )


def _scored(
    index: int, document: Document, pair: PreparedPair, margin: float, spec: JobSpec
) -> Scored:
    lowers = spec.quality_action == "downweight" and pair.quality is not None
    return Scored(
        index=index,
        id=document.id,
        margin=pair.lowered(margin) if lowers else margin,
        plain_margin=margin if lowers else None,
        truncated_tokens=pair.prompt.truncated_tokens,
        crowded=pair.prompt.crowded,
        quality=None if pair.quality is None else round(pair.quality, 4),
        tokens=pair.visual_tokens,
        images=list(pair.images) or None,
        metadata=document.metadata,
    )


def _prompts(pairs: Sequence[PreparedPair | ItemError]) -> list[Prompt]:
    """A slice's prompts in order: its pairs, then the channels of each."""
    prepared = [pair for pair in pairs if isinstance(pair, PreparedPair)]
    parts = [prompt for pair in prepared for prompt in pair.parts.values()]
    return [*(pair.prompt for pair in prepared), *parts]


def _without_repeats(prompts: Iterable[Prompt]) -> tuple[list[Prompt], list[int]]:
    """The prompts without repeated ones, and for each the place of the one that is equal."""
    places: dict[tuple[Tokens, Tokens, Tokens], int] = {}
    kept: list[Prompt] = []
    at = []
    for prompt in prompts:
        place = places.setdefault((prompt.prefix, prompt.query, prompt.document), len(kept))
        if place == len(kept):
            kept.append(prompt)
        at.append(place)
    return kept, at


def _channels(
    pair: PreparedPair | ItemError, whole: Outcome, outcomes: Iterator[Outcome]
) -> dict[str, float]:
    """The margins of a pair's channels, whose outcomes come next; failed ones are left out."""
    if isinstance(pair, ItemError):
        return {}
    parts = {name: next(outcomes) for name in pair.parts}
    margins = {name: parts.get(name, whole) for name in pair.channels}
    return {name: m for name, m in margins.items() if not isinstance(m, ItemError)}


def poisoned(piece: Slice) -> SliceOutcome:
    """The outcome of a slice that killed its worker twice while it was alone."""
    return _without_scores(
        piece,
        code="worker_died",
        message="the worker died twice while it scored this pair alone",
        hint="score it alone in a process of its own, and read what that process says",
    )


def refused(piece: Slice, error: RerankError) -> SliceOutcome:
    """The outcome of a slice that cannot be scored for a reason unrelated to its pairs."""
    return _without_scores(piece, code=error.code, message=error.message, hint=error.hint)


def _without_scores(piece: Slice, **error: str) -> SliceOutcome:
    """The outcome of a slice whose pairs all have the same error."""
    return SliceOutcome(
        line=piece.line,
        id=piece.id,
        top_n=piece.top_n,
        metadata=piece.metadata,
        errors=[*piece.failures, *failures_of(piece, **error)],
    )


def summarize(
    outcomes: Sequence[SliceOutcome], spec: JobSpec, *, tokens: int = 0, requests: int = 0
) -> ShardSummary:
    """The counts that a commit adds to its job and to the statistics."""
    scored = [result for outcome in outcomes for result in outcome.results]
    failed = [failure for outcome in outcomes for failure in outcome.errors]
    errors = [failure for failure in failed if not failure.rejected]
    return ShardSummary(
        scored=len(scored),
        errors=len(errors),
        rejected=len(failed) - len(errors),
        bad_lines=sum(failure.index is None for failure in errors),
        codes=Counter(failure.code for failure in errors),
        truncated=sum(result.truncated_tokens > 0 for result in scored),
        crowded=sum(result.crowded for result in scored),
        tokens=tokens,
        requests=requests,
        scores=ScoreDistribution.of((result.margin for result in scored), spec.temperature),
        profile=spec.profile or NO_PROFILE,
        priority=spec.priority,
    )
