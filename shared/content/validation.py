"""What is wrong with an input, as a path and a message, and whether JSON can hold it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from rerankfleet.shared.errors import Path

FIELD_SHOWN = 100
"""Characters of a field's name in a message: names come from the input too."""
NESTING_MAX = 200
"""So deep is JSON read; deeper values raise an error in pydantic's parser."""
INTEGER_BOUND = 10**4300
"""Integers of more digits are read neither by Python's parser nor by pydantic's."""
EXACT_BOUND = 2**53
"""Below it, a float holds every whole number."""


# ---- numbers, ids and lists ---------------------------------------------------------------------


def _own(value: Any) -> Any:
    """A number of a library as one of Python's own; anything else as it is."""
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def is_id(value: Any) -> bool:
    """Whether a value may be an id: a text or a whole number, which may be written as a float."""
    if isinstance(value, float):  # a larger one is no longer the number that was written
        return value.is_integer() and abs(value) < EXACT_BOUND
    return isinstance(value, str | int) and not isinstance(value, bool)


def _id(value: Any) -> Any:
    own = _own(value)
    if own is None or is_id(own):
        return own
    raise PydanticCustomError("id", "Input should be text or a whole number")


ItemId = Annotated[str | int | float, BeforeValidator(_id)]
"""The id of a request, document or image, which comes back as it came: 8, 8.0 or "8"."""


def _whole(value: Any) -> Any:
    own = _own(value)
    return int(own) if isinstance(own, float) and own.is_integer() else own


WHOLE = BeforeValidator(_whole)
"""Of an integer, which may be written as a float without a fraction, as tables do."""


def no_boolean(value: Any) -> Any:
    """The value, a number as one of Python's own. Raises PydanticCustomError for true and false,
    which are no numbers."""
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "Input should not be true or false")
    return _own(value)


def listed(value: Any) -> list[Any]:
    """Values that were passed as a list, tuple, Series, array or any other run of values.

    Raises PydanticCustomError for a text, bytes or a mapping, whose letters, numbers or keys would
    be taken for values; and for a set, which has no order.
    """
    is_named = hasattr(value, "keys") and not hasattr(value, "tolist")  # also a DataFrame
    if isinstance(value, str | bytes | bytearray | memoryview | set | frozenset) or is_named:
        raise _no_list(value)
    if isinstance(value, list):
        return value
    if hasattr(value, "tolist"):  # a Series or an array: its values as Python's own
        return listed(value.tolist())  # of an array without dimensions, one value
    try:
        return list(value)
    except TypeError:
        raise _no_list(value) from None


def _no_list(value: Any) -> PydanticCustomError:
    kind = {"str": "one text", "dict": "an object", "NoneType": "nothing"}
    name = type(value).__name__
    shown = kind.get(name, f"a value of type {name}")
    return PydanticCustomError(
        "list", "Input should be a list, got {shown}: write [...]", {"shown": shown}
    )


# ---- errors -------------------------------------------------------------------------------------


_NO_OBJECT = "Input should be an object"
_SAID = {
    "extra_forbidden": "there is no such field",
    "tuple_type": "Input should be a URI or a list of URIs",
    "dict_type": _NO_OBJECT,
    "model_type": _NO_OBJECT,
    "model_attributes_type": _NO_OBJECT,
}
"""Pydantic's kinds of errors whose messages name types of this program -> what is said."""
_CONTENTS = ("Content", "Document")
"""Models that a text may stand for."""


def first_error(errors: Sequence[Mapping[str, Any]]) -> tuple[Path, str]:
    """The path and message of the first of pydantic's errors, in words that every door knows."""
    first = errors[0]
    path = tuple(part if isinstance(part, int) else part[:FIELD_SHOWN] for part in first["loc"])
    if first.get("ctx", {}).get("class_name") in _CONTENTS:
        return path, "Input should be a text or an object"
    return path, _SAID.get(first["type"], str(first["msg"]))


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
