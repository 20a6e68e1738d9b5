"""Client: submit jobs, watch them, read their results. The command line is built on it.

    from rerankfleet import Client

    client = Client()
    job_id = client.submit("pairs.jsonl", model="Qwen/Qwen3-Reranker-0.6B")
    client.wait(job_id)
    for line in client.results(job_id):
        print(line["id"], line["results"][0])

Needs Redis and the storage, never torch. The work is done in `submission`, `interactive`, `output`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.given_images import ImageSender
from rerankfleet.producer.inputs.jsonl import refuse_changed
from rerankfleet.producer.interactive import Answer, Interactive
from rerankfleet.producer.output import Output, OutputFile, refuse_small_request
from rerankfleet.producer.status import describe
from rerankfleet.producer.submission import JobMaker, choose_model, path_or_uri
from rerankfleet.shared.content.options import OF_JOBS, ScoringOptions
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import DeadlineExceeded, InvalidOption, UsageError, WrongState
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.job_spec import OutputFormat
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings, load_settings
from rerankfleet.shared.state.connection import REDIS_ERRORS, connect
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects

REDIS_AWAY = "Redis does not answer: the job goes on when it is back"


class Client:
    """One connection to a fleet. Safe to share between threads.

    Raises QueueUnavailable at once when Redis does not answer.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        self.store = Store(connect(self.settings), self.settings)
        self.fleet = self.store.fleet
        self.objects = Objects(self.settings, inline=self.store.inline.get)
        self._hints = Hints(make_app(self.settings))
        control = Control(self.store, self.objects, self._hints, self.settings)
        self._job_maker = JobMaker(control)
        self.output = Output(control)
        """Reads what a job produced, given its record."""
        self.interactive = Interactive(control)
        """Starts small requests without waiting for them."""

    # ---- jobs made ------------------------------------------------------------------------------

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
        An option that is missing or None is taken from the `profile`, else it has its default. The
        same key with the same input and options returns the same job.
        Raises UsageError (or what derives from it) before any work starts.
        """
        return self._job_maker.submit(
            path_or_uri(input, "the input"),
            output=output,
            model=model,
            profile=profile,
            key=key,
            force=force,
            options=options,
        )

    def submit_catalog(
        self,
        catalog: str | Path,
        queries: str | Path | Iterable[str | Mapping[str, Any]],
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
        content with an optional id), a table with the same columns, or a sequence of them, with
        images as in `rerank`. The output is a folder, file:///dir/ or s3://bucket/prefix/, of rows
        (query_id, image_id, margin, relevance_score or error) as JSON Lines or Parquet, and with
        `top_n` a ranking per query. Options are those of `submit`; `limit` counts images. Raises
        UsageError (or what derives from it) before any work starts.
        """
        return self._job_maker.submit_catalog(
            path_or_uri(catalog, "the catalog"),
            queries,
            output=output,
            format=format,
            model=model,
            profile=profile,
            key=key,
            force=force,
            options=options,
        )

    def choose_model(self, model: str | None) -> str:
        """The model by the name that the fleet knows; without a name, the only one that it serves.

        Raises UnknownModel when that is not clear. A demonstration model is never chosen silently.
        """
        return choose_model(self.store, model)

    # ---- jobs watched ---------------------------------------------------------------------------

    def status(self, job_id: str) -> JobStatus:
        """Progress, rate, and what limits the job. Raises UnknownJob."""
        job = self.store.jobs.get(job_id)
        return describe(job, self.store.snapshot([job.spec.model]))

    def jobs(self, count: int = 50, owner: str = "") -> list[JobStatus]:
        """The newest jobs, newest first; with an `owner`, those made with that key of a gateway."""
        jobs = self.store.jobs.get_many(self.store.jobs.recent(count, owner))
        fleet = self.store.snapshot({job.spec.model for job in jobs})
        return [describe(job, fleet) for job in jobs]

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

        `on_progress` is called about once a second, while Redis is away with the last status and
        that reason. Leaving early leaves the job running.
        """
        deadline = time.monotonic() + timeout_s if timeout_s is not None else None
        status: JobStatus | None = None
        while True:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            try:
                status = self.status(job_id)
                if on_progress:
                    on_progress(status)
                if status.state in ("done", "cancelled"):
                    return status
                self.store.jobs.wait_done(job_id, max(left, 0.0))
            except REDIS_ERRORS:  # it may be restarting: jobs go on after that
                if status and on_progress:
                    away = {"reason": REDIS_AWAY, "held_back": True}
                    on_progress(status.model_copy(update=away))
                time.sleep(max(left, 0.0))
            if left <= 0:
                raise DeadlineExceeded(f"job {job_id} still runs", hint="wait for it again")

    # ---- jobs changed ---------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        """Stop a job. What was scored is kept and published; all else ends as cancelled."""
        answer = self.store.jobs.cancel(self.store.jobs.get(job_id))
        _refuse_unless(job_id, "cancelled", answer)
        self._hints.feed(job_id)

    def pause(self, job_id: str, reason: str = "paused by the user") -> None:
        """Hold a job. Shards that are being scored are finished; no other is begun."""
        answer = self.store.jobs.pause(self.store.jobs.get(job_id), reason)
        _refuse_unless(job_id, "paused", answer)

    def resume(self, job_id: str) -> None:
        """Let a paused job go on."""
        job = self.store.jobs.get(job_id)
        answer, shards = self.store.jobs.resume(job)
        _refuse_unless(job_id, "resumed", answer)
        for shard in shards:
            self._hints.shard(job.spec.model, job.spec.priority, job_id, shard)
        self._hints.feed(job_id)

    def retry(self, job_id: str, only: str = "all") -> None:
        """Score again what has no score, and merge it into the same output.

        `only` "errors" leaves out what was cancelled. Raises InputChanged when the input is no
        longer the one that the job was made from.
        """
        if only not in ("all", "errors"):
            raise InvalidOption("only", f"only {only!r} is not known", hint="use all or errors")
        job = self.store.jobs.get(job_id)
        refuse_small_request(job)
        if job.spec.catalog:
            raise WrongState(
                f"job {job_id} is a catalog, which cannot be retried",
                hint="submit the images whose rows have errors as a listing of their own",
            )
        refuse_changed(job.spec.input, self.objects.for_inputs(job_id))
        _refuse_no_retry(job_id, self.store.jobs.retry(job, only))
        self.store.jobs.wait_persisted()
        self._hints.feed(job_id)

    # ---- output ---------------------------------------------------------------------------------

    def results(self, job_id: str, *, partial: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the output's lines in input order; of a catalog its rows, image by image.

        Of an unfinished job only with `partial`: what was committed so far, where a line may still
        lack documents. Raises WrongState otherwise.
        """
        yield from self.output.lines(self.store.jobs.get(job_id), partial=partial)

    def results_after(self, job_id: str, after: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the same lines, of an unfinished job what was committed so far; each with a cursor,
        after which they can be read on without reading what is before it.

        The cursor is empty while the job is unfinished: a line before it may still come. Raises
        UsageError for a cursor of another output.
        """
        yield from self.output.lines_after(self.store.jobs.get(job_id), after)

    def files(self, job_id: str) -> list[OutputFile]:
        """The files of a finished job's output, the manifest last. Raises WrongState before."""
        return self.output.files(self.store.jobs.get(job_id))

    def fetch(self, job_id: str, path: Path | str) -> None:
        """Copy a finished job's output and its manifest to a local path; a catalog's to a folder,
        its manifest last."""
        self.output.fetch(self.store.jobs.get(job_id), str(path))

    # ---- a small request ------------------------------------------------------------------------

    def rerank(
        self,
        query: str | Mapping[str, Any],
        documents: Iterable[str | Mapping[str, Any]],
        *,
        model: str | None = None,
        profile: str | None = None,
        instruction: str | None = None,
        top_n: int | None = None,
        timeout_s: float | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Rerank a few documents and wait: a line of output. The same path as a job's.

        Query and documents are texts or contents as in a line of input, whose images may also be
        bytes, paths as `pathlib.Path`, open files, PIL images or numpy arrays: these are sent along
        (`shared.content.given`). Documents are any run of them in order, also a Series or an array,
        but no text, mapping or set. Options are those of `submit`, but for the ones that are about
        jobs.
        Raises ItemError for a bad request, NoWorker, Overloaded (retry later), DeadlineExceeded.
        """
        _refuse_unknown(options)
        fields = {
            "query": query,
            "documents": documents,
            "instruction": instruction,
            "top_n": top_n,
        }
        most = self.settings.max_documents_per_request
        with ImageSender(self.store, self.objects, self.settings) as sender:
            piece = slice_of(1, fields, max_documents=most, replace_image=sender.uri)
            answer = self.ask([piece], model=model, profile=profile, timeout_s=timeout_s, **options)
        return answer.line(0)

    def ask(
        self,
        pieces: Sequence[Slice],
        *,
        model: str | None = None,
        profile: str | None = None,
        timeout_s: float | None = None,
        key: str | None = None,
        **options: Any,
    ) -> Answer:
        """Have a few validated requests scored as one interactive job, and wait for it.

        `pieces` are of `rerankfleet.shared.formats.lines.slice_of`, numbered from 1. Options as in
        `rerank`. The same `key` with the same pieces and options gives the same answer, from the
        same work, until a minute after its deadline. `interactive.start` takes the same arguments
        and does not wait. Raises NoWorker, ModelLoading or Overloaded (retry later), TooLarge,
        DeadlineExceeded, KeyConflict.
        """
        pending = self.interactive.start(
            pieces, model=model, profile=profile, timeout_s=timeout_s, key=key, **options
        )
        return pending.wait()


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = set(ScoringOptions.model_fields) - OF_JOBS - {"instruction", "top_n"}
    if unknown := set(options) - known:
        raise UsageError(
            f"there is no option {min(unknown)!r} here", hint=f"known: {', '.join(sorted(known))}"
        )


def _refuse_unless(job_id: str, done: str, answer: str) -> None:
    """Raise WrongState unless it was done: paused, resumed or cancelled."""
    if answer in ("finished", "running", "cancelled") and answer != done:
        state = "is not paused" if answer == "running" else f"is already {answer}"
        raise WrongState(f"job {job_id} cannot be {done}: it {state}")


def _refuse_no_retry(job_id: str, answer: str) -> None:
    """Raise WrongState where there is nothing to retry, or not now."""
    if answer == "nothing":
        raise WrongState(f"job {job_id} has nothing to retry: every pair has its score")
    if answer == "unfinished":
        raise WrongState(f"job {job_id} is not finished", hint="wait for it, or cancel it")
    if answer == "sweeping":
        raise WrongState(
            f"old files of job {job_id} are being removed", hint="retry it in a few minutes"
        )
