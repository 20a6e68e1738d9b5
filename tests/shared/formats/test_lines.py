"""Whatever a line of input holds, it is one slice."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.formats.lines import (
    image_id,
    image_of,
    parse_line,
    raw_lines,
    refuse_other_formats,
    slice_of,
)
from rerankfleet.shared.formats.output import (
    cancelled,
    dump_line,
    output_line,
)
from rerankfleet.shared.formats.shard_files import dump_slices
from tests.support.lines import DATA_URI, GOOD, only_failure, parse


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
    [[b"query,documents", b"a,b"], [b"[", b"{"], [b"\x89PNG"], [b"[" * 100_000]],
    ids=["csv", "broken", "binary", "deep"],
)
def test_a_file_that_is_not_json_lines_is_refused_as_a_whole(head):
    with pytest.raises(UsageError, match=r"f is not JSON Lines: write one JSON object a line"):
        refuse_other_formats(head, "f")


def test_an_empty_file_is_refused_as_a_whole():
    with pytest.raises(UsageError, match="f is empty"):
        refuse_other_formats([], "f")
    with pytest.raises(UsageError, match="f holds nothing but blank lines"):
        refuse_other_formats([b" ", b"\xc2\xa0"], "f")


def test_one_good_line_among_the_first_is_enough():
    refuse_other_formats([b"garbage", None, b"{}"], "f")


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
    ("line", "expected"),
    [
        ({"id": "mine"}, "mine"),
        ({"id": 12, "query": ""}, 12),
        ({"id": True}, None),
        ({"id": {"a": 1}}, None),
        ({"id": "\ud800"}, None),
        (b'{"query": "caf\xe9", "id": 8.0}', 8.0),
        (b'\xef\xbb\xbf{"text": NaN, "id": "a"}', "a"),
        (b'{"query": "a", "query": "b", "id": "a"}', "a"),
        (b'{"id": "caf\xe9"}', None),
        (b'{"id": 1, "id": 2}', None),
        (b"no json", None),
        (b"[]", None),
        (b'"id"', None),
    ],
)
def test_the_failure_of_a_line_carries_the_lines_own_id(line, expected):
    assert parse(line).id == expected


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
        (["a"], "invalid_document", "documents.1: Input should be a text or an object"),
        ({"video": "a"}, "invalid_document", "documents.1.video: Input should be an object"),
        ({"image": {"url": "a"}}, "invalid_document", "image: Input should be a URI or a list of"),
        ({"text": "a", "title": "b"}, "invalid_document", "documents.1.title: there is no such"),
        ({"text": "a", "x" * 9999: "b"}, "invalid_document", "documents.1.x"),
        ("\ud800", "invalid_text", "documents.1: holds half a surrogate pair"),
        ({"text": "a", "id": "\ud800"}, "invalid_text", "documents.1.id: holds half a surrogate"),
        ({"frames": ["ftp://h/a.png"]}, "invalid_document", "documents.1.video.frames.0: expected"),
        ({"frames": [], "text": "a"}, "invalid_document", "documents.1.video.frames: Tuple should"),
        (
            {"frames": ["a.png"], "video": {"frames": ["b.png"]}},
            "invalid_document",
            "documents.1: `frames` and `video` mean the same",
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


@pytest.mark.parametrize(
    ("document_id", "expected"), [("d1", "d1"), (7, 7), (True, None), ("\ud800", None)]
)
def test_the_failure_of_a_document_carries_its_own_id(document_id, expected):
    (failure,) = parse({"query": "q", "documents": [{"id": document_id, "text": 1}]}).failures

    assert failure.id == expected


def test_an_image_of_a_catalog_carries_no_metadata():
    piece = image_of(1, b'{"image": "a.png", "metadata": {"a": 1}}', queries=2)

    assert piece.failures[0].message == "metadata: a row has no place for it"


def test_a_request_from_python_is_refused_with_its_reason():
    with pytest.raises(ItemError, match="the query is empty: give a text or an image"):
        slice_of(1, {"query": "", "documents": ["a"]}, max_documents=9)


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


def test_an_image_without_an_id_is_named_without_what_signs_its_address():
    signed = Document(image=("https://shop.com/a.jpg?X-Amz-Signature=secret",))
    assert image_id(signed) == "https://shop.com/a.jpg"
    assert image_id(Document(image=("s3://shop/what?.jpg",))) == "s3://shop/what?.jpg"
    assert image_id(Document(id=7, image=("https://shop.com/a.jpg?x",))) == 7


@pytest.mark.parametrize(
    ("document", "address"),
    [
        ({"id": 1, "image": "ftp://h/a?id=1"}, "ftp://h/a?id=1"),
        ({"image": ["a.png", "ftp://user:SECRET@h/b?sig=SECRET"]}, "ftp://h/b"),
        ({"image": "https://user:SECRET@host:port/b"}, "https://host:port/b"),
        ({"frames": ["a.png", "ftp://h/c"]}, "ftp://h/c"),
        ({"video": {"frames": ["ftp://h/d"]}}, "ftp://h/d"),
        ({"image": "s3://b/\udcff"}, "s3://b/%FF"),
        ({"image": "a", "title": "ftp://h/e"}, None),
        ({"image": 5}, None),
        ({"image": [5]}, None),
        ({"image": " "}, None),
        (5, None),
    ],
)
def test_the_failure_of_a_document_has_the_address_that_is_wrong(document, address):
    (failure,) = parse({"query": "q", "documents": [document]}).failures
    assert failure.image == address
    assert "SECRET" not in failure.model_dump_json()


@pytest.mark.parametrize("own_id", ["8", "8.0", '"8"', "123456789012345678901234567890", "-3"])
def test_an_id_goes_from_its_line_to_the_output_as_it_was_written(own_id):
    line = f'{{"id": {own_id}, "query": "q", "documents": [{{"id": {own_id}, "text": "a"}}, 5]}}'
    piece = parse(line.encode())
    stored = Slice.model_validate_json(dump_slices([piece]))

    out = dump_line(output_line(cancelled(stored), None, top_n=None)).decode()

    assert out.count(f'"id":{own_id},') == 2


@pytest.mark.parametrize("own_id", ["true", "NaN", "1e999", "8.5", "[8]"])
def test_what_is_no_id_costs_its_line(own_id):
    line = f'{{"id": {own_id}, "query": "q", "documents": ["a"]}}'
    assert parse(line.encode()).failures[0].code in ("invalid_request", "malformed_line")


def test_null_is_absent_by_any_name():
    nulls = dict.fromkeys(("id", "top_n", "instruction", "metadata", "user", "top_k"))
    assert parse({**nulls, **GOOD}).failures == parse(GOOD).failures == []
    assert only_failure({**GOOD, "user": "me"}).code == "invalid_request"
    assert only_failure({**GOOD, "query": None}).message == "query: Field required"


def test_a_whole_float_is_a_number_of_results():
    assert parse({**GOOD, "top_n": 1.0}).top_n == 1
    for wrong in (1.5, True, "1"):
        assert only_failure({**GOOD, "top_n": wrong}).code == "invalid_request"


@pytest.mark.parametrize(
    "line",
    [
        b'{"id": 1, "id": 2, "query": "q", "documents": ["a"]}',
        b'{"query": "q", "documents": [{"text": "a", "id": 1, "id": 1}]}',
    ],
)
def test_a_key_that_stands_twice_costs_its_line(line):
    failure = only_failure(line)

    assert (failure.code, failure.message) == (
        *("malformed_line", "not JSON: the key 'id' stands twice in an object"),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"custom_id": "1", "method": "POST", "url": "/v1", "body": {}}, "a batch file of another"),
        ({"custom_id": "1", "params": {}}, "a batch file of another API"),
        ({"Query": "q", "Documents": []}, "its first line has Query, Documents"),
        ({"prompt": "q", "completion": "a"}, "its first line has prompt, completion"),
    ],
)
def test_lines_of_something_else_are_refused_as_a_whole(line, words):
    with pytest.raises(UsageError, match=rf"f holds no requests: .*{words}.*: write one JSON"):
        refuse_other_formats([json.dumps(line).encode()] * 3, "f")
