"""Outcomes become lines of output, and are read back."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.calibration import Calibration, relevance_score
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import (
    Failure,
    ImageFacts,
    Provenance,
    Scored,
    SliceOutcome,
)
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.output import (
    cancelled,
    dump_line,
    failure_of,
    merge,
    outcome_of,
    output_line,
)
from rerankfleet.shared.formats.shard_files import dump_part, dump_slices, parse_part
from tests.support.fleet import PROVENANCE
from tests.support.lines import parse


def test_metadata_of_documents_comes_back_with_what_became_of_them():
    # given documents that carry something
    facts = {"sku": "c1", "prices": [1.5, None], "名": {"a": True}}
    documents = [{"id": f"d{n}", "text": "a", "metadata": facts | {"n": n}} for n in range(3)]
    # when they go through a shard's file, and one is scored, one is not, one is cancelled
    piece = Slice.model_validate_json(dump_slices([parse({"query": "q", "documents": documents})]))
    scored = Scored(index=0, id="d0", margin=1.0, metadata=piece.documents[0].metadata)
    failed = failure_of(1, 1, piece.documents[1], ItemError("timeout", "slow"))
    outcome = SliceOutcome(line=1, results=[scored], errors=[failed])
    rest = cancelled(piece.cut(2, 3))
    ((whole,), _) = parse_part(dump_part([merge([outcome, rest])], PROVENANCE))
    line = output_line(whole, PROVENANCE, top_n=None)
    # then each has its own, and its id
    items = [*line["results"], *line["errors"]]
    assert [one["metadata"] for one in items] == [d["metadata"] for d in documents]
    assert [one["id"] for one in items] == ["d0", "d1", "d2"]
    # and a retry reads them back
    assert output_line(outcome_of(1, line), PROVENANCE, top_n=None) == line


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("timeout", True), ("cancelled", True), ("not_found", False), ("low_quality", False)],
)
def test_a_failure_says_whether_a_retry_may_help(code, retryable):
    failure = Failure(line=1, index=0, code=code, message="m")

    (item,) = output_line(SliceOutcome(line=1, errors=[failure]), None, top_n=None)["errors"]

    assert item["retryable"] is retryable


def test_the_quality_of_a_poor_image_is_reported():
    error = ItemError("low_quality", "poor", quality=0.123456)

    assert failure_of(1, 0, Document(text="a"), error).quality == 0.1235


margins = st.floats(-100, 100)
ids = st.none() | st.integers() | st.text(string.printable, max_size=5)
sizes = st.tuples(st.integers(1, 9999), st.integers(1, 9999))
image_facts = st.fixed_dictionaries(
    {"quality": st.floats(0, 1), "tokens": st.integers(1, 2000)},
    optional={
        "plain_margin": margins,
        "images": st.lists(
            st.builds(
                ImageFacts,
                original=sizes,
                used=sizes,
                cropped=st.floats(0, 1),
                quality=st.floats(0, 1),
                tokens=st.integers(1, 2000),
            ),
            max_size=2,
        ),
    },
)


@st.composite
def outcomes(draw) -> SliceOutcome:
    """The outcome of a line whose items are each scored or failed."""
    scored = [
        Scored(
            index=index,
            id=draw(ids),
            margin=draw(margins),
            truncated_tokens=draw(st.integers(0, 2)),
            crowded=draw(st.booleans()),
            **draw(st.just({}) | image_facts),
        )
        for index in draw(st.lists(st.integers(0, 50), unique=True, max_size=6))
    ]
    errors = [
        Failure(line=5, index=index, code="bad", message="m", hint=draw(st.text(max_size=3)))
        for index in draw(st.lists(st.none() | st.integers(51, 99), unique=True, max_size=3))
    ]
    metadata = draw(st.none() | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
    return SliceOutcome(line=5, id=draw(ids), metadata=metadata, results=scored, errors=errors)


@given(outcomes(), st.none() | st.integers(1, 4), st.floats(0.1, 2))
def test_a_line_of_output_is_ranked_and_cut_to_its_best(outcome, top_n, temperature):
    line = output_line(outcome, PROVENANCE, top_n=top_n, calibration=Calibration(temperature))

    results = line["results"]
    everything = sorted(outcome.results, key=lambda r: (-r.margin, r.index))
    assert [r["index"] for r in results] == [r.index for r in everything][:top_n]
    scores = [r["relevance_score"] for r in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= s <= 1 for s in scores)
    assert len(line["errors"]) == len(outcome.errors)
    assert json.loads(dump_line(line)) == line


@given(outcomes())
def test_a_line_of_output_can_be_read_back(outcome):
    line = json.loads(dump_line(output_line(outcome, PROVENANCE, top_n=None)))

    again = outcome_of(5, line)

    assert (again.id, again.metadata) == (outcome.id, outcome.metadata)
    assert sorted(again.results, key=lambda r: r.index) == sorted(
        outcome.results, key=lambda r: r.index
    )
    assert {e.index: e for e in again.errors} == {e.index: e for e in outcome.errors}
    assert output_line(again, PROVENANCE, top_n=None) == line


@given(st.lists(outcomes(), max_size=4))
def test_a_part_file_holds_outcomes_as_they_were(many):
    assert parse_part(dump_part(many, PROVENANCE)) == (many, PROVENANCE)


def test_the_requests_own_top_n_comes_before_the_jobs():
    results = [Scored(index=i, margin=float(i)) for i in range(5)]
    outcome = SliceOutcome(line=1, top_n=2, results=results)

    assert len(output_line(outcome, None, top_n=4)["results"]) == 2
    everything = outcome.model_copy(update={"top_n": 0})
    assert (
        output_line(everything, None, top_n=4)["results"]
        == (output_line(everything, None, top_n=None)["results"])
    )
    assert output_line(outcome, None, top_n=4)["provenance"] is None


def test_equal_margins_stand_in_the_order_of_the_input():
    results = [Scored(index=i, margin=1.5) for i in (3, 1, 2)]

    line = output_line(SliceOutcome(line=1, results=results), None, top_n=None)

    assert [r["index"] for r in line["results"]] == [1, 2, 3]


def test_only_what_is_unusual_is_written_with_a_score():
    results = [
        Scored(index=0, margin=1.0),
        Scored(index=1, margin=0.0, id="d", truncated_tokens=4, crowded=True),
    ]

    plain, unusual = output_line(SliceOutcome(line=1, results=results), None, top_n=None)["results"]

    assert plain == {"index": 0, "relevance_score": relevance_score(1.0), "margin": 1.0}
    assert unusual == {
        "index": 1,
        "id": "d",
        "relevance_score": 0.5,
        "margin": 0.0,
        "truncated_tokens": 4,
        "crowded": True,
    }


def test_what_was_done_to_images_is_written_with_the_score():
    facts = ImageFacts(original=(30, 20), used=(32, 32), cropped=0.1, quality=0.8, tokens=1)
    scored = Scored(index=0, margin=0.0, quality=0.8, tokens=1, images=[facts])

    (result,) = output_line(SliceOutcome(line=1, results=[scored]), None, top_n=None)["results"]

    assert result["images"] == [
        {"original": [30, 20], "used": [32, 32], "cropped": 0.1, "quality": 0.8, "tokens": 1}
    ]
    assert (result["quality"], result["tokens"]) == (0.8, 1)
    assert "plain_margin" not in result


def test_slices_of_one_line_are_joined():
    pieces = [
        SliceOutcome(line=1, id="r", results=[Scored(index=0, margin=1)]),
        SliceOutcome(line=1, id="r", errors=[Failure(line=1, index=1, code="c", message="m")]),
    ]

    assert merge(pieces) == SliceOutcome(
        line=1, id="r", results=pieces[0].results, errors=pieces[1].errors
    )
    assert merge(pieces[:1]) is pieces[0]


def test_every_item_of_a_cancelled_slice_says_so():
    piece = parse({"query": "q", "documents": ["a", 5, "c"], "id": "r", "top_n": 1})

    outcome = cancelled(piece)

    assert (outcome.id, outcome.top_n) == ("r", 1)
    assert sorted(e.index for e in outcome.errors) == [0, 1, 2]
    assert {e.code for e in outcome.errors} == {"cancelled"}


def test_text_of_any_script_is_written_as_it_is():
    assert "日本\u2028" in dump_line({"t": "日本\u2028"}).decode()
    assert dump_line({"t": "a\nb"}).count(b"\n") == 1


def test_provenance_is_written_with_each_line():
    line = output_line(SliceOutcome(line=1), PROVENANCE, top_n=None)
    assert Provenance(**line["provenance"]) == PROVENANCE


def test_fields_that_a_newer_worker_adds_to_a_score_are_ignored():
    outcome = SliceOutcome(line=1, results=[Scored(index=0, margin=1.5)])
    head, line = dump_part([outcome], PROVENANCE).splitlines()
    newer = [json.loads(head) | {"new": 1}, json.loads(line) | {"new": 1}]
    newer[1]["results"][0]["new"] = 1

    part = parse_part(b"".join(json.dumps(each).encode() + b"\n" for each in newer))

    assert part == ([outcome], PROVENANCE)
    assert "video" not in json.loads(head)  # which an older reader does not know
