"""What a job produced: its lines or rows, its files, and copies of them.

Lines of an unfinished job come from the parts committed so far, those of a finished one from its
published output.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankfleet.producer.coordinator.finish import committed_parts, merged_lines
from rerankfleet.producer.coordinator.rows import parse_rows, rows_of
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.errors import UsageError, WrongState
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.formats.output import output_line
from rerankfleet.shared.formats.sources import COPY_BYTES, output_errors
from rerankfleet.shared.state.records import Job
from rerankfleet.shared.storage.local_files import is_stream, publish_file
from rerankfleet.shared.storage.objects import Objects

Lines = Iterator[tuple[str, dict[str, Any]]]
"""Lines or rows, each with the cursor behind it."""


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file of a finished job's output."""

    name: str
    uri: str
    rows: int | None = None
    """Lines or rows in it, where its manifest says so."""


class Output:
    """Reads what jobs produced."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def objects_of(self, job: Job) -> Objects:
        """Reads a job's output."""
        return self._control.outputs_of(job)

    def lines(self, job: Job, *, partial: bool) -> Iterator[dict[str, Any]]:
        """The lines or rows of a job. Raises WrongState for an unfinished one without `partial`."""
        refuse_small_request(job)
        if not job.finished and not partial:
            raise WrongState(
                f"job {job.id} is not finished", hint="wait for it, or ask for partial results"
            )
        yield from (line for _, line in self._read(job, ""))

    def lines_after(self, job: Job, cursor: str) -> Lines:
        """The lines or rows behind a cursor. Raises WrongState, or UsageError for a cursor of
        another output."""
        refuse_small_request(job)
        if cursor and not job.finished:
            raise WrongState(
                f"job {job.id} is not finished: it has no cursors", hint="read it from the start"
            )
        yield from self._read(job, cursor)

    def files(self, job: Job) -> list[OutputFile]:
        """The files of a finished job's output, the manifest last. Raises WrongState before."""
        refuse_small_request(job)
        if not job.finished:
            raise WrongState(f"job {job.id} is not finished", hint="wait for it first")
        output, manifest = job.facts["output"], self._manifest(job)
        last = OutputFile("manifest.json", manifest_uri(output))
        if not job.spec.catalog:
            return [OutputFile("results.jsonl", output, manifest.lines), last]
        files = [OutputFile(part.name, output + part.name, part.rows) for part in manifest.parts]
        if manifest.ranking:
            files.append(OutputFile(manifest.ranking, output + manifest.ranking))
        return [*files, last]

    def fetch(self, job: Job, path: str) -> None:
        """Copy a finished job's output and its manifest to a path, a catalog's to a folder."""
        files, objects = self.files(job), self.objects_of(job)
        copies = [path, manifest_uri(path)]
        if job.spec.catalog:
            copies = [f"{path}/{file.name}" for file in files]
        elif is_stream(Path(path)):  # a manifest has no place beside it
            files, copies = files[:1], copies[:1]
        for file, copy in zip(files, copies, strict=True):
            with (
                objects.open(file.uri) as stream,
                output_errors(copy),
                publish_file(Path(copy)) as out,
            ):
                while block := stream.read(COPY_BYTES):
                    out.write(block)

    def _read(self, job: Job, cursor: str) -> Lines:
        if not job.finished:
            return (("", line) for line in self._committed(job))
        read = self._published_rows if job.spec.catalog else self._published_lines
        return read(job, cursor)

    def _committed(self, job: Job) -> Iterator[dict[str, Any]]:
        """The lines or rows that were committed so far."""
        spec = job.spec
        if not spec.catalog:
            merged = enumerate(merged_lines(job, self._control, whole=False), 1)
            for place, (outcome, provenance) in merged:
                yield output_line(
                    outcome,
                    provenance,
                    top_n=spec.top_n,
                    calibration=spec.calibration,
                    place=place,
                )
            return
        for *_, outcomes in committed_parts(job, self._control, whole=False):
            for outcome, _ in outcomes:
                yield from rows_of(outcome, spec.calibration)

    def _published_lines(self, job: Job, cursor: str) -> Lines:
        """The lines of an output, each with the offset behind it."""
        output, offset = job.facts["output"], int(cursor or 0) if "." not in cursor else -1
        objects = self.objects_of(job)
        if offset > objects.stat(output).size:
            raise _wrong_cursor(cursor)
        with objects.open(output, max(offset - 1, 0)) as stream:
            if offset and stream.read(1) != b"\n":
                raise _wrong_cursor(cursor)
            for line in stream:
                offset += len(line)
                yield str(offset), json.loads(line)

    def _published_rows(self, job: Job, cursor: str) -> Lines:
        """A catalog's rows, each with its part's number and the count of rows up to it."""
        first, _, skip = (cursor or "0.0").partition(".")
        assert job.spec.catalog
        if not skip:
            raise _wrong_cursor(cursor)
        for number, part in enumerate(self._manifest(job).parts[int(first) :], int(first)):
            data = self.objects_of(job).read(job.facts["output"] + part.name)
            rows = enumerate(parse_rows(data, job.spec.catalog.format), 1)
            start = int(skip) if number == int(first) else 0
            yield from ((f"{number}.{count}", row) for count, row in rows if count > start)

    def _manifest(self, job: Job) -> Manifest:
        data = self.objects_of(job).read(manifest_uri(job.facts["output"]))
        return Manifest.model_validate_json(data)


def refuse_small_request(job: Job) -> None:
    """Raise WrongState for the job of a small request, which has no output but its answer."""
    if "inline" in job.facts:
        raise WrongState(
            f"job {job.id} is a small request, which has no output",
            hint="its answer was sent to the client that made it: send the request again",
        )


def _wrong_cursor(cursor: str) -> UsageError:
    return UsageError(f"{cursor!r} is no cursor of this output", hint="read it from the start")
