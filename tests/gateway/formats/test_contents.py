"""Queries and documents of all shapes become contents of a line of input."""

from __future__ import annotations

import pytest

from rerankfleet.producer.gateway.errors import InvalidField, as_param
from rerankfleet.producer.gateway.formats.contents import content_of, documents_of

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
URL = "https://shop/a.jpg"
MOST = 100


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text", "text"),
        ({"text": "a", "id": 1}, {"text": "a", "id": 1}),
        ({"image": URL}, {"image": URL}),
        ({"image": PNG}, {"image": PNG}),  # a line of input knows bare base64 too
        ({"image": [URL, PNG]}, {"image": [URL, PNG]}),
        ({"image": [URL, 5, None]}, {"image": [URL, 5, None]}),  # refused later, with its place
        ({"content": "text"}, "text"),
        ({"content": [{"type": "text", "text": "a"}]}, {"text": "a"}),
        (
            {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"text": "a\nb"},
        ),
        (
            {"content": [{"type": "image_url", "image_url": {"url": URL}}]},
            {"image": [URL]},
        ),
        ({"content": [{"type": "image", "image": URL}]}, {"image": [URL]}),
        (
            {"content": [{"type": "video", "video": [URL, URL]}]},
            {"video": {"frames": [URL, URL]}},
        ),
        (
            {"content": [{"type": "video", "video": [URL], "fps": 0.5, "uuid": "v1"}]},
            {"video": {"frames": [URL], "fps": 0.5}},
        ),
        (
            {"content": [{"type": "video", "video": [URL], "fps": None}]},
            {"video": {"frames": [URL]}},
        ),
        (
            {
                "content": [
                    {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}, "uuid": "1"},
                    {"type": "text", "text": "a", "image_url": None},
                ]
            },
            {"text": "a", "image": [PNG]},
        ),
        ({"content": "a", "id": 1, "metadata": {}}, {"text": "a", "id": 1, "metadata": {}}),
        (
            {"id": "d", "content": [{"type": "image", "image": URL}]},
            {"id": "d", "image": [URL]},
        ),
        ({"text": "a", "image": None, "content": None, "id": None}, {"text": "a"}),
        ({"content": "a", "text": None, "id": None}, "a"),
        ({"frames": [URL]}, {"frames": [URL]}),  # a line of input knows it too
        (17, 17),  # refused later, with all else that is no content
    ],
)
def test_a_content_of_any_client_is_understood(content, expected):
    assert content_of(content, ("query",)) == expected


@pytest.mark.parametrize(
    ("document", "param", "says"),
    [
        ({"content": [{"type": "text"}]}, "documents[0].content[0]", "its text is missing"),
        ({"content": []}, "documents[0].content", "expected a list of parts"),
        ({"content": [5]}, "documents[0].content[0]", "expected a part of type text"),
        ({"content": [{"type": ["a"]}]}, "documents[0].content[0]", "expected a part"),
        ({"content": [{"type": "audio"}]}, "documents[0].content[0]", "expected a part"),
        ({"content": "a", "text": "b"}, "documents[0]", "`content` stands alone"),
        (
            {"content": [{"type": "video_url", "video_url": {"url": "https://a/b.mp4"}}]},
            "documents[0].content[0]",
            "video files are not read",
        ),
        (
            {"content": [{"type": "video", "video": [URL]}] * 2},
            "documents[0].content[1]",
            "a content has one video",
        ),
        (
            {"content": [{"type": "image", "image": URL, "min_pixels": 50_176}]},
            "documents[0].content[0].min_pixels",
            "there is no such field",
        ),
        (
            {"content": [{"type": "image_url", "image_url": {"url": URL, "fps": 1}}]},
            "documents[0].content[0].image_url.fps",
            "there is no such field",
        ),
        (
            {"content": [{"type": "text", "text": "a", "fps": 1}]},
            "documents[0].content[0].fps",
            "there is no such field",
        ),
    ],
)
def test_an_error_names_its_place(document, param, says):
    with pytest.raises(InvalidField, match=says.replace("[", r"\[")) as caught:
        documents_of([document], MOST)
    assert as_param(caught.value.path) == param
    assert caught.value.hint


def test_a_bare_content_instead_of_documents_is_refused():
    """Given what some servers read as two documents, and others as one."""
    with pytest.raises(InvalidField, match="expected a list of documents"):
        documents_of(
            {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, MOST
        )


def test_of_too_many_documents_none_is_read():
    many = [{"content": "never read"}] * (MOST + 1)
    assert documents_of(many, MOST) is many
