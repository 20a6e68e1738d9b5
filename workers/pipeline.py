"""Slices -> outcomes: prepare pairs ahead of the device, score them, keep each with its item.

The one path from text to margin, used by the queue's workers and by `rerank score` alike.
Knows nothing of Redis, Celery or torch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
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
from rerankfleet.workers.prepare import Found, Images, Prepared, Preparer
from rerankfleet.workers.prompting.prompts import Prompt, Prompter, Request
from rerankfleet.workers.recorder import Recorder

PAIRS_AHEAD = 256
"""Pairs are handed to the device in runs of about this many, so that it starts on the first run
while the next is being tokenised."""

IMAGES_AHEAD = 16
"""And of about so many images, some two megabytes each. Those of the next run are fetched and
decoded before all of this one are."""

FIRST_IMAGES = 2
"""The images of the first run; each next one may have twice as many, up to IMAGES_AHEAD."""

LOADS_AHEAD = 1
"""Runs whose images are loaded beside those of the run that is prepared: decoding never waits
for the last image of a run."""

RUNS_AHEAD = 4
"""Runs handed to the device before the oldest is waited for: it never runs dry, and no more
images than theirs are held."""

CANARY = Request.of("How many days has a year?", ["365"])
"""A pair that every working device scores: before a pair is blamed, this one is tried."""

log = structlog.get_logger()


class Stopped(Exception):
    """The work is no longer wanted here: drained, cancelled, or lost to another worker."""


@dataclass(frozen=True, slots=True)
class Run:
    """Some slices, their prepared pairs (or errors), and the outcomes to come."""

    slices: list[Slice]
    prepared: list[list[Prepared | ItemError]]
    spec: JobSpec
    future: Future[list[Outcome]]

    @property
    def tokens(self) -> int:
        """Query tokens once a slice, document tokens once a pair."""
        by_slice = [[p.prompt for p in pairs if isinstance(p, Prepared)] for pairs in self.prepared]
        return sum(
            sum(len(p.document) for p in prompts) + max((len(p.query) for p in prompts), default=0)
            for prompts in by_slice
        )

    @property
    def prompts(self) -> list[Prompt]:
        """What is scored, in order."""
        return [prompt for pairs in self.prepared for prompt in _prompts(pairs)]


class Scorer:
    """Scores slices with one prompter and one batcher; `images` for a model that sees."""

    def __init__(
        self,
        prompter: Prompter,
        batcher: Batcher,
        images: Images | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder or Recorder()
        self._preparer = Preparer(prompter, images, self._recorder)
        self._batcher = batcher
        (encoded,) = prompter.encode_all([CANARY], max_length=PLAIN_OPTIONS.max_length)
        self._canary = [p for p in encoded if isinstance(p, Prompt)]

    def score(
        self, slices: Iterable[Slice], spec: JobSpec, stop: threading.Event
    ) -> tuple[list[SliceOutcome], int]:
        """Score slices. Returns their outcomes in order, and how many tokens were read for them.

        Raises Stopped when `stop` is set, DeviceBroken when the device scores nothing any more.
        """
        found: list[SliceOutcome] = []
        tokens = 0
        for run in self.runs(slices, spec, stop):
            found += self.collect(run, spec.priority, stop)
            tokens += run.tokens
        return found, tokens

    def runs(self, slices: Iterable[Slice], spec: JobSpec, stop: threading.Event) -> Iterator[Run]:
        """Runs in order, each handed to the device a few before it is to be collected."""
        loading: deque[tuple[list[Slice], Future[Found]]] = deque()
        pending: deque[Run] = deque()
        for slices_of_run in in_runs(slices):
            loading.append((slices_of_run, self._preparer.load(slices_of_run, spec)))
            if len(loading) > LOADS_AHEAD:
                one, loaded = loading.popleft()
                pending.append(self.begin(one, spec, stop, loaded))
            if len(pending) > RUNS_AHEAD:
                yield pending.popleft()
        pending.extend(self.begin(one, spec, stop, loaded) for one, loaded in loading)
        while pending:
            yield pending.popleft()

    def begin(
        self,
        slices: list[Slice],
        spec: JobSpec,
        stop: threading.Event,
        loaded: Future[Found] | None = None,
    ) -> Run:
        """Prepare some slices and hand their pairs to the device; blocks while too much waits."""
        if stop.is_set():
            raise Stopped
        prepared = self._preparer.prepare(slices, spec, loaded)
        prompts = [prompt for pairs in prepared for prompt in _prompts(pairs)]
        future = self._batcher.submit(prompts, priority=spec.priority, stop=stop)
        return Run(slices, prepared, spec, future)

    def collect(
        self, run: Run, priority: Priority, stop: threading.Event
    ) -> Iterator[SliceOutcome]:
        """The outcomes of a run, in order; waits for the device.

        Raises Stopped when `stop` is set, DeviceBroken when the device scores nothing any more.
        """
        outcomes = iter(self._outcomes(run, priority, stop))
        for piece, pairs in zip(run.slices, run.prepared, strict=True):
            found = [p if isinstance(p, ItemError) else next(outcomes) for p in pairs]
            parts = [_channels(p, m, outcomes) for p, m in zip(pairs, found, strict=True)]
            yield _slice_outcome(piece, pairs, found, run.spec, parts)

    def _outcomes(self, run: Run, priority: Priority, stop: threading.Event) -> list[Outcome]:
        try:
            return run.future.result()
        except CancelledError:
            raise Stopped from None
        except EngineError as error:
            log.warning("a pack failed; its pairs are tried again", error=str(error))
            self._recorder.add(RETRIES, "pack_failed")
            return self._again(run.prompts, priority, stop)

    def _again(
        self, prompts: Sequence[Prompt], priority: Priority, stop: threading.Event
    ) -> list[Outcome]:
        """Score apart from others, in halves when that fails: what fails alone is an error."""
        try:
            return self._apart(prompts, priority, stop)
        except EngineError as error:
            if len(prompts) == 1:
                self._try_canary(priority, stop, error)
                return [ItemError("engine_error", f"the model failed on this pair: {error}")]
        self._recorder.add(BATCH_SPLITS, "poison")
        middle = len(prompts) // 2
        halves = (prompts[:middle], prompts[middle:])
        return [outcome for half in halves for outcome in self._again(half, priority, stop)]

    def _try_canary(self, priority: Priority, stop: threading.Event, error: EngineError) -> None:
        """Raises DeviceBroken unless the device still scores what it must be able to."""
        try:
            (margin,) = self._apart(self._canary, priority, stop) or [0.0]
        except EngineError as again:
            margin, error = ItemError(again.code, again.message), again
        if isinstance(margin, ItemError):
            raise DeviceBroken(
                f"the device fails on any pair ({error.message})",
                hint="look at the driver's log, and start again",
            )

    def _apart(
        self, prompts: Sequence[Prompt], priority: Priority, stop: threading.Event
    ) -> list[Outcome]:
        try:
            return self._batcher.submit(prompts, priority=priority, stop=stop, apart=True).result()
        except CancelledError:
            raise Stopped from None


def in_runs(slices: Iterable[Slice]) -> Iterator[list[Slice]]:
    """Group slices into runs of about PAIRS_AHEAD pairs, or of at most IMAGES_AHEAD images (one
    document may have more); the first runs have fewer, so that the device starts early.

    A slice of many images is cut; the outcomes of one line are merged when it is written.
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
    pairs: Sequence[Prepared | ItemError],
    found: Sequence[Outcome],
    spec: JobSpec,
    parts: Sequence[dict[str, float]],
) -> SliceOutcome:
    results, errors = [], list(piece.failures)
    for document, index, pair, outcome, channels in zip(
        piece.documents, piece.indices, pairs, found, parts, strict=True
    ):
        if isinstance(outcome, ItemError):
            errors.append(failure_of(piece.line, index, document, outcome))
            continue
        assert isinstance(pair, Prepared)
        scored = _scored(index, document, pair, outcome, spec)
        results.append(scored.model_copy(update={"channels": channels}) if channels else scored)
    return SliceOutcome(
        line=piece.line,
        id=piece.id,
        top_n=piece.top_n,
        metadata=piece.metadata,
        results=results,
        errors=errors,
    )


def _scored(index: int, document: Document, pair: Prepared, margin: float, spec: JobSpec) -> Scored:
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


def _prompts(pairs: Sequence[Prepared | ItemError]) -> list[Prompt]:
    """What of a slice is scored, in order: its pairs, then the channels of each."""
    prepared = [pair for pair in pairs if isinstance(pair, Prepared)]
    parts = [prompt for pair in prepared for prompt in pair.parts.values()]
    return [*(pair.prompt for pair in prepared), *parts]


def _channels(
    pair: Prepared | ItemError, whole: Outcome, outcomes: Iterator[Outcome]
) -> dict[str, float]:
    """The margins of a pair's channels, whose parts come next; one that failed is not told."""
    if isinstance(pair, ItemError):
        return {}
    parts = {name: next(outcomes) for name in pair.parts}
    found = {name: parts.get(name, whole) for name in pair.channels}
    return {name: m for name, m in found.items() if not isinstance(m, ItemError)}


def poisoned(piece: Slice) -> SliceOutcome:
    """The outcome of a slice that killed its worker twice while it was alone."""
    return _without_scores(
        piece,
        code="worker_died",
        message="the worker died twice while it scored this pair alone",
        hint="score it by itself with `rerank score` and look at what the process says",
    )


def refused(piece: Slice, error: RerankError) -> SliceOutcome:
    """The outcome of a slice that cannot be scored for a reason that no pair is to blame for."""
    return _without_scores(piece, code=error.code, message=error.message, hint=error.hint)


def _without_scores(piece: Slice, **said: str) -> SliceOutcome:
    """The outcome of a slice whose pairs all have the same error."""
    return SliceOutcome(
        line=piece.line,
        id=piece.id,
        top_n=piece.top_n,
        metadata=piece.metadata,
        errors=[*piece.failures, *failures_of(piece, **said)],
    )


def summarize(
    outcomes: Sequence[SliceOutcome], spec: JobSpec, *, tokens: int = 0, requests: int = 0
) -> ShardSummary:
    """The counts that a commit adds to its job and to the statistics."""
    scored = [result for outcome in outcomes for result in outcome.results]
    failed = [failure for outcome in outcomes for failure in outcome.errors]
    rejected = sum(failure.rejected for failure in failed)
    return ShardSummary(
        scored=len(scored),
        errors=len(failed) - rejected,
        rejected=rejected,
        truncated=sum(result.truncated_tokens > 0 for result in scored),
        crowded=sum(result.crowded for result in scored),
        tokens=tokens,
        requests=requests,
        scores=ScoreDistribution.of((result.margin for result in scored), spec.temperature),
        profile=spec.profile or NO_PROFILE,
        priority=spec.priority,
    )
