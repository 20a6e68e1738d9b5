"""Contents: text, images and frames, and what is wrong with them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from rerankfleet.shared.content.content import FIELDS_MAX, Content, Document, Video
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.content.uris import URIS_MAX
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.lines import (
    parse_line,
    valid_document,
)
from rerankfleet.shared.formats.shard_files import dump_slices
from tests.support.lines import DATA_URI, GOOD, only_failure, parse


def test_frames_are_short_for_a_video_of_them():
    frames, video = {"frames": ["1.png", "2.png"]}, {"video": {"frames": ["1.png", "2.png"]}}

    short, long = (parse({"query": q, "documents": [q, "a"]}) for q in (frames, video))

    assert short == long
    assert short.query.video == Video(frames=("1.png", "2.png"))
    nothing = parse({"query": "q", "documents": [{"text": "a", "frames": None}]})
    assert nothing.documents == [Document(text="a")]


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
        *("HTTP://Host/a b.jpg?x=1 2#3", "https://münchen.de/ü", "https://user:pw@host/a"),
        *("S3://bucket/a?b#c%41//../d ", "FILE:///a?b#c", "file://localhost/a", "file:/a"),
        *("a://b/../c.png".replace("a:", "x/a:"), "a?b.png", "a#b.png ", "\ta\n;.png", " a:b"),
    ],
)
def test_an_image_is_named_by_a_uri_or_a_path(uri):
    assert parse({"query": {"image": uri}, "documents": ["a"]}).query.image == (uri,)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (" https://host/a b \n", "https://host/a b"),
        ("\tfile:///a ", "file:///a"),
        (" s3://bucket/a ", "s3://bucket/a "),  # a key may end with a blank
        ("a\udcff?#%41.png", "file:a%FF%3F%23%2541.png"),
        ("/a b/\udce4.png", "file:///a b/%E4.png"),
        ("file:///a%41/\udce4", "file:///a%41/%E4"),
        ("https://host/\udce4", "https://host/%E4"),
    ],
)
def test_blanks_around_an_address_go_and_names_that_are_not_utf8_become_text(written, kept):
    piece = parse({"query": {"image": written}, "documents": [{"image": [written]}]})

    assert piece.query.image == piece.documents[0].image == (kept,)
    assert Slice.model_validate_json(dump_slices([piece])) == piece


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ftp://host/a.jpg", "expected s3://, https://"),
        ("s3://bucket", "incomplete or malformed"),
        ("s3:///key", "incomplete or malformed"),
        ("https://", "incomplete or malformed"),
        ("https:///a?token=secret", "it names no host"),
        ("https://host:secret/", "its host is malformed"),
        ("https://ho st/secret", "a character that no host has"),
        ("https://host:70000/secret", "its port is out of range"),
        ("https://straße.de/secret", "is read in two ways"),
        ("https://host/a\nhttps://host/secret", "it holds a line break"),
        ("https://host/a\0secret", "incomplete or malformed"),
        ("s3://key:secret@bucket/a", "has no user and password"),
        ("s3://bucket/\udcff", "half a surrogate pair"),
        ("https://host/\ud800", "half a surrogate pair"),
        ("file://host/a", "incomplete or malformed"),
        ("", "incomplete or malformed"),
        ("  ", "incomplete or malformed"),
        ("a\0b", "incomplete or malformed"),
        ("a\ud800b", "half a surrogate pair"),
        ("https://host/" + "secret" * 2000, "longer than 8192 characters"),
        ("data:secret", "there is no comma"),
        ("data:image/png;base64", "there is no comma"),
        ("data:" + "secret" * 200 + ",a", "there is no comma"),
        ("data:image/png;base64, \n", "nothing after its comma"),
        ("data:image/png,secret\ud800", "half a surrogate pair"),
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


@pytest.mark.parametrize(
    "content",
    [
        {"image": [0] * 100_000},
        {"frames": [0] * 100_000},
        {"video": {"frames": ["a.png"], **dict.fromkeys(map(str, range(100_000)), 0)}},
        {"text": "a", **dict.fromkeys(map(str, range(100_000)), 0)},
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
