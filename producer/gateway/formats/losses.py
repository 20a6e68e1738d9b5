"""What was not read of documents that have a score all the same, in the words of a warning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

SHOWN = 10
"""Documents that a warning names; more are counted."""


def losses(results: Iterable[tuple[int, Mapping[str, Any]]], what: str = "document") -> list[str]:
    """Warnings of results, each with the index by which the client knows it: `what` is cut, or was
    not read at all."""
    crowded: list[int] = []
    cut: list[int] = []
    for index, result in sorted(results, key=lambda entry: entry[0]):
        if result.get("crowded"):
            crowded.append(index)
        elif result.get("truncated_tokens"):
            cut.append(index)
    warnings = []
    if cut:
        warnings.append(f"{_named(what, cut)}: the text was too long, its end was not read")
    if crowded:
        warnings.append(f"{_named(what, crowded)}: nothing was read, the query filled max_length")
    return warnings


def _named(what: str, indices: Sequence[int]) -> str:
    """documents 0, 3, 7 and 12 more"""
    plural = f"{what}s" if len(indices) > 1 else what
    more = len(indices) - SHOWN
    named = ", ".join(map(str, indices[:SHOWN]))
    return f"{plural} {named} and {more} more" if more > 0 else f"{plural} {named}"
