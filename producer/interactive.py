"""Small requests: a few pairs, scored ahead of all jobs while the caller waits.

A small request is a job whose payload is kept in Redis, whose shards are open from the beginning,
and which has a deadline. `Interactive.start` makes it; the `PendingRequest` that it returns is how
the caller follows it, waits for its answer, or cancels it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from rerankfleet.producer.coordinator.cut import Cut, cut
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.queue_position import QueuePosition, QueuePositions
from rerankfleet.producer.shard_size import ShardSize, costs, image_tokens, shard_size
from rerankfleet.producer.submission import (
    NO_INPUT,
    START_ONE,
    choose_model,
    digest_of,
    input_of,
    with_calibration,
)
from rerankfleet.shared.content.data_uris import WrongData, data_of, is_data_uri
from rerankfleet.shared.content.image_headers import claimed_pixels
from rerankfleet.shared.content.outcomes import Provenance, Scored, SliceOutcome
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.content.requests import Piece, Slice
from rerankfleet.shared.errors import (
    CallerLeft,
    DeadlineExceeded,
    ModelLoading,
    NoWorker,
    Overloaded,
    RerankError,
    TooLarge,
    UnknownJob,
)
from rerankfleet.shared.formats.output import merge, output_line
from rerankfleet.shared.formats.shard_files import dump_slices, parse_part, shard_file
from rerankfleet.shared.ids import new_id
from rerankfleet.shared.job_spec import JobSpec, Priority, make_spec
from rerankfleet.shared.model_names import canonical_model
from rerankfleet.shared.profiles import resolve
from rerankfleet.shared.queue import broker_keys, model_queue
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot
from rerankfleet.shared.state.notifier import JobNotifier
from rerankfleet.shared.state.records import Job, OpenShard

SHARD_S = 1.0
"""Seconds of a worker's time that a shard of a small request takes."""
ANSWER_TTL_S = 60.0
"""How long after its deadline a request's answer is kept, for those who repeat it with its key."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a small request, which may hold several queries with their documents."""

    job: Job
    outcomes: list[SliceOutcome]
    """One per query, in order."""
    provenance: Provenance | None
    total_s: float

    @property
    def scored(self) -> list[Scored]:
        """All scores of all queries, before any top_n."""
        return [scored for outcome in self.outcomes for scored in outcome.results]

    @property
    def fleet_s(self) -> float:
        """Seconds from the creation of the job to its end, by the server's clock."""
        return (self.job.number("finished_ms") - self.job.number("created_ms")) / 1000

    def line(self, number: int) -> dict[str, Any]:
        """The line of output of one query, cut to its top_n."""
        return output_line(
            self.outcomes[number],
            self.provenance,
            top_n=None,
            calibration=self.job.spec.calibration,
        )


class Interactive:
    """Starts small requests. Safe to share between threads."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.notifier = JobNotifier(control.store)
        self.positions = QueuePositions(control.store)

    def start(
        self,
        slices: Sequence[Slice],
        *,
        model: str | None = None,
        profile: str | None = None,
        timeout_s: float | None = None,
        key: str | None = None,
        **options: Any,
    ) -> PendingRequest:
        """Put a request into the queue. Arguments and errors are those of `Client.ask`, except that
        nothing is waited for."""
        started_s, store, settings = time.monotonic(), self.control.store, self.control.settings
        fleet = store.snapshot(models=None if model is None else [canonical_model(model)])
        if model is None and not fleet.workers:
            raise NoWorker(
                "no worker serves anything now",
                hint="a worker must be started",
                command="rerank worker --model M",
            )
        model = choose_model(store, model, fleet)
        refuse_busy(fleet, model, settings)
        payload = Payload(slices, settings)
        spec = make_spec(
            model=model,
            input=input_of(payload.data) if key else NO_INPUT,
            priority=Priority.interactive,
            key=key,
            **resolve(profile, options, settings.profiles),
        )
        refuse_many_images(payload.slices, spec, settings)
        digest = digest_of(spec) if key else ""
        spec = with_calibration(spec, options, store.statistics)
        deadline_s = timeout_s or settings.interactive_deadline_s
        shards = _cut(payload.slices, spec, fleet.workers_of(model), settings)
        left_s = started_s + deadline_s - time.monotonic()
        if left_s <= 0:
            raise _too_late(deadline_s)
        job_id = self._create(spec, digest, payload, shards, left_s)
        return PendingRequest(self, job_id, spec, deadline_s=deadline_s, started_s=started_s)

    def _create(
        self,
        spec: JobSpec,
        digest: str,
        payload: Payload,
        cuts: Sequence[Cut],
        left_s: float,
    ) -> str:
        """Make the job, which ends `left_s` from now, and hint its shards. Returns its id, or that
        of the one with its key."""
        store, job_id, ttl_s = self.control.store, new_id(), left_s + ANSWER_TTL_S
        shards = []
        for shard in cuts:
            name = shard_file(0, shard.start, shard.end, "inline")
            uri = store.inline.put(job_id, name, payload.of(shard.slices), ttl_s)
            shards.append(OpenShard(shard.start, shard.end, uri))
        created = store.jobs.create(
            job_id,
            spec,
            digest,
            deadline_ms=int(left_s * 1000),
            inline_ttl_ms=int(ttl_s * 1000),
            shards=shards,
        )
        if created == job_id:
            for opened in shards:
                name = shard_name(opened.start, opened.end)
                self.control.hints.shard(spec.model, Priority.interactive, job_id, name)
        return created


class PendingRequest:
    """A small request in the queue or at work. Safe to share between threads."""

    def __init__(
        self,
        interactive: Interactive,
        job_id: str,
        spec: JobSpec,
        *,
        deadline_s: float,
        started_s: float,
    ) -> None:
        self.job_id = job_id
        self._store = interactive.control.store
        self._objects = interactive.control.objects
        self._positions = interactive.positions
        self._is_repeatable = spec.key is not None
        queue = model_queue(spec.model, Priority.interactive)
        (self._queue_key,) = broker_keys(interactive.control.settings, [queue])
        self._started_s = started_s
        self._queued_s = time.monotonic()
        self._deadline_s = deadline_s
        self._end = interactive.notifier.end_of(job_id)
        self._cancelled = False

    def position(self) -> QueuePosition:
        """How far it has come. Raises UnknownJob some time after its end."""
        job = self._store.jobs.get(self.job_id)
        done, total = job.progress.done, job.progress.fed
        if done or "fingerprint" in job.facts:  # which the first claim sets
            return QueuePosition(None, done, total)
        ahead = self._positions.ahead(self._queue_key, self.job_id, self._queued_s)
        return QueuePosition(ahead, done, total)

    def wait(self) -> Answer:
        """Wait for the answer. One thread waits. Raises DeadlineExceeded, or CallerLeft when
        another thread has called `cancel`."""
        left_s = self._started_s + self._deadline_s - time.monotonic()
        if self._end.wait(left_s):
            job = self._store.jobs.get(self.job_id)
            if not job.cancelled:
                return self._answer(job)
        elif not self._cancelled:
            self._store.jobs.cancel(self._store.jobs.get(self.job_id))
        raise self._failure()

    def cancel(self) -> None:
        """Stop waiting, and cancel the job, unless it has a key: then the request may be repeated,
        and gets its answer. A request that has ended is not changed."""
        self._cancelled = True
        self._end.stop()
        if not self._is_repeatable:
            with suppress(UnknownJob):
                self._store.jobs.cancel(self._store.jobs.get(self.job_id))

    def _failure(self) -> RerankError:
        """Why there is no answer: the caller left, or else the deadline passed, by the clock of
        this process or of the monitor."""
        if not self._cancelled:
            return _too_late(self._deadline_s)
        if self._is_repeatable:
            return CallerLeft("the caller left: who repeats the request gets its answer")
        return CallerLeft("the caller left: its job was cancelled")

    def _answer(self, job: Job) -> Answer:
        outcomes, provenance = [], None
        for _, _, part in self._store.jobs.parts(self.job_id):
            part_outcomes, provenance = parse_part(self._objects.read(part))
            outcomes += part_outcomes
        total_s = time.monotonic() - self._started_s
        return Answer(job, _by_line(outcomes), provenance, total_s)


class Payload:
    """The slices of a request, each serialised once. Raises TooLarge."""

    def __init__(self, slices: Sequence[Slice], settings: Settings) -> None:
        self.slices = slices
        dumped = [dump_slices([piece]) for piece in slices]
        self._dumped = {id(piece): data for piece, data in zip(slices, dumped, strict=True)}
        self.data = b"".join(dumped)
        if len(self.data) > settings.inline_bytes_max:
            raise TooLarge(
                f"a request of {len(self.data)} bytes, at most {settings.inline_bytes_max} fit",
                hint="submit it as a job",
            )

    def of(self, pieces: Sequence[Piece]) -> bytes:
        """The payload of a shard. Only what the cut divided is serialised again."""
        return b"".join(self._dumped.get(id(piece)) or dump_slices([piece]) for piece in pieces)


def _too_late(deadline_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no answer within {deadline_s:g} s",
        hint="send it again; the workers may have more to do than they can",
    )


def refuse_many_images(slices: Sequence[Slice], spec: JobSpec, settings: Settings) -> None:
    """Raise TooLarge for more images, or more pixels of those in data: URIs, than one request may
    have. What others have is counted as they are decoded."""
    contents = [content for piece in slices for content in (piece.query, *piece.documents)]
    images = {uri for content in contents for uri in content.image}
    videos = {content.video.frames for content in contents if content.video}
    count = len(images) + sum(min(len(frames), spec.video_max_frames) for frames in videos)
    if count > settings.interactive_images_max:
        raise TooLarge(
            f"a request with {count:,} images, at most {settings.interactive_images_max:,} are"
            " read while somebody waits",
            hint="submit it as a job",
        )
    most_bytes = settings.image_bytes_max
    pixels = sum(_claimed_pixels(uri, most_bytes) for uri in images.union(*videos))
    if pixels > settings.interactive_pixels_max:
        raise TooLarge(
            f"a request whose images have {pixels:,} pixels in all, at most"
            f" {settings.interactive_pixels_max:,} are decoded while somebody waits",
            hint="scale them down, or submit it as a job",
        )


def _claimed_pixels(uri: str, bytes_max: int) -> int:
    """The pixels of an image that comes with the request; 0 of one that does not, or is broken."""
    if not is_data_uri(uri):
        return 0
    try:
        return claimed_pixels(data_of(uri, bytes_max) or b"")
    except WrongData:
        return 0


def refuse_busy(fleet: FleetSnapshot, model: str, settings: Settings) -> None:
    """Raise NoWorker, ModelLoading or Overloaded where no small request can be taken now."""
    states = {worker.state for worker in fleet.workers_of(model)}
    if not states:
        raise NoWorker(
            f"no worker serves {model} now",
            hint=START_ONE,
            command=f"rerank worker --model {model}",
        )
    if "loading" in states and "ready" not in states:
        raise ModelLoading(f"the workers of {model} are loading it", hint="try again in a moment")
    waiting = fleet.queue(model).waiting[Priority.interactive]
    if waiting >= settings.interactive_queue_max:
        raise Overloaded(f"{waiting} interactive shards wait already", hint="try again in a moment")


def _cut(
    slices: Sequence[Slice], spec: JobSpec, workers: Sequence[WorkerRow], settings: Settings
) -> list[Cut]:
    """The shards of a request: small enough that every worker gets some, and so few that it does
    not fill the queue. Each document is priced once. Raises TooLarge."""
    per_image, text_max = image_tokens(spec.image_spec), spec.max_tokens_per_doc or math.inf
    prices = ShardSize(0.0, 0, per_image, text_max=text_max)
    priced = {id(piece): costs(piece, prices) for piece in slices}
    tokens = sum(shared + sum(pairs) for shared, pairs in priced.values())
    size = shard_size(
        shard_s=SHARD_S,
        tokens_per_s=max((worker.tokens_per_s for worker in workers), default=0.0),
        pairs_max=settings.shard_pairs_max,
        input_tokens=4 * tokens,
        workers=len(workers),
        images=spec.image_spec,
        text_max=spec.max_tokens_per_doc,
    )
    most = settings.interactive_shards_max
    size = replace(size, tokens=max(size.tokens, tokens / most))
    reads = [Read(piece, 0) for piece in slices]
    while True:
        cuts = cut(reads, Cursor(), size, price=lambda piece: priced[id(piece)])
        shards = [shard for shard in cuts if shard.slices]
        if len(shards) <= most:
            return shards
        if size.tokens > tokens:
            raise TooLarge(
                f"a request of {shards[-1].end:,} documents makes {len(shards)} shards, at most"
                f" {most} are queued for one",
                hint="submit it as a job",
            )
        size = replace(size, tokens=2 * size.tokens)


def _by_line(outcomes: Sequence[SliceOutcome]) -> list[SliceOutcome]:
    """The outcomes of slices joined line by line; those of a line are neighbours."""
    groups = groupby(outcomes, key=lambda outcome: outcome.line)
    return [merge(list(of_line)) for _, of_line in groups]
