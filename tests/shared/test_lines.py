"""The two text formats: whatever a line holds, it is one slice, and one line of output."""

from __future__ import annotations

import io
import json
import math
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from rerankfleet.shared.calibration import Calibration, relevance_score
from rerankfleet.shared.content.content import FIELDS_MAX, Content, Document, Video
from rerankfleet.shared.content.outcomes import (
    Failure,
    ImageFacts,
    Provenance,
    Scored,
    SliceOutcome,
)
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.content.uris import URIS_MAX
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.formats.lines import (
    image_id,
    image_of,
    parse_line,
    raw_lines,
    refuse_other_formats,
    slice_of,
    valid_document,
)
from rerankfleet.shared.formats.output import (
    cancelled,
    dump_line,
    failure_of,
    merge,
    outcome_of,
    output_line,
)
from rerankfleet.shared.formats.shard_files import dump_part, dump_slices, parse_part
from rerankfleet.shared.job_spec import InputRef, make_spec
from tests.support.fleet import PROVENANCE

GOOD = {"query": "q", "documents": ["a", {"id": 7, "text": "b"}]}


def parse(line: object, number: int = 1, max_documents: int = 100) -> Slice:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    return parse_line(number, raw, max_documents=max_documents)


def only_failure(line: object) -> Failure:
    """The failure of a line that has nothing else."""
    piece = parse(line, number=4)
    assert piece.documents == []
    (failure,) = piece.failures
    assert failure.line == 4
    assert failure.index is None
    return failure


# ---- reading lines ------------------------------------------------------------------------------


def test_a_file_is_read_line_by_line_whatever_ends_them():
    stream = io.BytesIO(b"one\r\ntwo\n\nlast")
    assert list(raw_lines(stream, 100)) == [(5, b"one"), (4, b"two"), (1, b""), (4, b"last")]


def test_a_line_that_is_too_long_is_skipped_without_being_held():
    stream = io.BytesIO(b"x" * 3_000_000 + b"\nshort\n" + b"y" * 20)
    assert list(raw_lines(stream, 10)) == [(3_000_001, None), (6, b"short"), (20, None)]


@given(
    st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=8),
    st.integers(1, 20),
)
def test_offsets_lead_back_to_the_lines(lines, max_bytes):
    data = b"".join(line + b"\n" for line in lines)
    consumed = [count for count, _ in raw_lines(io.BytesIO(data), max_bytes)]
    assert consumed == [len(line) + 1 for line in lines]


@pytest.mark.parametrize(
    "head",
    [[b"query,documents", b"a,b"], [b"[", b"{"], [b"\x89PNG"], [b"", b""], [b"[" * 100_000]],
    ids=["csv", "broken", "binary", "blank", "deep"],
)
def test_a_file_that_is_not_json_lines_is_refused_as_a_whole(head):
    with pytest.raises(UsageError, match=r"f is not JSON Lines: write one JSON object a line"):
        refuse_other_formats(head, "f")


def test_an_empty_file_is_refused_as_a_whole():
    with pytest.raises(UsageError, match="f is empty"):
        refuse_other_formats([], "f")


def test_one_good_line_among_the_first_is_enough():
    refuse_other_formats([b"garbage", None, b"{}"], "f")


# ---- one line -----------------------------------------------------------------------------------


def test_a_request_becomes_a_slice_of_its_pairs():
    piece = parse({**GOOD, "id": "r1", "instruction": "find", "top_n": 3, "metadata": {"k": [1]}})

    assert [d.text for d in piece.documents] == ["a", "b"]
    assert [d.id for d in piece.documents] == [None, 7]
    assert piece.indices == [0, 1]
    assert piece.items == 2
    assert (piece.id, piece.instruction, piece.top_n) == ("r1", "find", 3)
    assert piece.metadata == {"k": [1]}


def test_a_byte_order_mark_is_no_part_of_the_line():
    assert parse(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()).items == 2


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        (b"", "malformed_line", "not JSON"),
        (b"{", "malformed_line", "not JSON"),
        (b"[1]", "malformed_line", "expected a JSON object, got list"),
        (b"7", "malformed_line", "expected a JSON object, got int"),
        (b'{"query": "\xff"}', "malformed_line", "not UTF-8 at byte 11"),
        (b'{"query": NaN, "documents": []}', "malformed_line", "NaN is not a JSON value"),
        (b"[" * 100_000, "malformed_line", "not JSON"),
        (json.dumps(GOOD).encode("utf-16"), "malformed_line", "not UTF-8"),
        ({"documents": ["a"]}, "invalid_request", "query: Field required"),
        ({"query": "q"}, "invalid_request", "documents: Field required"),
        ({"query": 5, "documents": ["a"]}, "invalid_request", "query: Input should be"),
        ({"query": "q", "documents": "a"}, "invalid_request", "documents: Input should be"),
        ({**GOOD, "top_n": -1}, "invalid_request", "top_n: Input should be greater"),
        ({**GOOD, "docs": []}, "invalid_request", "docs: there is no such field"),
        ({**GOOD, "id": [1]}, "invalid_request", "id"),
        ({**GOOD, "x" * 10_000: 1}, "invalid_request", "x: there is no such field"),
        ({"query": "q\ud800", "documents": ["a"]}, "invalid_text", "half a surrogate pair"),
        ({**GOOD, "metadata": {"\udfff": 1}}, "invalid_request", "metadata: a key is not text"),
        ({**GOOD, "id": "\ud800"}, "invalid_text", "half a surrogate pair"),
        ({"query": " \n", "documents": ["a"]}, "empty_query", "the query is empty"),
        ({"query": "q", "documents": []}, "no_documents", "there are no documents"),
        ({"query": "q", "documents": ["a"] * 101}, "too_many_documents", "101 documents"),
    ],
)
def test_a_line_that_cannot_be_scored_is_one_failure(line, code, says):
    failure = only_failure(line)

    assert failure.code == code
    assert says in failure.message
    assert len(failure.message) < 300


def test_metadata_may_be_nested_as_deeply_as_a_shard_file_can_hold():
    for field, lists in (("of the document", 196), ("of the request", 198)):
        metadata = json.loads('{"a":' + "[" * lists + "]" * lists + "}")
        document = {"text": "a", "metadata": metadata if field == "of the document" else {}}
        line = {"query": "q", "documents": [document]}
        piece = parse(line if field == "of the document" else line | {"metadata": metadata})

        assert piece.failures == []
        assert Slice.model_validate_json(dump_slices([piece])) == piece


@pytest.mark.parametrize("depth", [199, 201, 230, 400, 900])
def test_metadata_that_no_shard_file_can_hold_costs_its_line_alone(depth):
    line = b'{"query":"q","documents":["a"],"metadata":{"a":' + b"[" * depth + b"]" * depth + b"}}"

    failure = only_failure(line)

    assert (failure.code, failure.message) == ("invalid_request", "metadata: nested too deeply")


def test_a_number_that_json_cannot_hold_costs_its_line_alone():
    failure = only_failure(b'{"query":"q","documents":["a"],"metadata":{"a":1e999}}')

    assert failure.message == "metadata: a number is out of range"


def test_a_line_that_was_too_long_says_which_setting_bounds_it():
    piece = parse_line(9, None, max_documents=10)

    assert piece.failures[0].code == "line_too_long"
    assert piece.failures[0].hint == "RERANK_MAX_LINE_BYTES"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ({"id": "mine"}, "mine"),
        ({"id": 12, "query": ""}, 12),
        ({"id": True}, None),
        ({"id": {"a": 1}}, None),
        ({"id": "\ud800"}, None),
        (b"no json", None),
        (b"[]", None),
        (b'"id"', None),
    ],
)
def test_the_failure_of_a_line_carries_the_lines_own_id(line, found):
    assert parse(line).id == found


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        (5, "invalid_document", "documents.1: Input should be"),
        (None, "invalid_document", "documents.1: "),
        ({"id": 1}, "invalid_document", "documents.1: give at least one of text, image, video"),
        ({"image": []}, "invalid_document", "documents.1: give at least one of text, image, video"),
        ({"image": 5}, "invalid_document", "documents.1.image: Input should be"),
        ({"image": ["a.png", 5]}, "invalid_document", "documents.1.image.1: Input should be"),
        ({"image": "ftp://h/a.png"}, "invalid_document", "documents.1.image.0: expected s3://"),
        ({"video": {"frames": []}}, "invalid_document", "documents.1.video.frames: Tuple should"),
        ({"video": {"frames": ["a.png"], "fps": 0}}, "invalid_document", "documents.1.video.fps"),
        ({"text": 1}, "invalid_document", "documents.1.text: Input should be"),
        ({"text": "a", "title": "b"}, "invalid_document", "documents.1.title: there is no such"),
        ({"text": "a", "x" * 9999: "b"}, "invalid_document", "documents.1.x"),
        ("\ud800", "invalid_text", "documents.1: holds half a surrogate pair"),
        ({"text": "a", "id": "\ud800"}, "invalid_text", "documents.1.id: holds half a surrogate"),
        ({"frames": ["ftp://h/a.png"]}, "invalid_document", "documents.1.video.frames.0: expected"),
        ({"frames": [], "text": "a"}, "invalid_document", "documents.1.video.frames: Tuple should"),
        (
            {"frames": ["a.png"], "video": {"frames": ["b.png"]}},
            "invalid_document",
            "documents.1.frames",
        ),
        ({"text": "a", "metadata": 5}, "invalid_document", "documents.1.metadata: Input should"),
        (
            {"text": "a", "metadata": {"\udfff": 1}},
            "invalid_document",
            "documents.1.metadata: a key is not text",
        ),
        (
            {"text": "a", "metadata": {"a": "\udfff"}},
            "invalid_text",
            "documents.1.metadata: holds half a surrogate pair",
        ),
    ],
)
def test_a_bad_document_costs_only_its_own_pair(document, code, says):
    piece = parse({"query": "q", "documents": ["a", document, "c"]})

    assert piece.indices == [0, 2]
    (failure,) = piece.failures
    assert (failure.index, failure.code) == (1, code)
    assert says in failure.message
    assert len(failure.message) < 300
    assert piece.items == 3


@pytest.mark.parametrize("depth", [197, 201, 400, 900])
def test_metadata_of_a_document_that_no_shard_file_can_hold_costs_its_pair_alone(depth):
    deep = '{"text":"a","metadata":{"a":' + "[" * depth + "]" * depth + "}}"

    piece = parse(f'{{"query":"q","documents":["a",{deep},"c"]}}'.encode())

    assert piece.indices == [0, 2]
    assert piece.failures[0].message == "documents.1.metadata: nested too deeply"


@pytest.mark.parametrize(("given", "told"), [("d1", "d1"), (7, 7), (True, None), ("\ud800", None)])
def test_the_failure_of_a_document_carries_its_own_id(given, told):
    (failure,) = parse({"query": "q", "documents": [{"id": given, "text": 1}]}).failures

    assert failure.id == told


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
    told = [*line["results"], *line["errors"]]
    assert [one["metadata"] for one in told] == [d["metadata"] for d in documents]
    assert [one["id"] for one in told] == ["d0", "d1", "d2"]
    # and a retry reads them back
    assert output_line(outcome_of(1, line), PROVENANCE, top_n=None) == line


@pytest.mark.parametrize(
    ("code", "retryable"),
    [("timeout", True), ("cancelled", True), ("not_found", False), ("low_quality", False)],
)
def test_a_failure_says_whether_asking_again_may_help(code, retryable):
    failure = Failure(line=1, index=0, code=code, message="m")

    (told,) = output_line(SliceOutcome(line=1, errors=[failure]), None, top_n=None)["errors"]

    assert told["retryable"] is retryable


def test_the_quality_of_a_poor_image_is_told():
    error = ItemError("low_quality", "poor", quality=0.123456)

    assert failure_of(1, 0, Document(text="a"), error).quality == 0.1235


def test_frames_are_short_for_a_video_of_them():
    frames, video = {"frames": ["1.png", "2.png"]}, {"video": {"frames": ["1.png", "2.png"]}}

    short, long = (parse({"query": q, "documents": [q, "a"]}) for q in (frames, video))

    assert short == long
    assert short.query.video == Video(frames=("1.png", "2.png"))
    nothing = parse({"query": "q", "documents": [{"text": "a", "frames": None}]})
    assert nothing.documents == [Document(text="a")]


def test_an_image_of_a_catalog_carries_no_metadata():
    piece = image_of(1, b'{"image": "a.png", "metadata": {"a": 1}}', queries=2)

    assert piece.failures[0].message == "metadata: a row has no place for it"


def test_a_request_from_python_is_refused_with_its_reason():
    with pytest.raises(ItemError, match="the query is empty: give a text or an image"):
        slice_of(1, {"query": "", "documents": ["a"]}, max_documents=9)


# ---- contents -----------------------------------------------------------------------------------

DATA_URI = "data:image/png;base64,iVBORw0KGgo="


def test_a_query_and_its_documents_may_be_images_and_frames():
    piece = parse(
        {
            "query": {"text": "this in red", "image": "s3://shop/chair.jpg"},
            "documents": [
                {"id": "c1", "image": ["s3://shop/1.jpg", DATA_URI], "text": "Oak"},
                {"video": {"frames": ["/a b/1.png", "2.png"], "fps": 2}},
                "text alone",
            ],
        }
    )

    assert piece.query == Content(text="this in red", image=("s3://shop/chair.jpg",))
    both, video, _ = piece.documents
    assert (both.id, both.text, both.image) == ("c1", "Oak", ("s3://shop/1.jpg", DATA_URI))
    assert video.video == Video(frames=("/a b/1.png", "2.png"), fps=2)
    assert [d.plain for d in piece.documents] == [False, False, True]
    assert Slice.model_validate_json(dump_slices([piece])) == piece


def test_a_query_of_text_is_a_bare_string_in_its_file():
    bare, wrapped = parse(GOOD), parse({**GOOD, "query": {"text": "q"}})

    assert bare == wrapped
    assert json.loads(dump_slices([bare]))["query"] == "q"


@pytest.mark.parametrize(
    "uri",
    [
        *("s3://bucket/a key.jpg", "https://host/a.jpg?X-Amz-Signature=1", "http://host:80/a"),
        *("file:///a/b.png", "/a/b.png", "b.png", "../ü/b c.png", "C:\\b.png", DATA_URI),
    ],
)
def test_an_image_is_named_by_a_uri_or_a_path(uri):
    assert parse({"query": {"image": uri}, "documents": ["a"]}).query.image == (uri,)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ftp://host/a.jpg", "expected s3://, https://"),
        ("S3://bucket/a.jpg", "expected s3://, https://"),
        ("s3://bucket", "incomplete or malformed"),
        ("s3:///key", "incomplete or malformed"),
        ("https://", "incomplete or malformed"),
        ("https://host/a b?token=secret", "incomplete or malformed"),
        ("file://host/a", "incomplete or malformed"),
        ("", "incomplete or malformed"),
        ("  ", "incomplete or malformed"),
        ("a\0b", "incomplete or malformed"),
        ("a\ud800b", "half a surrogate pair"),
        ("https://host/" + "secret" * 2000, "longer than 8192 characters"),
        ("data:text/html;base64,secret", "expected data:image/"),
        ("data:image/png,secret", "expected data:image/"),
        ("data:image/png;base64,", "expected data:image/"),
        ("data:image/png;base64,secretü", "is ASCII"),
        ("data:image/png;base64," + "secret" * 1_500_000, "at most 8388608 are allowed"),
    ],
)
def test_a_malformed_uri_costs_its_pair_or_its_request_and_is_not_repeated(uri, says):
    document = parse({"query": "q", "documents": ["a", {"image": [uri]}]})
    query = only_failure({"query": {"image": uri}, "documents": ["a"]})

    assert document.indices == [0]
    for failure in (*document.failures, query):
        assert says in failure.message
        assert "secret" not in failure.message + failure.hint
        assert len(failure.message) < 200
    assert query.code == "invalid_request"
    assert query.message.startswith("query.image.0: ")


def test_a_query_of_an_image_needs_no_text():
    assert parse({"query": {"image": "a.png", "text": " "}, "documents": ["a"]}).items == 1
    assert only_failure({"query": {"text": " "}, "documents": ["a"]}).code == "empty_query"
    assert "at least one of" in only_failure({"query": {}, "documents": ["a"]}).message


# Text as Python can hold it: json.loads makes lone surrogates of escapes.
text = st.text(st.characters(exclude_categories=()), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
uris = st.sampled_from(["a.png", "s3://b/k", "s3://b", DATA_URI, "\ud800"]) | text
images = uris | st.lists(uris | values, max_size=3)
videos = st.fixed_dictionaries({"frames": images}, optional={"fps": values | st.floats(0, 60)})
contents = st.fixed_dictionaries(
    {}, optional={"text": text, "image": images, "video": videos | values, "id": values}
)
documents = text | contents | values
requests = st.fixed_dictionaries(
    {"query": text | contents | values, "documents": st.lists(documents, max_size=5) | values},
    optional={
        "id": values,
        "instruction": values,
        "top_n": values,
        "metadata": st.dictionaries(text, values, max_size=3) | values,
        "more": values,
    },
)


@given(st.binary(max_size=60) | requests | values, st.integers(1, 4))
@example(b"\xff\xfe", 1)
@example({"query": "q", "documents": [{"text": "a", "id": "\udc00"}]}, 1)
def test_whatever_a_line_holds_it_is_one_slice_that_a_shard_file_can_hold(line, max_documents):
    piece = parse(line, number=3, max_documents=max_documents)

    assert piece.line == 3
    assert piece.items >= 1
    positions = [*piece.indices, *(f.index for f in piece.failures)]
    if None in positions:
        assert len(positions) == 1
    else:
        assert sorted(positions) == list(range(piece.items))
    stored = dump_slices([piece])
    assert stored.count(b"\n") == 1
    assert Slice.model_validate_json(stored) == piece
    json.loads(dump_line(output_line(cancelled(piece), None, top_n=None)).decode())


@given(requests, st.data())
def test_a_slice_cut_in_pieces_is_the_slice(line, data):
    piece = parse(line)
    middle = data.draw(st.integers(0, piece.items))

    left, right = piece.cut(0, middle), piece.cut(middle, piece.items)

    assert left.items == middle
    assert right.items == piece.items - middle
    for field in ("documents", "indices", "failures"):
        assert getattr(left, field) + getattr(right, field) == getattr(piece, field)


# ---- output -------------------------------------------------------------------------------------

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

    found = line["results"]
    everything = sorted(outcome.results, key=lambda r: (-r.margin, r.index))
    assert [r["index"] for r in found] == [r.index for r in everything][:top_n]
    scores = [r["relevance_score"] for r in found]
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
def test_a_part_file_holds_outcomes_as_they_were(found):
    assert parse_part(dump_part(found, PROVENANCE)) == (found, PROVENANCE)


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


def test_only_what_is_unusual_is_written_beside_a_score():
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


def test_what_was_done_to_images_is_written_beside_the_score():
    facts = ImageFacts(original=(30, 20), used=(32, 32), cropped=0.1, quality=0.8, tokens=1)
    found = Scored(index=0, margin=0.0, quality=0.8, tokens=1, images=[facts])

    (result,) = output_line(SliceOutcome(line=1, results=[found]), None, top_n=None)["results"]

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


# ---- calibration --------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(0.1, 2))
def test_a_score_is_symmetric_and_between_0_and_1(margin, temperature):
    score = relevance_score(margin, temperature)

    assert 0 <= score <= 1
    assert math.isclose(score + relevance_score(-margin, temperature), 1, abs_tol=1e-12)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(0.1, 2))
def test_temperature_never_changes_an_order(one, other, temperature):
    if one <= other:
        assert relevance_score(one, temperature) <= relevance_score(other, temperature)


def test_the_nucleus_makes_a_likely_answer_certain():
    assert relevance_score(0.42, 0.3, top_p=0.8) == 1.0
    assert relevance_score(-0.42, 0.3, top_p=0.8) == 0.0
    assert relevance_score(0.40, 0.3, top_p=0.8) == pytest.approx(0.791, abs=1e-3)
    assert relevance_score(50.0, top_p=1.0) == pytest.approx(1.0)


def test_a_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature 0 must be above 0"):
        relevance_score(1.0, 0)


def test_provenance_is_written_with_each_line():
    line = output_line(SliceOutcome(line=1), PROVENANCE, top_n=None)
    assert Provenance(**line["provenance"]) == PROVENANCE


def test_options_of_images_that_do_not_go_together_stop_at_the_door():
    source = InputRef(uri="file:///in", size=1, tag="t")
    with pytest.raises(UsageError, match="reference"):
        make_spec(model="m", input=source, image_preset="reference", resize_mode="fit")


def test_an_image_without_an_id_is_named_without_what_signs_its_address():
    signed = Document(image=("https://shop.com/a.jpg?X-Amz-Signature=secret",))
    assert image_id(signed) == "https://shop.com/a.jpg"
    assert image_id(Document(image=("s3://shop/what?.jpg",))) == "s3://shop/what?.jpg"
    assert image_id(Document(id=7, image=("https://shop.com/a.jpg?x",))) == 7


@pytest.mark.parametrize(
    "content",
    [
        {"image": [0] * 100_000},
        {"frames": [0] * 100_000},
        {"video": {"frames": ["a.png"], **dict.fromkeys(map(str, range(100_000)))}},
        {"text": "a", **dict.fromkeys(map(str, range(100_000)))},
        {"image": ["a.png"] * (URIS_MAX + 1)},
    ],
    ids=["images", "frames", "a video's fields", "fields", "too many images"],
)
def test_a_hundred_thousand_mistakes_cost_the_memory_of_a_few(content):
    with pytest.raises(ItemError) as refused:
        valid_document(content)
    assert isinstance(refused.value.__cause__, ValidationError)
    assert refused.value.__cause__.error_count() <= FIELDS_MAX

    raw = json.dumps({"query": content, "documents": ["a"]}).encode()
    (failure,) = parse_line(1, raw, max_documents=10).failures
    assert failure.code == "invalid_request"


def test_what_a_newer_worker_tells_beside_a_score_is_passed_over():
    outcome = SliceOutcome(line=1, results=[Scored(index=0, margin=1.5)])
    head, line = dump_part([outcome], PROVENANCE).splitlines()
    newer = [json.loads(head) | {"new": 1}, json.loads(line) | {"new": 1}]
    newer[1]["results"][0]["new"] = 1

    found = parse_part(b"".join(json.dumps(each).encode() + b"\n" for each in newer))

    assert found == ([outcome], PROVENANCE)
    assert "video" not in json.loads(head)  # which an older reader does not know
