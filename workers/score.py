"""`rerank score`: the path of the queue's workers in one process, for a file one machine can do.

Reads, prepares, scores and writes as a stream: memory is bounded whatever the file's size.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, BinaryIO

from shared.lines import dump_line, output_line, parse_line, raw_lines
from shared.manifest import Manifest, manifest_uri
from shared.models import InputRef, JobSpec, Provenance, Slice, SliceOutcome
from shared.objects import Objects, publish_file
from shared.settings import Settings
from shared.sources import Hashing, is_uri, open_local, plain, probe, refuse_existing
from workers.batcher import Batcher
from workers.engine import load_engine
from workers.packing import Limit
from workers.scorer import Run, Scorer, in_runs, summarize

RUNS_AHEAD = 4
"""Runs handed to the device before the oldest is waited for: it never runs dry."""

Progress = Callable[[int, int], None]
"""Called with (pairs so far, errors so far)."""


def score_file(
    source: str,
    output: str,
    spec: JobSpec,
    settings: Settings,
    *,
    force: bool = False,
    on_progress: Progress = lambda pairs, errors: None,
) -> Manifest:
    """Score a file of requests into `output` and its manifest. Returns the manifest.

    Raises UsageError before the model is loaded when input or output cannot be used.
    """
    objects = Objects(settings)
    refuse_existing(output, objects, force=force)
    with ExitStack() as stack:
        hashing = Hashing(stack.enter_context(_open(source, objects)))
        stream = stack.enter_context(plain(hashing, source))
        probe(stream, source)
        engine = load_engine(spec.model, **settings.engine_options)
        limit = Limit(
            settings.batch_tokens or engine.self_test().limit.tokens, settings.batch_pairs
        )
        batcher = Batcher(engine, limit)
        stack.callback(batcher.close, drain=False)
        out = stack.enter_context(_writer(output, objects))
        start_s = time.time()
        slices = _slices(stream, spec, settings)
        counts = _score(
            slices, Scorer(engine.prompter, batcher), spec, engine.provenance, out, on_progress
        )
    manifest = _manifest(counts, source, hashing, spec, engine.provenance, start_s)
    with _writer(manifest_uri(output), objects) as out:
        out.write(manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def _open(source: str, objects: Objects) -> AbstractContextManager[BinaryIO]:
    return objects.open(source) if is_uri(source) else open_local(source)


def _writer(output: str, objects: Objects) -> AbstractContextManager[IO[bytes]]:
    return objects.writer(output) if is_uri(output) else publish_file(Path(output))


def _slices(stream: BinaryIO, spec: JobSpec, settings: Settings) -> Iterator[Slice]:
    lines = raw_lines(stream, settings.max_line_bytes)
    for number, (_, raw) in enumerate(lines, 1):
        if spec.limit is not None and number > spec.limit:
            return
        yield parse_line(number, raw, max_documents=settings.max_documents_per_request)


class _Counts:
    lines = scored = errors = truncated = tokens = 0


def _score(
    slices: Iterator[Slice],
    scorer: Scorer,
    spec: JobSpec,
    provenance: Provenance,
    out: IO[bytes],
    on_progress: Progress,
) -> _Counts:
    """Keep the device a few runs ahead; write each line when its turn comes."""
    counts, stop = _Counts(), threading.Event()
    pending: deque[Run] = deque()

    def write(run: Run) -> None:
        outcomes: list[SliceOutcome] = list(scorer.collect(run, spec.priority, stop))
        for outcome in outcomes:
            line = output_line(outcome, provenance, top_n=spec.top_n, temperature=spec.temperature)
            out.write(dump_line(line))
        summary = summarize(outcomes, run.tokens)
        counts.lines += len(outcomes)
        counts.scored += summary.scored
        counts.errors += summary.errors
        counts.truncated += summary.truncated
        counts.tokens += summary.tokens
        on_progress(counts.scored, counts.errors)

    for slices_of_run in in_runs(slices):
        pending.append(scorer.begin(slices_of_run, spec, stop))
        if len(pending) > RUNS_AHEAD:
            write(pending.popleft())
    while pending:
        write(pending.popleft())
    return counts


def _manifest(
    counts: _Counts,
    source: str,
    hashing: Hashing,
    spec: JobSpec,
    provenance: Provenance,
    start_s: float,
) -> Manifest:
    seconds = max(time.time() - start_s, 1e-3)
    return Manifest(
        model=spec.model,
        input=InputRef(uri=source, size=hashing.size, tag="", sha256=hashing.hexdigest()),
        options=spec.scoring_options,
        lines=counts.lines,
        pairs=counts.scored + counts.errors,
        scored=counts.scored,
        errors=counts.errors,
        truncated=counts.truncated,
        tokens=counts.tokens,
        started_s=start_s,
        seconds=round(seconds, 3),
        pairs_per_s=round(counts.scored / seconds, 2),
        provenance=[provenance],
    )
