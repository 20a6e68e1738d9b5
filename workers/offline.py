"""`rerank score`: the workers' pipeline in one process, for a file that one machine can handle.

Reads, prepares, scores and writes as a stream: memory is bounded whatever the size of the file.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import groupby, islice
from pathlib import Path
from typing import IO, BinaryIO

from rerankfleet.shared.addresses import local_path, printable
from rerankfleet.shared.content.outcomes import Provenance, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.lines import parse_line, raw_lines
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.formats.output import dump_line, merge, output_line
from rerankfleet.shared.formats.sources import (
    Hashing,
    is_uri,
    open_local,
    output_errors,
    plain,
    probe,
    refuse_existing,
    refuse_same,
    source_of,
)
from rerankfleet.shared.job_spec import InputRef, JobSpec
from rerankfleet.shared.job_status import ShardSummary
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.local_files import is_stream, publish_file
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.workers.batching.batcher import Batcher, waiting_tokens_max
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.images.source import ImageSource
from rerankfleet.workers.pipeline import Run, Scorer, summarize
from rerankfleet.workers.prepare import provenance_of
from rerankfleet.workers.prompting.languages import detector_of

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
    """Score a file of requests into `output`, and write its manifest. Returns the manifest.

    Raises UsageError before the model is loaded when input, output or options are invalid.
    """
    # it cannot be resumed: an image that cannot be fetched is an outcome of its pair
    spec = spec.model_copy(update={"max_error_rate": 1.0})
    source, output = source_of(source), source_of(output)
    objects = Objects(settings)
    refuse_same(source, output)
    refuse_existing(output, objects, force=force)
    detector_of(spec)
    with ExitStack() as stack:
        hashing = Hashing(stack.enter_context(_open(source, objects)))
        stream = stack.enter_context(plain(hashing, source))
        probe(stream, source)
        engine = load_engine(spec.model, **settings.engine_options)
        limit = Limit(
            settings.batch_tokens or engine.self_test().limit.tokens, settings.batch_pairs
        )
        most = waiting_tokens_max(supports_images=engine.supports_images)
        batcher = Batcher(engine, limit, waiting_tokens_max=most)
        stack.callback(batcher.close, drain=False)
        images = ImageSource.of(settings, _folder(source)) if engine.supports_images else None
        if images:
            stack.callback(images.close)
        out = stack.enter_context(_writer(output, objects))
        start_s = time.time()
        provenance = provenance_of(engine.provenance, spec, supports_images=engine.supports_images)
        slices = _slices(stream, spec, settings)
        counts = _score(
            slices,
            Scorer(engine.prompter, batcher, images),
            spec,
            provenance,
            out,
            on_progress,
        )
    manifest = _manifest(counts, source, hashing, spec, provenance, start_s)
    if is_uri(output) or not is_stream(Path(output)):
        with _writer(manifest_uri(output), objects) as out:
            out.write(manifest.model_dump_json(indent=2).encode() + b"\n")
    return manifest


def _open(source: str, objects: Objects) -> AbstractContextManager[BinaryIO]:
    return objects.open(source) if is_uri(source) else open_local(source)


def _folder(source: str) -> Path | None:
    """The folder of a local input, for images with relative paths."""
    if source == "-":
        return Path.cwd()
    if source.startswith("file://"):
        return local_path(source).resolve().parent
    return None if is_uri(source) else Path(source).resolve().parent


@contextmanager
def _writer(output: str, objects: Objects) -> Iterator[IO[bytes]]:
    if is_uri(output):
        with objects.writer(output) as out:
            yield out
    else:
        with output_errors(output), publish_file(Path(output)) as out:
            yield out


def _slices(stream: BinaryIO, spec: JobSpec, settings: Settings) -> Iterator[Slice]:
    lines = enumerate(raw_lines(stream, settings.max_line_bytes), 1)
    requests = ((number, raw) for number, (_, raw) in lines if raw is None or not is_blank(raw))
    for number, raw in islice(requests, spec.limit):
        yield parse_line(number, raw, max_documents=settings.max_documents_per_request)


class _Counts:
    lines = scored = errors = bad_lines = rejected = truncated = tokens = 0

    def add(self, summary: ShardSummary) -> None:
        self.scored += summary.scored
        self.errors += summary.errors
        self.bad_lines += summary.bad_lines
        self.rejected += summary.rejected
        self.truncated += summary.truncated
        self.tokens += summary.tokens


def _score(
    slices: Iterator[Slice],
    scorer: Scorer,
    spec: JobSpec,
    provenance: Provenance,
    out: IO[bytes],
    on_progress: Progress,
) -> _Counts:
    """Keep the device a few runs ahead; write the lines in order."""
    counts, stop = _Counts(), threading.Event()

    def collect(run: Run) -> list[SliceOutcome]:
        outcomes = list(scorer.collect(run, spec.priority, stop))
        counts.add(summarize(outcomes, spec, tokens=run.tokens))
        on_progress(counts.scored, counts.errors)
        return outcomes

    outcomes = (o for run in scorer.runs(slices, spec, stop) for o in collect(run))
    for _, pieces in groupby(outcomes, key=lambda outcome: outcome.line):
        counts.lines += 1
        line = output_line(
            merge(list(pieces)),
            provenance,
            top_n=spec.top_n,
            calibration=spec.calibration,
            place=counts.lines,
        )
        out.write(dump_line(line))
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
        input=InputRef(
            uri=printable(source), size=hashing.size, tag="", sha256=hashing.hexdigest()
        ),
        options=spec.scoring_options,
        lines=counts.lines,
        pairs=counts.scored + counts.errors + counts.rejected,
        scored=counts.scored,
        errors=counts.errors,
        bad_lines=counts.bad_lines,
        rejected=counts.rejected,
        truncated=counts.truncated,
        tokens=counts.tokens,
        started_s=start_s,
        seconds=round(seconds, 3),
        pairs_per_s=round(counts.scored / seconds, 2),
        provenance=[provenance],
    )
