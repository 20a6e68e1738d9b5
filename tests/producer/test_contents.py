"""Queries and candidates, from lines and from tables."""

from __future__ import annotations

import gzip
import io

import pytest

from rerankfleet.producer.contents import read_contents
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import UsageError

TABLE = 'ID, Text ,price,IMAGE\n8,a chair,3,\n\n,"two\nlines",4,s3://b/k.jpg\n'
FIELDS = [
    (2, {"id": "8", "text": "a chair"}),
    (4, {"text": "two\nlines", "image": "s3://b/k.jpg"}),
]


def contents(path, **options):
    """What is read of a file, without its blank lines."""
    found = list(read_contents(str(path), None, 10_000, **options))
    return [(number, content) for number, content in found if content is not None]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("q.csv", TABLE.encode()),
        ("q.CSV", b"\xef\xbb\xbf" + TABLE.encode()),
        ("q.csv.gz", gzip.compress(TABLE.encode("utf-16"))),
        ("q.csv", TABLE.replace(",", ";").encode()),
        ("q.tsv", TABLE.replace(",", "\t").encode()),
    ],
    ids=["plain", "mark", "packed utf-16", "semicolons", "tabs"],
)
def test_a_table_is_read_row_by_row(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)

    assert contents(tmp_path / name) == FIELDS


def test_parquet_is_read_with_its_own_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"Text": ["a", "b"], "Id": [8.0, None], "other": [1, 2]})
    parquet.write_table(table, tmp_path / "q.parquet")

    assert contents(tmp_path / "q.parquet") == [(1, {"text": "a", "id": 8.0}), (2, {"text": "b"})]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lines_are_texts_and_contents_in_any_encoding(tmp_path, encoding):
    text = 'Stühle\n\n \u3000\n{"text": "b", "id": 8.0}\r\n'
    (tmp_path / "q.txt").write_bytes(gzip.compress(text.encode(encoding)))

    assert contents(tmp_path / "q.txt") == [(1, "Stühle"), (4, {"text": "b", "id": 8.0})]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("q.csv", b"title,id\na,1\n", "has no column 'text' or 'image', only title, id"),
        ("q.csv", b"text,Text \na,b\n", "has the column 'text' twice: 'text' and 'Text ', columns"),
        ("q.csv", b'text,id\na,1\nb,"x\n', "query 3: the quotation mark of line 3 is never closed"),
        ("q.csv", b"text,id\na\n", "query 2: 1 columns, expected 2"),
        ("q.csv", b"text,id\nna\xefve,2\n", "query 2: not UTF-8 at byte 2 of line 2"),
        ("q.csv", b"PK\3\4" + bytes(40), "seems to be a ZIP archive, expected CSV"),
        ("q.txt", b"id,text\n1,a\n", "seems to be CSV: its first line names columns"),
        ("q.json", b'[\n"a",\n"b"\n]\n', "seems to be a JSON array: write its values one a line"),
        ("q.json", b'[{"text": "a"}]', "seems to be a JSON array"),
        ("q.txt", b"\xff\xd8\xff\xe0JFIF", "seems to be a JPEG image, expected lines of text"),
        (
            "q.json",
            b'["a red chair", {"text": "b"}]',
            "seems to be a JSON array",
        ),
        ("q.json", b'\xef\xbb\xbf[\r\n  "a red chair"\r\n]', "seems to be a JSON array"),
        ("q.txt", b"a\nna\xefve\n", "query 2 is not UTF-8 at byte 2"),
        (
            "q.txt",
            b'{"id": 1, "id": 2, "text": "a"}',
            "query 1 is not valid JSON.*'id' stands twice",
        ),
        ("q.txt", b"x" * 10_001, "is larger than"),
        ("q.csv", b"text\n" + b"x\n" * 10_000, "is larger than"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)

    with pytest.raises(UsageError, match=words):
        contents(tmp_path / name, word="query")


def test_a_uri_is_read_where_it_is_allowed(objects, tmp_path):
    path = tmp_path / "allowed" / "q.txt"
    path.parent.mkdir()
    path.write_text("a\n")

    assert list(read_contents(file_uri(path), objects, 100)) == [(1, "a")]


def test_standard_input_has_no_name_and_so_is_lines(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"a, b\n")))

    assert contents("-") == [(1, "a, b")]


@pytest.mark.parametrize("text", ["[1] citation", "[a, b]", "[red] chair"])
def test_a_text_may_begin_with_a_bracket(tmp_path, text):
    path = tmp_path / "q.txt"
    path.write_text(f"{text}\nchair\n")

    assert list(read_contents(str(path), None, 10_000)) == [(1, text), (2, "chair")]
