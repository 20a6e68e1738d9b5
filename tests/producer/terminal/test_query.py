"""`rerank query`: what is sent of a command line, and what is shown of the answer."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from rerankfleet.producer.terminal.query import RequestBuilder, ranking
from rerankfleet.shared.errors import UsageError
from tests.support.drawn import png

OK, USAGE, PARTIAL = 0, 2, 3
SCENES = Path(__file__).parents[3] / "producer" / "example" / "scenes"
PROVENANCE = {"model": "org/model", "dtype": "fp32", "device": "cpu"}


@pytest.fixture
def request_() -> RequestBuilder:
    """A request that may carry a few small images."""
    return RequestBuilder(bytes_max=20_000)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "a chair.PNG"
    path.write_bytes(png(1))
    return path


# ---- what is sent -------------------------------------------------------------------------------


def test_a_query_is_words_images_or_both(request_, image):
    assert request_.query("red", []) == {"text": "red"}
    assert set(request_.query("red", [str(image)])) == {"text", "image"}
    assert set(request_.query(None, ["s3://b/k.jpg"])) == {"image"}
    with pytest.raises(UsageError, match="the query is empty: write what to search for"):
        request_.query("  ", [])


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("DATA:image/png;charset=utf-8;base64,iVBO\nRw==", "DATA:image/png"),
        (base64.b64encode(png(1)).decode(), "base64"),
    ],
)
def test_an_image_in_base64_travels_as_it_is(request_, image, name):
    request_.add_image(image)
    (candidate,) = request_.candidates
    assert candidate.document["image"] == image
    assert candidate.name == name


def test_a_local_image_travels_inside_the_request(request_, image):
    request_.add_image(str(image))

    (candidate,) = request_.candidates
    head, _, data = candidate.document["image"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == image.read_bytes()
    assert candidate.document["id"] == str(image)
    assert candidate.name.startswith("…")
    assert candidate.name.endswith("/a chair.PNG")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://b/a.png",
        "https://h/a.png?X-Amz-Signature=secret",
        "file:///a.png",
        "data:image/png;base64,AAAA",
    ],
)
def test_a_uri_is_left_to_the_workers_and_shown_without_what_signs_it(request_, uri):
    request_.add_image(uri)

    (candidate,) = request_.candidates
    assert candidate.document["image"] == uri
    assert candidate.name == uri.partition("?")[0].partition(";")[0]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:SECRET@h/a.png?id=1&token=SECRET", "https://h/a.png?id=1"),
        ("HTTP://user:SECRET@h/a.png?id=2", "HTTP://h/a.png?id=2"),
        ("s3://b/a?b#c.png", "s3://b/a?b#c.png"),
        ("FILE:///a?b.png", "FILE:///a?b.png"),
    ],
)
def test_a_candidate_is_named_by_what_tells_it_apart(request_, uri, shown):
    request_.add_image(uri)

    (candidate,) = request_.candidates
    assert (candidate.document["id"], candidate.name) == (shown, shown)
    assert candidate.document["image"] == uri


@pytest.mark.parametrize("name", ["a?b#c.png", "a%41.png", "file:a.png", "x:/a.png", "\udcff.png"])
def test_a_file_of_any_name_travels_under_that_name(request_, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(png(1))

    request_.add_image(name)

    (candidate,) = request_.candidates
    assert candidate.document["image"].startswith("data:")
    assert candidate.document["id"] in (name, "file:%FF.png")
    json.dumps(candidate.document).encode()
    candidate.document["id"].encode()


def test_images_that_no_request_can_carry_are_refused_with_a_way_out(request_, tmp_path):
    small, large = tmp_path / "small.jpg", tmp_path / "large.jpg"
    small.write_bytes(b"x" * 7_000)
    large.write_bytes(b"x" * 16_000)

    with pytest.raises(UsageError, match=r"large.jpg has 0.0 MiB, at most .* s3:// or https://"):
        RequestBuilder(bytes_max=20_000).add_image(str(large))
    request_.add_image(str(small))
    request_.add_image(str(small))
    with pytest.raises(UsageError, match=r"a query takes .* of images at most.*--catalog"):
        request_.add_image(str(small))


def test_an_image_that_is_not_there_is_named(request_, tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UsageError, match=f"the image {path} cannot be read"):
            request_.add_image(str(path))


def test_a_file_holds_a_candidate_a_line(request_, tmp_path):
    path = tmp_path / "docs.txt"
    path.write_text(
        'first\n\n  {"id": 7, "text": "second", "image": "s3://b/k.png"}\r\n[third]\n{"image": 5}'
    )

    request_.add_file(str(path))

    assert [c.document for c in request_.candidates] == [
        {"text": "first"},
        {"id": 7, "text": "second", "image": "s3://b/k.png"},
        {"text": "[third]"},
        {"image": 5},  # wrong, as its outcome will say
    ]
    assert [c.name for c in request_.candidates] == [
        "first",
        "[7]  s3://b/k.png  second",
        "[third]",
        "5",
    ]


def test_standard_input_is_a_file_too(request_, monkeypatch):
    stdin = io.BytesIO("\ufeffone\nzwei ü\n".encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stdin))

    request_.add_file("-")

    assert [c.document["text"] for c in request_.candidates] == ["one", "zwei ü"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'good\n{"text": ', "line 2 is not valid JSON: write text, or"),
        (b"good\nna\xefve", "line 2 is not UTF-8 at byte 2"),
        (b"x" * 20_001, "has more than 20000 bytes: `rerank submit`"),
    ],
)
def test_a_bad_file_is_refused(request_, tmp_path, data, words):
    path = tmp_path / "docs.txt"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=words):
        request_.add_file(str(path))


# ---- what is shown ------------------------------------------------------------------------------


def answer(*results: dict[str, Any], errors: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """A line of output."""
    return {"id": None, "results": list(results), "errors": list(errors), "provenance": PROVENANCE}


def result(index: int, score: float, margin: float, **facts: Any) -> dict[str, Any]:
    """A scored candidate."""
    return {"index": index, "relevance_score": score, "margin": margin} | facts


def shown(line: dict[str, Any], request: RequestBuilder, width: int = 100) -> list[str]:
    """The lines of a ranking on a terminal."""
    out = io.StringIO()
    drawn = ranking(line, request.candidates, request.files)
    Console(file=out, width=width, highlight=False).print(drawn)
    lines = [answer_.rstrip() for answer_ in out.getvalue().splitlines()]
    assert all(cell_len(answer_) <= width for answer_ in lines)
    return lines


@pytest.fixture
def three(request_) -> RequestBuilder:
    """Three candidates, one of them with what a terminal should not be sent."""
    for text in ("zero", "one [bold]\x1b[31mred[/]\nbreak", "two " + "long " * 90):
        request_.add_text(text)
    return request_


def test_results_are_shown_by_rank_with_score_and_margin(three):
    line = answer(result(1, 0.992, 4.8), result(0, 0.5, 0.0), result(2, 0.01, -4.6))

    head, *rows, _, last = shown(line, three, 60)

    assert head.split() == ["SCORE", "MARGIN", "CANDIDATE"]
    assert rows[0].split() == [
        "1",
        "███████▉",
        "0.992",
        "+4.80",
        "one",
        "[bold]",
        "[31mred[/]",
        "break",
    ]
    assert rows[1].split() == ["2", "████····", "0.500", "+0.00", "zero"]
    assert rows[2].endswith("…")
    assert last == "org/model · fp32 · cpu"


def test_sub_scores_have_columns_and_none_is_no_number(three):
    explained = {"visual_match": None, "text_alignment": 0.9, "consistency": 0.8, "channels": {}}

    head, row, *_ = shown(answer(result(0, 0.9, 2.2, explain=explained)), three)

    assert head.split() == ["SCORE", "MARGIN", "VISUAL", "WORDS", "AGREE", "CANDIDATE"]
    assert row.split()[-4:] == ["–", "0.900", "0.800", "zero"]


def test_an_image_is_shown_with_its_size_and_what_was_done(three):
    facts = {
        "images": [{"original": (640, 480), "used": (640, 480), "quality": 0.4}],
        "quality": 0.4,
        "plain_margin": 3.1,
    }

    _, row, cut, *_ = shown(
        answer(result(0, 0.9, 2.2, **facts), result(1, 0.1, -2.0, truncated_tokens=12)), three
    )

    assert row.split("zero")[1].strip() == "640 × 480 px, lowered for quality 0.40"
    assert cut.endswith("12 tokens cut off")


def test_what_has_no_score_stands_apart_with_what_to_do(three):
    errors = (
        {"line": 1, "index": 1, "code": "low_quality", "message": "poor", "hint": "sharper"},
        {"line": 1, "index": 2, "code": "not_found", "message": "it is gone", "hint": "look"},
    )

    lines = shown(answer(result(0, 0.5, 0.0), errors=errors), three)

    rejected, failed = lines.index("Rejected: 1"), lines.index("Failed: 1")
    assert rejected < failed
    assert lines[rejected + 1].endswith("poor: sharper")
    assert lines[failed + 1].endswith("it is gone: look")


def test_how_many_were_left_out_is_said(three):
    assert shown(answer(result(0, 0.5, 0.0)), three)[-1].startswith("2 more with a lower score")


def test_a_request_without_any_score_still_says_why(three):
    errors = tuple({"line": 1, "index": i, "code": "failed", "message": "no"} for i in range(3))

    lines = shown(answer(errors=errors), three)

    assert "Failed: 3" in lines
    assert not any("SCORE" in line for line in lines)


# ---- against a real stack -----------------------------------------------------------------------

MODEL = ("--model", "pocket-vl", "--image-preset", "reference")


def test_a_candidate_without_a_score_names_its_line_of_the_file(request_, tmp_path):
    """Given a file with an empty line above the bad one."""
    path = tmp_path / "docs.txt"
    path.write_text('good\n\n{"id": "b", "image": 5}\n')
    request_.add_text("typed")
    request_.add_file(str(path))
    line = {
        "results": [],
        "errors": [
            {"index": index, "code": "invalid_document", "message": "wrong", "hint": ""}
            for index in (0, 2)
        ],
        "provenance": None,
    }

    lines = [" ".join(line.split()) for line in shown(line, request_, width=200)]

    assert "typed wrong" in lines
    assert "line 3 of docs.txt: [b] 5 wrong" in lines
    assert f"3 lines of {path}, 1 of them empty: 3 candidates, 2 without a score" in lines


def test_one_candidate_is_counted_as_one(request_, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("only\n")
    request_.add_file(str(path))
    line = {"results": [], "errors": [{"index": 0, "code": "x", "message": "m", "hint": ""}]}
    lines = shown(line | {"provenance": None}, request_, width=200)
    assert any("1 line of" in one and "1 candidate, 1 without a score" in one for one in lines)


@pytest.mark.parametrize(
    ("text", "says"), [("", "0 lines of"), ("\n \n", "2 lines of .*, 2 of them empty")]
)
def test_a_file_without_candidates_says_what_it_holds(request_, tmp_path, text, says):
    path = tmp_path / "docs.txt"
    path.write_text(text)
    request_.add_file(str(path))

    with pytest.raises(UsageError, match=rf"there are no candidates \({says}"):
        request_.require_candidates()


def test_words_and_images_are_ranked_by_the_fleet(command, tmp_path):
    # given images here, a broken one, and a document on standard input
    broken = tmp_path / "broken.jpg"
    broken.write_text("no image")
    scenes = sorted(SCENES.glob("*.jpg"))[:2]
    images = [part for path in (*scenes, broken) for part in ("--image", path)]
    # when they are ranked with their sub-scores
    arguments = ("query", "a red heart", "--doc", "a heart", *images, "--file", "-", *MODEL)
    done = command(*arguments, "--explain", stdin='{"id": "s", "text": "bread"}\n', columns=160)
    # then the good ones have scores and the broken one says what is wrong with it
    assert done.returncode == PARTIAL
    assert done.stderr == ""
    head, *rows = done.stdout.split("\n\n")[0].splitlines()
    assert "VISUAL" in head
    assert len(rows) == 4
    assert sum(" px" in row for row in rows) == 2
    assert "Failed: 1" in done.stdout
    assert "broken.jpg" in done.stdout


def test_machines_get_the_answer_as_json(command):
    done = command(
        "query", "bread", "--doc", "bread", "--doc", "iron", "--top-n", 1, "--json", *MODEL
    )

    assert (done.returncode, done.stderr) == (OK, "")
    answer_ = json.loads(done.stdout)
    assert len(answer_["results"]) == 1
    assert answer_["provenance"]["model"] == "pocket-vl"


def test_images_may_be_rejected_for_their_quality(command, tmp_path):
    path = tmp_path / "blurred.png"
    path.write_bytes(png(1, sigma=9))

    done = command(
        *("query", "squares", "--image", path, "--doc", "squares", *MODEL),
        *("--quality-action", "reject", "--quality-threshold", 0.9),
    )

    assert done.returncode == PARTIAL
    assert "Rejected: 1" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("query", "q", *MODEL), "there are no candidates: give some with --doc"),
        (("query", "--doc", "a", *MODEL), "the query is empty"),
        (("query", "q", "--doc", "a"), "only the demonstration model pocket-vl"),
        (("query", "q", "--image", "/none.png", *MODEL), "/none.png cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(command, arguments, words):
    done = command(*arguments)

    assert (done.returncode, done.stdout) == (USAGE, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
