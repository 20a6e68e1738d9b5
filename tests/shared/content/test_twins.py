"""Equal documents of one request are found, and have one margin."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.content.outcomes import Scored
from rerankfleet.shared.content.twins import tie
from tests.support.lines import parse


@pytest.mark.parametrize(
    ("documents", "twins"),
    [
        (["a", "b", "c"], {}),
        (["a", "b", "a", "b", "a"], {2: 0, 3: 1, 4: 0}),
        (["a", {"text": "a", "id": "x"}, {"text": "a", "metadata": {"b": 1}}], {1: 0, 2: 0}),
        (["a", "A", "a ", " a", "á", "a\u0301"], {}),
        (["", {"text": ""}], {1: 0}),
        (
            [{"image": "a.png"}, {"image": ["a.png"]}, {"image": "a.png", "text": None}],
            {1: 0, 2: 0},
        ),
        ([{"image": "a.png"}, {"image": "a.png", "text": "a"}, "a"], {}),
        ([{"image": ["a.png", "b.png"]}, {"image": ["b.png", "a.png"]}], {}),
        ([{"frames": ["a.png"]}, {"video": {"frames": ["a.png"]}}], {1: 0}),
        ([{"frames": ["a.png"]}, {"video": {"frames": ["a.png"], "fps": 2}}], {}),
        (["a", 5, "a", {"image": "ftp://a"}, "a"], {2: 0, 4: 0}),
    ],
)
def test_documents_are_twins_if_they_are_written_alike(documents, twins):
    assert parse({"query": "q", "documents": documents}).twins == twins


def test_a_slice_knows_the_twins_of_its_own_documents():
    piece = parse({"query": "q", "documents": ["a", "b", "a", 5, "b", "a"]})
    assert piece.cut(0, 3).twins == {2: 0}
    assert piece.cut(2, 6).twins == {2: 0, 4: 1, 5: 0}
    assert piece.cut(5, 6).twins == {}
    assert type(piece).model_validate_json(piece.model_dump_json()) == piece


def result(index: int, margin: float, twin: int | None = None, **fields: Any) -> Scored:
    return Scored(index=index, margin=margin, twin=None if twin is None else str(twin), **fields)


def test_twins_have_the_margin_of_the_first():
    results = [result(2, 1.1, 0), result(0, 1.0), result(1, 3.0), result(3, 1.2, 0)]
    assert [one.margin for one in tie(results)] == [1.0, 1.0, 3.0, 1.0]
    # and of the first that has a score, where the first has none
    assert [one.margin for one in tie([result(5, 1.2, 0), result(3, 1.1, 0)])] == [1.1, 1.1]
    # and of the one with a score from before, even behind it
    assert [one.margin for one in tie([result(0, 1.1, 3), result(3, 1.0)])] == [1.0, 1.0]


def test_a_margin_that_was_lowered_goes_with_the_one_before():
    first, second = tie([result(0, 1.0, plain_margin=2.0), result(1, 1.1, 0, plain_margin=2.1)])
    assert (second.margin, second.plain_margin) == (first.margin, first.plain_margin)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.randoms(use_true_random=False))
def test_all_equal_documents_tie_and_no_others(documents, random):
    piece = parse({"query": "q", "documents": documents or ["a"]})
    results = [result(i, ord(t) + random.random() / 10, piece.twins.get(i)) for i, t in
               enumerate(documents)]  # fmt: skip
    random.shuffle(results)
    margins = {one.index: one.margin for one in tie(results)}
    for index, margin in margins.items():
        first = documents.index(documents[index])
        assert margin == next(one.margin for one in results if one.index == first)
