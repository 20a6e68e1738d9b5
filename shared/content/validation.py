"""What is wrong with an input, as a path and a message, and whether JSON can hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rerankfleet.shared.errors import Path

FIELD_SHOWN = 100
"""Characters of a field's name in a message: names come from the input too."""
NESTING_MAX = 200
"""So deep is JSON read; deeper values raise an error in pydantic's parser."""
INTEGER_BOUND = 10**4300
"""Integers of more digits are read neither by Python's parser nor by pydantic's."""


def first_error(errors: Sequence[Mapping[str, Any]]) -> tuple[Path, str]:
    """The path and message of the first of pydantic's errors."""
    first = errors[0]
    path = tuple(part if isinstance(part, int) else part[:FIELD_SHOWN] for part in first["loc"])
    unknown = first["type"] == "extra_forbidden"
    return path, "there is no such field" if unknown else str(first["msg"])


def require_json(value: Any, levels: int = NESTING_MAX) -> None:
    """Raise ValueError for a value that would not come back from JSON as it is, or is nested in
    more than so many levels; UnicodeEncodeError for a text that holds half a surrogate pair."""
    if isinstance(value, str):
        require_text(value)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int | float):
        _require_number(value)
    elif isinstance(value, dict):
        _require_keys(value)
        _require_all(value.values(), levels)
    elif isinstance(value, list):
        _require_all(value, levels)
    else:
        raise ValueError("a value is not JSON")


def require_text(value: str) -> None:
    """Raise UnicodeEncodeError for half a surrogate pair."""
    if not value.isascii():
        value.encode()


def _require_number(value: float) -> None:
    in_range = math.isfinite(value) if isinstance(value, float) else abs(value) < INTEGER_BOUND
    if not in_range:
        raise ValueError("a number is out of range")


def _require_keys(keys: Iterable[Any]) -> None:
    for key in keys:
        if not isinstance(key, str):
            raise ValueError("a key is not text")
        try:
            require_text(key)
        except UnicodeEncodeError:
            raise ValueError("a key is not text") from None


def _require_all(values: Iterable[Any], levels: int) -> None:
    if levels <= 0:
        raise ValueError("nested too deeply")
    for value in values:
        require_json(value, levels - 1)
