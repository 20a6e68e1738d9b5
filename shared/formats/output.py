"""The outcomes of slices -> a line of output, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rerankfleet.shared.calibration import PLAIN, Calibration
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Failure, Provenance, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.lines import _error, _known, _result, _scored_of, _told_once


def cancelled(piece: Slice) -> SliceOutcome:
    """The outcome of a slice that nobody scores any more."""
    said = {"code": "cancelled", "message": "the job was cancelled", "hint": ""}
    errors = failures_of(piece, **said)
    errors += [failure.model_copy(update=said) for failure in piece.failures]
    return SliceOutcome(
        line=piece.line, id=piece.id, top_n=piece.top_n, metadata=piece.metadata, errors=errors
    )


def failures_of(piece: Slice, *, code: str, message: str, hint: str = "") -> list[Failure]:
    """The same failure for each pair of a slice that was to be scored."""
    return [
        failure_of(piece.line, index, document, ItemError(code, message, hint=hint))
        for index, document in zip(piece.indices, piece.documents, strict=True)
    ]


def failure_of(line: int, index: int, document: Document, error: ItemError) -> Failure:
    """A pair's error as its outcome; it can be told to the document's owner."""
    return Failure(
        line=line,
        index=index,
        id=document.id,
        code=error.code,
        message=error.message,
        hint=error.hint,
        quality=None if error.quality is None else round(error.quality, 4),
        metadata=document.metadata,
    )


def merge(pieces: Sequence[SliceOutcome]) -> SliceOutcome:
    """Join the outcomes of one line's slices."""
    if len(pieces) == 1:
        return pieces[0]
    return pieces[0].model_copy(
        update={
            "results": [result for piece in pieces for result in piece.results],
            "errors": [error for piece in pieces for error in piece.errors],
        }
    )


def output_line(
    outcome: SliceOutcome,
    provenance: Provenance | None,
    *,
    top_n: int | None,
    calibration: Calibration = PLAIN,
) -> dict[str, Any]:
    """A line of output: results by margin, cut to the request's (or else the job's) top_n."""
    kept = top_n if outcome.top_n is None else outcome.top_n
    ranked = sorted(outcome.results, key=lambda r: (-r.margin, r.index))[: kept or None]
    errors = sorted(_told_once(outcome.errors), key=lambda e: -1 if e.index is None else e.index)
    line: dict[str, Any] = {
        "id": outcome.id,
        "results": [_result(found, calibration) for found in ranked],
        "errors": [_error(error) for error in errors],
        "provenance": provenance.model_dump(exclude_none=True) if provenance else None,
    }
    if outcome.metadata is not None:
        line["metadata"] = outcome.metadata
    return line


def outcome_of(number: int, line: Mapping[str, Any]) -> SliceOutcome:
    """Read a line of output back: what a retry merges new outcomes into."""
    return SliceOutcome(
        line=number,
        id=line["id"],
        top_n=len(line["results"]) or None,  # what was kept is not cut again
        metadata=line.get("metadata"),
        results=[_scored_of(found) for found in line["results"]],
        errors=[Failure(**_known(error, Failure)) for error in line["errors"]],
    )


def dump_line(line: Mapping[str, Any]) -> bytes:
    """One line of JSON Lines, in UTF-8."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
