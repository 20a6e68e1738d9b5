"""Client: submit jobs, watch them, read their results. What the command line is a thin shell over.

    from producer import Client

    client = Client()
    job_id = client.submit("pairs.jsonl", model="Qwen/Qwen3-Reranker-0.6B")
    client.wait(job_id)
    for line in client.results(job_id):
        print(line["id"], line["results"][0])

Needs Redis and the storage, never torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rerankfleet.producer.coordinator.cut import cut
from rerankfleet.producer.coordinator.finish import committed_parts, merged_lines
from rerankfleet.producer.coordinator.rows import parse_rows, refuse_large_ranking, rows_of
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.inputs.catalog import pin_catalog, read_queries, refuse_existing_folder
from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.inputs.jsonl import pin, refuse_changed
from rerankfleet.producer.queue_position import QueuePosition, QueuePositions
from rerankfleet.producer.shard_size import image_tokens, shard_size, slice_tokens
from rerankfleet.producer.status import describe
from rerankfleet.shared.content.options import OF_JOBS, ScoringOptions
from rerankfleet.shared.content.outcomes import Provenance, Scored, SliceOutcome
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import (
    CallerLeft,
    DeadlineExceeded,
    ModelLoading,
    NoWorker,
    Overloaded,
    TooLarge,
    Unavailable,
    UnknownModel,
    UsageError,
    WrongState,
)
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.formats.output import merge, output_line
from rerankfleet.shared.formats.shard_files import (
    dump_queries,
    dump_slices,
    job_uri,
    parse_part,
    queries_uri,
    shard_file,
)
from rerankfleet.shared.formats.sources import COPY_BYTES, is_uri, refuse_existing
from rerankfleet.shared.job_spec import InputRef, JobSpec, OutputFormat, Priority, make_spec
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.model_names import POCKET_MODELS, canonical_model
from rerankfleet.shared.profiles import resolve
from rerankfleet.shared.queue import Hints, broker_keys, make_app, model_queue
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.state.connection import REDIS_ERRORS, connect
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.notifier import Caller, JobNotifier
from rerankfleet.shared.state.records import Job, OpenShard
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects, publish_file


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a few requests that were asked at once."""

    job: Job
    outcomes: list[SliceOutcome]
    """One per request, in order."""
    provenance: Provenance | None
    total_s: float

    @property
    def scored(self) -> list[Scored]:
        """All scores of all requests, before any top_n."""
        return [found for outcome in self.outcomes for found in outcome.results]

    @property
    def fleet_s(self) -> float:
        """Seconds from when the job stood in the queue to its end, by the server's clock."""
        return (self.job.number("finished_ms") - self.job.number("created_ms")) / 1000

    def line(self, number: int) -> dict[str, Any]:
        """A request's line of output, cut to its top_n."""
        return output_line(
            self.outcomes[number],
            self.provenance,
            top_n=None,
            calibration=self.job.spec.calibration,
        )


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a finished job's output."""

    name: str
    uri: str
    rows: int | None = None
    """Lines or rows in it, where its manifest says so."""


class Client:
    """One connection to a fleet. Safe to share between threads.

    Raises QueueUnavailable at once when Redis does not answer.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        redis = connect(self.settings)
        self.store = Store(redis, self.settings)
        self.fleet = self.store.fleet
        self.objects = Objects(self.settings, inline=self.store.inline.get)
        self._ends = JobNotifier(self.store)
        self._queues = QueuePositions(self.store)
        self._hints = Hints(make_app(self.settings))
        self._control = Control(self.store, self.objects, self._hints, self.settings)

    # ---- jobs -----------------------------------------------------------------------------------

    def submit(
        self,
        input: str | Path,
        *,
        output: str | Path | None = None,
        model: str | None = None,
        profile: str | None = None,
        key: str | None = None,
        force: bool = False,
        **options: Any,
    ) -> str:
        """Make a job of a JSON Lines file and return its id, once the server has it safely.

        `input` is a path (uploaded to the storage), `-` for standard input, s3:// or file://.
        `output` as a URI is written by the coordinator; as a path, by `fetch` or `rerank --wait`.
        Options are `priority`, `name` and the fields of
        `rerankfleet.shared.content.options.ScoringOptions`, which docs/options.md lists.
        What is not given, or None, is as the `profile` has it, else the default. The same key with
        the same input and options returns the same job.
        Raises UsageError (or what derives from it) before any work starts.
        """
        model = self.choose_model(model)
        job_id = uuid.uuid4().hex[:12]
        target = _target(output)
        if target and not self._is_own_output(key, target):
            refuse_existing(target, self.objects, force=force)
        _refuse_adapting_from_outside(options)
        fields = resolve(profile, options, self.settings.profiles)
        spec = _spec(model, target, key=key, force=force, source=str(input), **fields)
        with self._files(job_id) as at:
            pinned = pin(str(input), self.objects, self.settings, at)
            spec = spec.model_copy(update={"input": pinned})
            return self._start(job_id, spec, options)

    def submit_catalog(
        self,
        catalog: str | Path,
        queries: str | Path | Sequence[str | Mapping[str, Any]],
        *,
        output: str | Path | None = None,
        format: OutputFormat = "jsonl",
        model: str | None = None,
        profile: str | None = None,
        key: str | None = None,
        force: bool = False,
        **options: Any,
    ) -> str:
        """Make a job of a catalog, in which every query meets every image; return its id.

        `catalog` is s3://bucket/prefix/, a folder, or a listing: lines of URIs, CSV or Parquet
        with the columns image, id, text. `queries` is a file with a query a line (text, or a JSON
        content with an optional id), or a sequence of them. The output is a folder, file:///dir/ or
        s3://bucket/prefix/, of rows (query_id, image_id, margin, relevance_score or error) as
        JSON Lines or Parquet, and with `top_n` a ranking per query. Options are those of `submit`;
        `limit` counts images. Raises UsageError (or what derives from it) before any work starts.
        """
        model = self.choose_model(model)
        job_id = uuid.uuid4().hex[:12]
        target = _target(output, folder=True)
        if target and not self._is_own_output(key, target):
            refuse_existing_folder(target, self.objects, force=force)
        found = read_queries(queries, self.objects)
        asked = {"queries": _pinned(dump_queries(found)), "count": len(found), "format": format}
        _refuse_adapting_from_outside(options)
        fields = resolve(profile, options, self.settings.profiles)
        spec = _spec(
            model, target, key=key, force=force, source=str(catalog), catalog=asked, **fields
        )
        refuse_large_ranking(len(found), spec.top_n)
        with self._files(job_id) as at:
            pinned = pin_catalog(str(catalog), self.objects, self.settings, at)
            self.objects.write(queries_uri(self.objects, job_id), dump_queries(found))
            spec = spec.model_copy(update={"input": pinned})
            return self._start(job_id, spec, options)

    @contextmanager
    def _files(self, job_id: str) -> Iterator[str]:
        """Yields where a job's input may be kept. When the block fails, all that was written for
        the job goes, unless it was made after all: only the reply may have been lost."""
        try:
            yield job_uri(self.objects, job_id, "input.jsonl")
        except BaseException:
            with suppress(
                UsageError, Unavailable, *REDIS_ERRORS
            ):  # the first error is the one told
                if not self.store.jobs.get_many([job_id]):
                    self.objects.delete_tree(job_uri(self.objects, job_id))
            raise

    def _start(self, job_id: str, spec: JobSpec, asked: Mapping[str, Any]) -> str:
        """Create the job, or find the one that has its key, and see to it that it is fed."""
        found = self._create(job_id, spec, asked)
        if found == job_id:
            self.store.jobs.wait_persisted()
            self._hints.feed(job_id)
        return found

    def _is_own_output(self, key: str | None, target: str) -> bool:
        """Whether a job with this key writes there: submitting it again is harmless."""
        job = self.store.jobs.with_key(key) if key else None
        return job is not None and target in (job.spec.output, job.spec.local_output)

    def _create(self, job_id: str, spec: JobSpec, asked: Mapping[str, Any]) -> str:
        """Create the job; drop what was written for it when another job stands instead.

        The digest is of what the caller asked for: the temperature that earlier jobs gave the
        profile makes no other job of the same key."""
        found = self.store.jobs.create(job_id, self._calibrated(spec, asked), _digest(spec))
        if found != job_id:
            self.objects.delete_tree(job_uri(self.objects, job_id))
        return found

    def _calibrated(self, spec: JobSpec, asked: Mapping[str, Any]) -> JobSpec:
        """The spec at the temperature that earlier jobs gave its profile. With one of its own it
        neither takes nor changes that."""
        if asked.get("temperature") is not None:
            return spec.model_copy(update={"adaptive_temperature": False})
        if spec.profile is None:
            return spec
        found = self.store.statistics.profile_temperature(spec.profile, spec.profile_temperature)
        return spec.model_copy(update={"temperature": found})

    def choose_model(self, model: str | None) -> str:
        """The model as the fleet knows it; without a name, the only one that it serves.

        Raises UnknownModel when that is not clear. A demonstration model is never chosen silently.
        """
        return self._choose_model(model, self.fleet.workers())

    def _choose_model(self, model: str | None, workers: Sequence[WorkerRow]) -> str:
        served = sorted({worker.model for worker in workers})
        if model is not None:
            name = canonical_model(model)
            if name not in served and not self.fleet.knows(name):
                there = f"it serves {', '.join(served)}" if served else "it has no worker"
                raise UnknownModel(
                    f"this fleet never served the model {model!r}; {there}",
                    hint=f"start one: rerank worker --model {model}",
                )
            return name
        if len(served) != 1:
            there = f"serves {', '.join(served)}" if served else "has no worker now"
            raise UnknownModel(f"this fleet {there}", hint="name the model with --model")
        if served[0] in POCKET_MODELS:
            raise UnknownModel(
                f"this fleet serves only the demonstration model {served[0]}",
                hint=f"say --model {served[0]} if you mean it, or start `rerank worker --model M`",
            )
        return served[0]

    def status(self, job_id: str) -> JobStatus:
        """Progress, rate, and what holds the job back."""
        return describe(self.store.jobs.get(job_id), self.store)

    def jobs(self, count: int = 50) -> list[JobStatus]:
        """The newest jobs, newest first."""
        found = []
        for job_id in self.store.jobs.recent(count):
            with suppress(UsageError):  # its time was over a moment ago
                found.append(self.status(job_id))
        return found

    def workers(self) -> list[WorkerRow]:
        """A row per living worker process."""
        return self.fleet.workers()

    def wait(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        on_progress: Callable[[JobStatus], None] | None = None,
    ) -> JobStatus:
        """Wait until the job is done or cancelled. Raises DeadlineExceeded after `timeout_s`.

        `on_progress` is called about once a second. Leaving early leaves the job running.
        """
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        while True:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            try:
                status = self.status(job_id)
                if on_progress:
                    on_progress(status)
                if status.state in ("done", "cancelled"):
                    return status
                self.store.jobs.wait_done(job_id, max(left, 0.0))
            except REDIS_ERRORS:  # restarting, perhaps: jobs go on when it is back
                time.sleep(max(left, 0.0))
            if left <= 0:
                raise DeadlineExceeded(f"job {job_id} still runs", hint="wait for it again")

    def results(self, job_id: str, *, partial: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the output's lines in input order; of a catalog its rows, image by image.

        Of an unfinished job only with `partial`: what was committed so far, where a line may still
        lack documents. Raises WrongState otherwise.
        """
        job = _with_output(self.store.jobs.get(job_id))
        if not job.finished and not partial:
            raise WrongState(
                f"job {job_id} is not finished", hint="wait for it, or ask for partial results"
            )
        yield from (line for _, line in self._read(job, ""))

    def results_after(self, job_id: str, after: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the same lines, of an unfinished job what was committed so far; each with a cursor,
        after which they can be read on without reading what is before it.

        The cursor is empty while the job is unfinished: a line before it may still come. Raises
        UsageError for a cursor of another output.
        """
        job = _with_output(self.store.jobs.get(job_id))
        if after and not job.finished:
            raise WrongState(
                f"job {job_id} is not finished: it has no cursors", hint="read it from the start"
            )
        yield from self._read(job, after)

    def _read(self, job: Job, after: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if job.finished:
            read = self._published_rows if job.spec.catalog else self._published_lines
            yield from read(job, after)
            return
        calibration = job.spec.calibration
        if job.spec.catalog:
            for *_, outcomes in committed_parts(job, self._control, whole=False):
                for outcome, _ in outcomes:
                    yield from (("", row) for row in rows_of(outcome, calibration))
            return
        for outcome, provenance in merged_lines(job, self._control, whole=False):
            yield (
                "",
                output_line(outcome, provenance, top_n=job.spec.top_n, calibration=calibration),
            )

    def _published_lines(self, job: Job, after: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines of an output, each with the offset behind it."""
        output, offset = job.facts["output"], int(after or 0) if "." not in after else -1
        if offset > self.objects.stat(output).size:
            raise _no_cursor(after)
        with self.objects.open(output, max(offset - 1, 0)) as stream:
            if offset and stream.read(1) != b"\n":
                raise _no_cursor(after)
            for line in stream:
                offset += len(line)
                yield str(offset), json.loads(line)

    def _published_rows(self, job: Job, after: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """A catalog's rows, each with its part's number and the count of rows up to it."""
        first, _, skip = (after or "0.0").partition(".")
        assert job.spec.catalog
        if not skip:
            raise _no_cursor(after)
        for number, part in enumerate(self._manifest(job).parts[int(first) :], int(first)):
            data = self.objects.read(job.facts["output"] + part.name)
            rows = enumerate(parse_rows(data, job.spec.catalog.format), 1)
            start = int(skip) if number == int(first) else 0
            yield from ((f"{number}.{count}", row) for count, row in rows if count > start)

    def _manifest(self, job: Job) -> Manifest:
        data = self.objects.read(manifest_uri(job.facts["output"]))
        return Manifest.model_validate_json(data)

    def files(self, job_id: str) -> list[OutputFile]:
        """The files of a finished job's output, the manifest last. Raises WrongState before."""
        job = _with_output(self.store.jobs.get(job_id))
        if not job.finished:
            raise WrongState(f"job {job_id} is not finished", hint="wait for it first")
        output, manifest = job.facts["output"], self._manifest(job)
        found = [OutputFile(part.name, output + part.name, part.rows) for part in manifest.parts]
        if manifest.ranking:
            found.append(OutputFile(manifest.ranking, output + manifest.ranking))
        if not job.spec.catalog:
            found = [OutputFile("results.jsonl", output, manifest.lines)]
        return [*found, OutputFile("manifest.json", manifest_uri(output))]

    def fetch(self, job_id: str, path: Path | str) -> None:
        """Copy a finished job's output and its manifest to a local path; a catalog's to a folder,
        its manifest last."""
        files = self.files(job_id)
        folder = self.store.jobs.get(job_id).spec.catalog is not None
        copies = [str(path), manifest_uri(str(path))]
        if folder:
            copies = [f"{path}/{file.name}" for file in files]
        for file, copy in zip(files, copies, strict=True):
            with self.objects.open(file.uri) as stream, publish_file(Path(copy)) as out:
                while block := stream.read(COPY_BYTES):
                    out.write(block)

    def cancel(self, job_id: str) -> None:
        """Stop a job. What was scored is kept and published; all else ends as cancelled."""
        _refuse(job_id, "cancelled", self.store.jobs.cancel(self.store.jobs.get(job_id)))
        self._hints.feed(job_id)

    def pause(self, job_id: str, reason: str = "paused by the user") -> None:
        """Hold a job. Shards in hand are finished; nothing new is begun."""
        _refuse(job_id, "paused", self.store.jobs.pause(self.store.jobs.get(job_id), reason))

    def resume(self, job_id: str) -> None:
        """Let a paused job go on."""
        answer, shards = self.store.jobs.resume(self.store.jobs.get(job_id))
        _refuse(job_id, "resumed", answer)
        spec = self.store.jobs.get(job_id).spec
        for shard in shards:
            self._hints.shard(spec.model, spec.priority, job_id, shard)
        self._hints.feed(job_id)

    def retry(self, job_id: str, only: str = "all") -> None:
        """Score again what has no score, and merge it into the same output.

        `only` "errors" leaves out what was cancelled. Raises InputChanged when the input is no
        longer the one that the job was made from.
        """
        if only not in ("all", "errors"):
            raise UsageError(f"--only {only!r} is not known", hint="use all or errors")
        job = _with_output(self.store.jobs.get(job_id))
        if job.spec.catalog:
            raise WrongState(
                f"job {job_id} is a catalog, which cannot be retried",
                hint="submit the images whose rows have errors as a listing of their own",
            )
        refuse_changed(job.spec.input, self.objects)
        answer = self.store.jobs.retry(job, only)
        if answer == "nothing":
            raise WrongState(f"job {job_id} has nothing to retry: every pair has its score")
        if answer == "unfinished":
            raise WrongState(f"job {job_id} is not finished", hint="wait for it, or cancel it")
        if answer == "sweeping":
            raise WrongState(
                f"old files of job {job_id} are being removed", hint="retry it in a few minutes"
            )
        self.store.jobs.wait_persisted()
        self._hints.feed(job_id)

    # ---- a small request ------------------------------------------------------------------------

    def rerank(
        self,
        query: str | Mapping[str, Any],
        documents: Sequence[str | Mapping[str, Any]],
        *,
        model: str | None = None,
        profile: str | None = None,
        instruction: str | None = None,
        top_n: int | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Rerank a few documents and wait: a line of output. The same path as a job's.

        Query and documents are texts or contents as in a line of input. Options are those of
        `submit`, but for the ones that are about jobs.
        Raises ItemError for a bad request, NoWorker, Overloaded (retry later), DeadlineExceeded.
        """
        _refuse_unknown(options)
        fields = {
            "query": query,
            "documents": list(documents),
            "instruction": instruction,
            "top_n": top_n,
        }
        piece = slice_of(1, fields, max_documents=self.settings.max_documents_per_request)
        asked = self.ask([piece], model=model, profile=profile, timeout_s=timeout_s, **options)
        return asked.line(0)

    def ask(
        self,
        pieces: Sequence[Slice],
        *,
        model: str | None = None,
        profile: str | None = None,
        timeout_s: float | None = None,
        key: str | None = None,
        caller: Caller | None = None,
        **options: Any,
    ) -> Answer:
        """Have a few validated requests scored as one interactive job, and wait for it.

        `pieces` are of `shared.formats.lines.slice_of`, numbered from 1. Options as in `rerank`.
        The same `key` with the same pieces and options gives the same answer, from the same work,
        while its deadline and a minute last. When the `caller` leaves, its job is cancelled, unless
        a key lets someone ask for its answer again. Raises NoWorker, ModelLoading or Overloaded
        (retry later), TooLarge, DeadlineExceeded, KeyConflict, CallerLeft.
        """
        began_s = time.monotonic()
        workers = self.fleet.workers()
        if model is None and not workers:
            raise NoWorker("no worker serves anything now", hint="start `rerank worker --model M`")
        model = self._choose_model(model, workers)
        workers = [worker for worker in workers if worker.model == model]
        self._check_interactive(model, workers)
        seconds = timeout_s or self.settings.interactive_deadline_s
        spec = make_spec(
            model=model,
            input=_pinned(dump_slices(pieces)) if key else InputRef(uri="", size=0, tag=""),
            priority=Priority.interactive,
            key=key,
            **resolve(profile, options, self.settings.profiles),
        )
        digest = _digest(spec) if key else ""
        spec = self._calibrated(spec, options)
        caller = caller or Caller()
        if caller.has_left:
            raise CallerLeft("the caller left before its job was made")
        job_id = self._create_inline(spec, digest, pieces, seconds, workers)
        if not self._ends.wait(job_id, seconds, caller):
            if caller.has_left and key:
                raise CallerLeft("the caller left: who repeats the request finds its job")
            self.store.jobs.cancel(self.store.jobs.get(job_id))
            if caller.has_left:
                raise CallerLeft("the caller left: its job was cancelled")
            raise _too_late(seconds)
        job = self.store.jobs.get(job_id)
        if job.cancelled:  # by the monitor, at the same deadline
            raise _too_late(seconds)
        outcomes, provenance = [], None
        for _, _, part in self.store.jobs.parts(job_id):
            found, provenance = parse_part(self.objects.read(part))
            outcomes += found
        return Answer(job, _by_line(outcomes), provenance, time.monotonic() - began_s)

    def standing(self, job_id: str, since_s: float) -> QueuePosition:
        """Where a small request stands, which was in its queue at `since_s` (`time.monotonic`),
        until it ends. Raises UnknownJob."""
        job = self.store.jobs.get(job_id)
        done, total = job.progress.done, job.progress.fed
        if done or "fingerprint" in job.facts:  # which a worker sets with its first claim
            return QueuePosition(None, done, total)
        queue = model_queue(job.spec.model, Priority.interactive)
        (waiting,) = broker_keys(self.settings, [queue])
        return QueuePosition(self._queues.ahead(waiting, job_id, since_s), done, total)

    def _check_interactive(self, model: str, workers: Sequence[WorkerRow]) -> None:
        """Whether its workers may take a request. Raises NoWorker, ModelLoading, Overloaded."""
        if not workers:
            raise NoWorker(
                f"no worker serves {model} now", hint=f"start `rerank worker --model {model}`"
            )
        states = {worker.state for worker in workers}
        if "loading" in states and "ready" not in states:
            raise ModelLoading(
                f"the workers of {model} are loading it", hint="try again in a moment"
            )
        queue = model_queue(model, Priority.interactive)
        waiting = self.store.broker.waiting_count(broker_keys(self.settings, [queue]))
        if waiting >= self.settings.interactive_queue_max:
            raise Overloaded(
                f"{waiting} interactive shards wait already",
                hint="try again in a moment",
            )

    def _create_inline(
        self,
        spec: JobSpec,
        digest: str,
        pieces: Sequence[Slice],
        seconds: float,
        workers: Sequence[WorkerRow],
    ) -> str:
        """Make a job that is born sealed and open, with its payload in Redis. Returns its id, or
        that of the one which has its key."""
        job_id = uuid.uuid4().hex[:12]
        size = len(dump_slices(pieces))
        if size > self.settings.inline_bytes_max:
            raise TooLarge(
                f"a request of {size} bytes, at most {self.settings.inline_bytes_max} fit",
                hint="submit it as a job",
            )
        ttl_s = seconds + 60
        shards = self._put_inline(job_id, spec, pieces, ttl_s, workers)
        found = self.store.jobs.create(
            job_id,
            spec,
            digest,
            deadline_ms=int(seconds * 1000),
            inline_ttl_ms=int(ttl_s * 1000),
            shards=shards,
        )
        if found != job_id:
            return found
        for shard in shards:
            name = shard_name(shard.start, shard.end)
            self._hints.shard(spec.model, Priority.interactive, job_id, name)
        return job_id

    def _put_inline(
        self,
        job_id: str,
        spec: JobSpec,
        pieces: Sequence[Slice],
        ttl_s: float,
        workers: Sequence[WorkerRow],
    ) -> list[OpenShard]:
        per_image, text_max = image_tokens(spec.image_spec), spec.max_tokens_per_doc or math.inf
        cuts = cut(
            [Read(piece, 0) for piece in pieces],
            Cursor(),
            shard_size(
                shard_s=1.0,
                tokens_per_s=max((w.tokens_per_s for w in workers), default=0.0),
                pairs_max=self.settings.shard_pairs_max,
                input_tokens=4 * sum(slice_tokens(piece, per_image, text_max) for piece in pieces),
                workers=len(workers),
                images=spec.image_spec,
                text_max=spec.max_tokens_per_doc,
            ),
        )
        shards = []
        for found in cuts:
            if found.slices:
                name = shard_file(0, found.start, found.end, "inline")
                uri = self.store.inline.put(job_id, name, dump_slices(found.slices), ttl_s)
                shards.append(OpenShard(found.start, found.end, uri))
        return shards


def _with_output(job: Job) -> Job:
    """The job. Raises WrongState for that of a small request: its answer is all there is of it."""
    if "inline" in job.facts:
        raise WrongState(
            f"job {job.id} is a small request, which has no output",
            hint="its answer went to whoever asked: ask again",
        )
    return job


def _by_line(outcomes: Sequence[SliceOutcome]) -> list[SliceOutcome]:
    """The outcomes of slices joined line by line; those of a line stand side by side."""
    groups = groupby(outcomes, key=lambda outcome: outcome.line)
    return [merge(list(found)) for _, found in groups]


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = set(ScoringOptions.model_fields) - OF_JOBS - {"instruction", "top_n"}
    if unknown := set(options) - known:
        raise UsageError(
            f"there is no option {min(unknown)!r} here", hint=f"known: {', '.join(sorted(known))}"
        )


def _refuse_adapting_from_outside(options: Mapping[str, Any]) -> None:
    if options.get("adaptive_temperature") and options.get("temperature") is not None:
        raise UsageError(
            "a job with a temperature of its own cannot adapt its profile's",
            hint="leave out one of both, or make a profile that begins with this temperature",
        )


def _spec(
    model: str, target: str | None, *, key: str | None, force: bool, source: str, **options: Any
) -> JobSpec:
    """A job's spec, whose input is still to be pinned."""
    spec = make_spec(
        model=model,
        input=InputRef(uri="", size=0, tag=""),
        output=target if target and is_uri(target) else None,
        local_output=target if target and not is_uri(target) else None,
        key=key,
        force=force,
        **{"name": Path(source).name, **options},
    )
    if spec.adaptive_temperature and spec.profile is None:
        raise UsageError(
            "adaptive_temperature changes a profile, and none was named",
            hint="add --profile default, or one of `rerank profiles`",
        )
    return spec


def _pinned(data: bytes) -> InputRef:
    """What stands with the job itself, a catalog's queries or a small request: two of them are the
    same by their bytes."""
    return InputRef(uri="", size=len(data), tag="", sha256=hashlib.sha256(data).hexdigest())


def _target(output: str | Path | None, *, folder: bool = False) -> str | None:
    """An output as the job remembers it: a URI as it is, of a folder with a slash at its end; a
    path made absolute."""
    if output is None:
        return None
    if not is_uri(str(output)):
        return str(Path(output).resolve())
    return f"{str(output).rstrip('/')}/" if folder else str(output)


def _digest(spec: JobSpec) -> str:
    """What must be equal for two jobs to be the same: input and options, not where bytes lie."""
    ignored = {"input", "key", "force", "local_output", "name", "profile_temperature"}
    fields = spec.model_dump(mode="json", exclude=ignored, exclude_defaults=True)
    pinned = spec.input
    same_bytes = pinned.sha256 or [pinned.uri, pinned.size, pinned.tag]
    text = json.dumps([fields, same_bytes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _no_cursor(after: str) -> UsageError:
    return UsageError(f"{after!r} is no cursor of this output", hint="read it from the start")


def _too_late(seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no answer within {seconds:g} s", hint="ask again, or look at `rerank workers`"
    )


def _refuse(job_id: str, verb: str, answer: str) -> None:
    """Raise WrongState unless the verb was carried out."""
    if answer in ("finished", "running", "cancelled") and answer != verb:
        state = "is not paused" if answer == "running" else f"is already {answer}"
        raise WrongState(f"job {job_id} cannot be {verb}: it {state}")
