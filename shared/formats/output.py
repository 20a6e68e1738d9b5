"""The outcomes of slices -> a line of output, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rerankfleet.shared.calibration import PLAIN, Calibration
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import (
    POOR_QUERY,
    Failure,
    Provenance,
    Scored,
    SliceOutcome,
)
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.content.twins import tie
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.sub_scores import explain


def cancelled(piece: Slice) -> SliceOutcome:
    """The outcome of a slice of a cancelled job."""
    cause = {"code": "cancelled", "message": "the job was cancelled", "hint": ""}
    errors = failures_of(piece, **cause)
    errors += [failure.model_copy(update=cause) for failure in piece.failures]
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
    """A pair's error as its outcome, with the document's own id and metadata."""
    return Failure(
        line=line,
        index=index,
        id=document.id,
        image=error.image,
        code=error.code,
        message=error.text(),
        hint=error.hint,
        quality=None if error.quality is None else round(error.quality, 4),
        metadata=document.metadata,
    )


def merge(pieces: Sequence[SliceOutcome]) -> SliceOutcome:
    """Join the outcomes of one line's slices. Twins get one margin."""
    if len(pieces) == 1 and not any(result.twin for result in pieces[0].results):
        return pieces[0]
    return pieces[0].model_copy(
        update={
            "results": tie([result for piece in pieces for result in piece.results]),
            "errors": [error for piece in pieces for error in piece.errors],
        }
    )


def output_line(
    outcome: SliceOutcome,
    provenance: Provenance | None,
    *,
    top_n: int | None,
    calibration: Calibration = PLAIN,
    place: int | None = None,
) -> dict[str, Any]:
    """A line of output: results by margin, cut to the request's (or else the job's) top_n.

    `place` is the line's own number in the output: where that of its request differs, since blank
    lines were passed over, the line says which it is.
    """
    kept = top_n if outcome.top_n is None else outcome.top_n
    ranked = sorted(outcome.results, key=lambda r: (-r.margin, r.index))[: kept or None]
    errors = sorted(
        _without_repeats(outcome.errors), key=lambda e: -1 if e.index is None else e.index
    )
    line: dict[str, Any] = {
        "id": outcome.id,
        **({} if place in (None, outcome.line) else {"line": outcome.line}),
        "results": [_result(scored, calibration) for scored in ranked],
        "errors": [_error(error) for error in errors],
        "provenance": provenance.model_dump(exclude_none=True) if provenance else None,
    }
    if outcome.metadata is not None:
        line["metadata"] = outcome.metadata
    return line


def outcome_of(number: int, line: Mapping[str, Any]) -> SliceOutcome:
    """Read a line of output back: a retry merges new outcomes into it."""
    return SliceOutcome(
        line=number,
        id=line["id"],
        top_n=len(line["results"]) or None,  # what was kept is not cut again
        metadata=line.get("metadata"),
        results=[_scored_of(result) for result in line["results"]],
        errors=[Failure(**_known(error, Failure)) for error in line["errors"]],
    )


def dump_line(line: Mapping[str, Any]) -> bytes:
    """One line of JSON Lines, in UTF-8."""
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _without_repeats(errors: Sequence[Failure]) -> Iterator[Failure]:
    """The errors of a line; one that rejects the whole request comes once, without an index."""
    whole = next((e for e in errors if e.code == POOR_QUERY), None)
    if whole:
        yield whole.model_copy(update={"index": None, "id": None, "metadata": None})
    yield from (e for e in errors if e.code != POOR_QUERY)


def _error(failure: Failure) -> dict[str, Any]:
    return failure.model_dump(exclude_none=True) | {"retryable": failure.retryable}


_IMAGE_FIELDS = {"quality", "tokens", "plain_margin", "images"}


def _result(scored: Scored, calibration: Calibration) -> dict[str, Any]:
    result: dict[str, Any] = {"index": scored.index}
    if scored.id is not None:
        result["id"] = scored.id
    result["relevance_score"] = calibration.score(scored.margin)
    result["margin"] = scored.margin
    if scored.truncated_tokens:
        result["truncated_tokens"] = scored.truncated_tokens
    if scored.crowded:
        result["crowded"] = True
    if scored.images or scored.tokens is not None or scored.quality is not None:
        result |= scored.model_dump(mode="json", include=_IMAGE_FIELDS, exclude_none=True)
    if scored.channels is not None:
        result["explain"] = explain(scored.channels, calibration)
    if scored.metadata is not None:
        result["metadata"] = scored.metadata
    return result


def _scored_of(result: Mapping[str, Any]) -> Scored:
    channels = result.get("explain", {}).get("channels")
    return Scored(**_known(result, Scored), channels=channels)


def _known(fields: Mapping[str, Any], kind: type[Scored] | type[Failure]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in kind.model_fields}
