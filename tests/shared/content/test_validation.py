"""Walking a value accepts exactly what JSON can hold, as strictly as writing and reading it."""

from __future__ import annotations

import datetime
import enum
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.options import ScoringOptions
from rerankfleet.shared.content.validation import NESTING_MAX, first_error, listed, require_json

text = st.text(st.characters(exclude_categories=()), max_size=6)
keys = text | st.integers() | st.booleans() | st.none()
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | text
    | st.binary(max_size=3)
    | st.dates()
    | st.decimals()
    | st.tuples(st.integers())
    | st.sets(st.integers(), max_size=2)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


class Word(enum.StrEnum):
    good = "good"


class Number(enum.Enum):
    one = 1


def comes_back(value: Any) -> bool:
    """Whether pydantic writes and reads it, as metadata of a document, as it is."""
    document = Document(text="", metadata={"a": value})
    try:
        return Document.model_validate_json(document.model_dump_json()) == document
    except ValueError:
        return False


def is_json(value: Any, levels: int = NESTING_MAX) -> bool:
    try:
        require_json(value, levels)
    except ValueError:
        return False
    return True


def nested(depth: int, leaf: Any = 1) -> Any:
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


@given(values)
@example(float("nan"))
@example(float("-inf"))
@example(1e308)
@example(-0.0)
@example(10**4300 - 1)
@example(1 - 10**4300)
@example(10**4300)
@example(-(10**4300))
@example({1: 2})
@example({"\ud800": 1})
@example({"a": "\udfff"})
@example([("a",)])
@example(Word.good)
@example({Word.good: Word.good})
@example(Number.one)
@example(datetime.date(2026, 1, 1))
@example(object())
def test_a_walk_is_as_strict_as_writing_and_reading(value):
    assert is_json(value) == comes_back(value)


@pytest.mark.parametrize("depth", range(195, 203))
def test_a_walk_is_as_strict_about_nesting(depth):
    value = nested(depth)
    assert is_json(value, NESTING_MAX - 2) == comes_back(value)  # the document, its metadata


def test_what_holds_itself_is_nested_too_deeply():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        require_json(value)


def test_the_first_error_is_shown_with_its_path_cut_to_a_readable_length():
    errors = [
        {"loc": ("documents", 3, "x" * 999), "type": "extra_forbidden", "msg": "Extra inputs"},
        {"loc": ("query",), "type": "missing", "msg": "Field required"},
    ]
    assert first_error(errors) == (("documents", 3, "x" * 100), "there is no such field")
    assert first_error(errors[1:]) == (("query",), "Field required")


# ---- ids, numbers and lists ---------------------------------------------------------------------


@pytest.mark.parametrize("value", [8, 8.0, "8", 10**40, -0.0, 0, "", np.int64(8), np.float64(8)])
def test_an_id_is_a_text_or_a_whole_number_and_comes_back(value):
    document = Document(text="a", id=value)

    again = Document.model_validate_json(document.model_dump_json())
    for own in (document.id, again.id):
        assert own == value
        assert type(own) in (str, int, float, np.float64)
        assert isinstance(own, float) == isinstance(value, float)


@pytest.mark.parametrize("value", [True, 8.5, math.nan, math.inf, 2.0**60, [8], b"8"])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(ValidationError, match="Input should be text or a whole number"):
        Document(text="a", id=value)


@pytest.mark.parametrize(
    "value",
    [["a", "b"], ("a", "b"), np.array(["a", "b"]), iter(["a", "b"]), {1: "a", 2: "b"}.values()],
)
def test_a_run_of_values_is_a_list(value):
    assert listed(value) == ["a", "b"]


class Frame:
    """As a DataFrame: it has keys, and they are what it yields."""

    def keys(self) -> list[str]:
        return ["a", "b"]

    def __iter__(self):
        return iter(self.keys())


@pytest.mark.parametrize(
    "value",
    ["ab", b"ab", bytearray(b"ab"), {"a": 1}, {"a", "b"}, frozenset("ab"), None, 5, Frame()],
)
def test_a_text_a_mapping_or_a_set_is_no_list(value):
    with pytest.raises(PydanticCustomError, match="Input should be a list, got"):
        listed(value)


@pytest.mark.parametrize(
    "name", ["top_n", "max_length", "temperature", "limit", "quality_threshold"]
)
def test_true_and_false_are_no_numbers(name):
    with pytest.raises(ValidationError, match="should not be true or false"):
        ScoringOptions(**{name: True})


def test_an_option_may_be_a_whole_float():
    options = ScoringOptions(top_n=3.0, max_length=np.float64(512), limit=np.int64(2))

    assert (options.top_n, options.max_length, options.limit) == (3, 512, 2)
    assert [type(getattr(options, name)) for name in ("top_n", "max_length", "limit")] == [int] * 3
