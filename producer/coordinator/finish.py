"""Finish: assemble the committed parts of a job into its output. A step of the coordinator.

Parts are read in the order of the input, one request in memory at a time; a retry merges them into
the previous output. The output appears whole, by rename or multipart completion. That of a catalog
is a file of rows per part, listed in the manifest, which appears last. A step that is killed is
repeated, and one that was overtaken publishes nothing (`publishing.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any

import structlog

from rerankfleet.producer.coordinator.lost_parts import recounted, reopen_lost
from rerankfleet.producer.coordinator.publishing import (
    Attempt,
    discard_others,
    forget_drafts,
    publish,
)
from rerankfleet.producer.coordinator.rows import Ranking, Row, dump_rows, part_name, rows_of
from rerankfleet.producer.coordinator.step import Control, Step, StepOver
from rerankfleet.producer.inputs.jsonl import previous_outcomes
from rerankfleet.shared.calibration import adapted_temperature
from rerankfleet.shared.content.outcomes import Provenance, SliceOutcome
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import (
    Damaged,
    DraftsLost,
    ObjectMissing,
    PartLost,
    RerankError,
    StorageRefused,
    Unavailable,
    UnreadableJob,
    UsageError,
)
from rerankfleet.shared.formats.manifest import Manifest, Part, manifest_uri
from rerankfleet.shared.formats.output import cancelled, dump_line, merge, output_line
from rerankfleet.shared.formats.shard_files import job_uri, load_part, load_queries, load_slices
from rerankfleet.shared.heartbeat import beat, heartbeat
from rerankfleet.shared.outages import as_outage
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.storage.objects import Objects

RANKING = "ranking.jsonl"
"""The best images of each query of a catalog, beside its parts."""
SCORES_TO_ADAPT = 100
"""With fewer scores a profile's temperature is not adapted."""

log = structlog.get_logger()

Merged = tuple[SliceOutcome, Provenance | None]


def finish(job_id: str, control: Control) -> None:
    """Write a job's output, if all of its parts exist and no other step of it is running."""
    step = Step.begin(job_id, control)
    if step is None:
        return
    job = control.store.jobs.get(job_id)
    if not job.sealed or job.open_shards or job.paused:
        step.end()
        return
    try:
        with heartbeat(step.beat):
            published = _published(job, control, step)
        if published:
            _end(job, control, step, *published)
        else:
            step.end()
            control.hints.finish(job_id)  # of a cancelled job
    except StepOver:
        step.end()
    except Exception as error:
        if step.is_lost():  # what failed here no longer matters
            log.info("a step was overtaken", job=job_id, error=str(error))
        else:
            _wait_or_pause(job, control, step, error)


def _wait_or_pause(job: Job, control: Control, step: Step, error: Exception) -> None:
    """Wait for a storage that may be away, or for a newer coordinator; of all else a person must
    look at the job. Raises what is a bug."""
    outage = as_outage(error)
    if isinstance(outage, Unavailable | StorageRefused | UnreadableJob) and step.wait(outage):
        return
    if not isinstance(outage, UsageError):
        raise error
    resumes_s = step.resumes_s(outage)
    control.store.jobs.pause(job, str(outage), even_cancelled=True, resumes_s=resumes_s)
    step.end()


def _published(job: Job, control: Control, step: Step) -> tuple[str, int] | None:
    """`_publish`; None when parts are lost, whose shards had to be opened again."""
    try:
        if "reopened" in job.facts:
            job = recounted(job, control, _all_outcomes(job, control))
        return _publish(job, control, step)
    except PartLost as lost:
        reopen_lost(job, control, step, lost)
        return None


def _end(job: Job, control: Control, step: Step, output: str, size: int) -> None:
    """End a job whose output of so many bytes is published."""
    _adapt_temperature(job, control)
    stored_bytes = 0 if job.spec.output else size
    if control.store.jobs.finish(job, step.token, output, stored_bytes):
        forget_drafts(job.id, control.outputs_of(job))


def _adapt_temperature(job: Job, control: Control) -> None:
    """Adapt the temperature of the profile's later jobs to the scores of a job that asks for it."""
    spec, scores = job.spec, job.scores
    if not (spec.adaptive_temperature and spec.profile) or job.cancelled:
        return
    to = adapted_temperature(spec.temperature, scores.mean)
    if scores.count < SCORES_TO_ADAPT or to == spec.temperature:
        return
    if control.store.statistics.adapt_temperature(job, to):
        log.info("temperature of later jobs", profile=spec.profile, temperature=to, job=job.id)


def output_uri(job: Job, objects: Objects) -> str:
    """The URI of a job's output of this round; that of a catalog is a folder."""
    if job.spec.output:
        return job.spec.output
    if job.spec.catalog:
        return f"{job_uri(objects, job.id, 'output')}/"
    return job_uri(objects, job.id, f"output-{job.round}.jsonl")


def _publish(job: Job, control: Control, step: Step) -> tuple[str, int]:
    """Write the output and its manifest, and let them appear. Returns the output's URI, and how
    many bytes it has."""
    jobs, objects = control.store.jobs, control.outputs_of(job)
    uri, decided = output_uri(job, objects), job.facts.get("publishing")
    discard_others(job.id, decided, objects)
    if decided is None:
        decided = _decided(job, control, step, uri)
    try:
        return uri, publish(job.id, decided, objects)
    except DraftsLost:
        jobs.undecide(job.id, step.token, decided)
        raise


def _decided(job: Job, control: Control, step: Step, uri: str) -> str:
    """Write the drafts of an attempt and let it be decided. Returns the attempt that is. Raises
    StepOver when the step is another's by then."""
    attempt, decided = Attempt(job.id, step.token, control.outputs_of(job)), ""
    write = _write_parts if job.spec.catalog else _write_lines
    try:
        counted = write(job, control, uri, attempt)
        manifest = make_manifest(job, control.store.now_ms() / 1000).model_copy(update=counted)
        attempt.write(manifest_uri(uri), manifest.model_dump_json(indent=2).encode() + b"\n")
        attempt.complete()
        step.hold()
        decided = control.store.jobs.decide(job.id, step.token)
    except (Exception, KeyboardInterrupt):
        with suppress(RerankError):
            attempt.discard()
        raise
    if decided != attempt.name:
        attempt.discard()
    if not decided:
        raise StepOver("lost")
    return decided


def _write_lines(job: Job, control: Control, uri: str, attempt: Attempt) -> dict[str, Any]:
    """A line per request, in one file. Returns the manifest's fields about them."""
    spec, lines = job.spec, 0
    provenances: list[Provenance] = []
    with attempt.writer(uri) as out:
        for outcome, provenance in merged_lines(job, control):
            beat()
            lines += 1
            line = output_line(
                outcome,
                provenance,
                top_n=spec.top_n,
                calibration=spec.calibration,
                place=lines,
            )
            out.write(dump_line(line))
            if provenance and provenance not in provenances:
                provenances.append(provenance)
    return {"lines": lines, "provenance": provenances}


def _write_parts(job: Job, control: Control, uri: str, attempt: Attempt) -> dict[str, Any]:
    """A file of rows per shard, and a ranking. Returns the manifest's fields about them."""
    spec, objects = job.spec, control.objects
    assert spec.catalog
    ranking = Ranking(spec.catalog.count, spec.top_n) if spec.top_n else None
    parts: list[Part] = []
    provenances: list[Provenance] = []
    for start, end, outcomes in committed_parts(job, control):
        rows: list[Row] = []
        for outcome, provenance in outcomes:
            beat()
            rows += rows_of(outcome, spec.calibration)
            if ranking:
                ranking.add(outcome)
            if provenance and provenance not in provenances:
                provenances.append(provenance)
        name = part_name(start, spec.catalog.format)
        attempt.write(f"{uri}{name}", dump_rows(rows, spec.catalog.format))
        parts.append(Part(name=name, rows=len(rows), start=start, end=end))
    fields = {"lines": job.progress.lines, "provenance": provenances, "parts": parts}
    if ranking is None:
        return fields
    with attempt.writer(f"{uri}{RANKING}") as out:
        for line in ranking.lines(load_queries(objects, job.id), spec.calibration):
            beat()
            out.write(dump_line(line))
    return fields | {"ranking": RANKING}


def merged_lines(job: Job, control: Control, *, whole: bool = True) -> Iterator[Merged]:
    """A job's lines in the order of its input; in a retry, merged into the old ones. Without
    `whole`, those committed so far, in which documents may be missing."""
    fresh = _committed_lines(job, control, whole=whole)
    if not job.round:
        yield from fresh
        return
    new = next(fresh, None)
    for old in previous_outcomes(job, control.objects):
        if new is not None and new[0].line == old.outcome.line:
            yield _replace_failures(old.outcome, new[0]), new[1] or old.provenance
            new = next(fresh, None)
        else:
            yield old.outcome, old.provenance
    while new is not None:  # lines that the old output lacks: its job was cut short
        yield new
        new = next(fresh, None)


def _replace_failures(old: SliceOutcome, new: SliceOutcome) -> SliceOutcome:
    """The old line without what was retried, and the new outcomes."""
    retried = {r.index for r in new.results} | {e.index for e in new.errors}
    results = [r for r in old.results if r.index not in retried]
    kept = (e for e in old.errors if e.index is not None or e.rejected)
    errors = [e for e in kept if e.index not in retried]
    merged = merge([new, old.model_copy(update={"results": results, "errors": errors})])
    return merged.model_copy(update={"top_n": new.top_n})


def _committed_lines(job: Job, control: Control, *, whole: bool) -> Iterator[Merged]:
    """The outcomes of committed shards, joined line by line; with `whole`, of all shards."""
    slices = (one for *_, part in committed_parts(job, control, whole=whole) for one in part)
    for _, group in groupby(slices, key=lambda one: one[0].line):
        pieces = list(group)
        provenance = next((p for _, p in pieces if p is not None), None)
        yield merge([outcome for outcome, _ in pieces]), provenance


def committed_parts(
    job: Job, control: Control, *, whole: bool = True
) -> Iterator[tuple[int, int, Iterator[Merged]]]:
    """The committed shards of a job in order: start and end of their items, and the outcomes of
    their slices. With `whole` they must cover the job."""
    at = 0
    for start, end, part in control.store.jobs.parts(job.id):
        if whole and start != at:
            raise RuntimeError(f"job {job.id}: items {at} to {start} have no part. This is a bug")
        at = end
        yield start, end, _outcomes(job, control, start, end, part)
    expected = job.number("fed") - job.number("base")
    if whole and at != expected:
        raise RuntimeError(f"job {job.id}: items {at} to {expected} have no part. This is a bug")


def _outcomes(job: Job, control: Control, start: int, end: int, part: str) -> Iterator[Merged]:
    """The outcomes of a shard's slices. Raises PartLost."""
    try:
        if part.startswith("!"):
            for piece in load_slices(control.objects, job.id, part[1:], shard_name(start, end)):
                yield cancelled(piece), None
        else:
            yield from load_part(control.objects, job.id, start, part)
    except (ObjectMissing, Damaged) as error:
        raise PartLost(
            f"the result of items {start} to {end} is lost ({error.message})", start=start
        ) from error


def _all_outcomes(job: Job, control: Control) -> Iterator[SliceOutcome]:
    """The outcomes of this round."""
    for *_, part in committed_parts(job, control):
        yield from (outcome for outcome, _ in part)


def make_manifest(job: Job, end_s: float) -> Manifest:
    """Counts, timings and the input's hash."""
    progress, spec = job.progress, job.spec
    start_s = job.number("began_ms") / 1000
    seconds = max(end_s - start_s, 1e-3)
    return Manifest(
        job=job.id,
        model=spec.model,
        input=spec.input,
        options=spec.scoring_options
        | ({"catalog": spec.catalog.model_dump(mode="json")} if spec.catalog else {}),
        pairs=progress.done,
        **progress.model_dump(
            include={
                *("scored", "errors", "bad_lines", "rejected", "cancelled"),
                *("truncated", "tokens"),
            }
        ),
        round=job.round,
        started_s=start_s,
        seconds=round(seconds, 3),
        pairs_per_s=round(max(progress.scored - job.number("base"), 0) / seconds, 2),
    )
