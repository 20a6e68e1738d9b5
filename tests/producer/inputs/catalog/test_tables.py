"""What a table's header and quotation marks mean for its job."""

from __future__ import annotations

import codecs
import gzip

import pytest

from rerankfleet.producer.inputs import catalog
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats import sources
from tests.support.catalogs import QUERIES, do, expected, manifest

PLACES = ["path", "uri"]


@pytest.fixture(params=PLACES)
def table(request, tmp_path):
    """`table("a.csv", data)`: where the table is, as a path, or as a URI for the coordinator."""

    def write(name: str, data: bytes) -> str:
        path = tmp_path / "allowed" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return str(path) if request.param == "path" else file_uri(path)

    return write


ROWS = "ID , Image,Price,TEXT\r\n8,s3://pairs/a.jpg,3,Oak\r\n\r\n9,s3://pairs/b.jpg,4,\r\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", ROWS.encode()),
        ("a.csv", ROWS.encode("utf-8-sig")),
        ("a.csv", codecs.BOM_UTF16_LE + ROWS.encode("utf-16-le")),
        ("a.csv.gz", gzip.compress(ROWS.encode("utf-16"))),
        ("a.csv", ROWS.replace("ID", "\u200bＩＤ\u00a0").encode()),
        ("a.csv", ROWS.replace(",", ";").encode()),
        ("a.tsv", ROWS.replace(",", "\t").encode()),
        ("a.tsv.gz", gzip.compress(ROWS.replace(",", "\t").encode())),
    ],
    ids=["plain", "mark", "utf-16", "packed utf-16", "wide", "semicolons", "tabs", "packed tabs"],
)
def test_columns_are_known_whatever_their_case_blanks_and_delimiter(
    api, control, table, name, data
):
    job_id = api.submit_catalog(table(name, data), QUERIES)

    do(control, job_id)

    assert list(api.results(job_id)) == [
        *expected("Oak s3://pairs/a.jpg", image_id="8", line=2),
        *expected("s3://pairs/b.jpg", image_id="9", line=4),
    ]


def test_columns_of_parquet_are_known_too_and_ids_keep_their_type(api, control, table, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"Id": [8.0, 9.0], " IMAGE ": ["s3://pairs/a.jpg", "s3://pairs/b.jpg"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    job_id = api.submit_catalog(table("b.parquet", (tmp_path / "a.parquet").read_bytes()), QUERIES)

    do(control, job_id)

    ids = [row["image_id"] for row in api.results(job_id)]
    assert ids == [8.0] * 3 + [9.0] * 3
    assert {type(own) for own in ids} == {float}


@pytest.mark.parametrize(
    "names", [["image", "id", "Image"], ["image", "image"], ["image", "id", "ID "]]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_stands_twice_is_refused_and_named(api, tmp_path, names, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "csv":
        path.write_text(",".join(names) + "\n" + ",".join("abc"[: len(names)]) + "\n")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = [pyarrow.array(["a"])] * len(names)
        parquet.write_table(pyarrow.Table.from_arrays(columns, names=names), path)
    with pytest.raises(UsageError, match=rf"has the column '\w+' twice: '{names[0]}|'id'.* and "):
        api.submit_catalog(path, QUERIES)


@pytest.mark.parametrize(
    ("rows", "error", "opened"),
    [
        (b'b,"open\ns3://pairs/c.jpg,x\ns3://pairs/d.jpg,y\n', 3, "line 3 is never closed"),
        (b'"b\nc","open\ns3://pairs/d.jpg,y\n', 3, "line 4 is never closed"),
        (b'"b" is,x\ns3://pairs/c.jpg,x\n', 3, "opens at line 3"),
    ],
)
def test_behind_a_wrong_quotation_mark_no_image_is_invented(
    api, control, table, rows, error, opened
):
    job_id = api.submit_catalog(table("a.csv", b"image,text\ns3://pairs/a.jpg,\n" + rows), QUERIES)

    do(control, job_id)

    *good, bad = api.results(job_id)
    assert good == expected("s3://pairs/a.jpg", line=2)
    assert (bad["error"]["line"], bad["error"]["code"]) == (error, "malformed_line")
    assert opened in bad["error"]["message"]
    assert "the rest of the file was not read" in bad["error"]["message"]
    progress = api.status(job_id).progress
    assert (progress.scored, progress.errors, progress.total) == (3, 1, 4)
    assert manifest(control, job_id).errors == 1


def test_a_cell_as_long_as_a_row_may_be_is_one_cell(api, control, table):
    """Given a text of two hundred thousand characters with lines that look like rows."""
    text = "s3://pairs/never.jpg,a\r\n" * 9000
    data = f'text,image\r\n"{text}",s3://pairs/a.jpg\r\n,s3://pairs/b.jpg\r\n'
    job_id = api.submit_catalog(table("a.csv", data.encode()), QUERIES)

    do(control, job_id)

    assert list(api.results(job_id)) == [
        *expected(f"{text} s3://pairs/a.jpg", image_id="s3://pairs/a.jpg", line=2),
        *expected("s3://pairs/b.jpg", line=9003),
    ]


def test_a_first_row_longer_than_what_is_probed_is_read(api, control, table, monkeypatch):
    for module in (sources, catalog):
        monkeypatch.setattr(module, "COPY_BYTES", 10_000)
    data = b'image,text\ns3://pairs/a.jpg,"' + b"x y\n" * 10_000 + b'"\n'
    job_id = api.submit_catalog(table("a.csv", data), QUERIES)

    do(control, job_id)

    assert {row["image_id"] for row in api.results(job_id)} == {"s3://pairs/a.jpg"}


def test_queries_come_from_tables(api, control, listing, tmp_path):
    queries = tmp_path / "q.csv"
    queries.write_text("Text,ID,Image\nred chair,,\nblue chair,blue,\n,,s3://pairs/query.png\n")
    job_id = api.submit_catalog(listing("s3://pairs/a.jpg"), queries)

    do(control, job_id)

    assert list(api.results(job_id)) == [
        row | {"query_id": own}
        for row, own in zip(expected("s3://pairs/a.jpg"), [2, "blue", 4], strict=True)
    ]


def test_queries_whose_ids_many_readers_cannot_tell_apart_are_refused(api, listing):
    for one, other in ((8, "8"), (8, 8.0), ("8", 8.0), (8, 8)):
        queries = [{"text": "a", "id": one}, {"text": "b", "id": other}]
        with pytest.raises(UsageError, match=r"query 2: the id .* is already used"):
            api.submit_catalog(listing("s3://pairs/a.jpg"), queries)


@pytest.mark.parametrize("queries", ["q.txt", b"ab", {"text": "a"}, {"a", "b"}, None, 5])
def test_queries_that_are_no_list_are_refused(api, listing, queries):
    words = "q.txt does not exist" if queries == "q.txt" else "the queries: Input should be a list"
    with pytest.raises(UsageError, match=words):
        api.submit_catalog(listing("s3://pairs/a.jpg"), queries)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"%PDF-1.7\n1 0 obj\n", "seems to be a PDF document, expected a listing"),
        ("a.csv", b"PK\3\4" + bytes(60), "seems to be a ZIP archive, expected CSV"),
        ("a.txt", b"\xff\xd8\xff\xe0\0\x10JFIF\0", "seems to be a JPEG image"),
        ("a.txt", b"id,image\n1,a.png\n", "seems to be CSV: its first line names columns"),
        ("a.txt", b"\n \n", "is not a listing of images"),
        ("a.parquet", b"PK\3\4" + bytes(60), "is not Parquet: it is a ZIP archive"),
        ("a.json", b'\n[\n  {"image": "s3://pairs/a.jpg"}\n]\n', "seems to be a JSON array"),
        ("a.json", b'{\n  "image":\n  "s3://pairs/a.jpg"\n}\n', "seems to be a JSON object over"),
        ("a.txt", b'[{"image": "s3://pairs/a.jpg"}]', "seems to be a JSON array"),
        ("a.txt", b'["a.png", "b.png"]\n', "seems to be a JSON array"),
        ("a.txt", b'{"Image": "a.png"}\n', "there is no image, but 'Image'"),
    ],
)
def test_what_is_no_catalog_is_called_by_its_name(api, table, name, data, words):
    with pytest.raises(UsageError, match=words):
        api.submit_catalog(table(name, data), QUERIES)
