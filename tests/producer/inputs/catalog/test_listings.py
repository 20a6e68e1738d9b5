"""Listings of images: lines, CSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pytest

from rerankfleet.producer.inputs import tables
from rerankfleet.producer.inputs.tables import table_lines
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import (
    UsageError,
)
from tests.support.catalogs import IDS, QUERIES, do, expected, manifest


def test_every_line_of_a_listing_has_its_outcomes(api, control, listing):
    """Given lines that name no image, a blank one, and one whose image fails."""
    lines = [
        "s3://pairs/a.jpg",
        {"id": 7, "image": "s3://pairs/b.jpg", "text": "Oak"},
        "",
        "ftp://host/c.jpg",
        {"id": "no", "text": "Oak"},
        b'{"id": "broken"',
        {"image": "data:image/png;base64,AAAA"},
        b"\xff.jpg",
        "s3://pairs/fails.jpg",
    ]
    job_id = api.submit_catalog(listing(*lines), QUERIES)

    do(control, job_id, fails="fails.jpg")

    results = list(api.results(job_id))
    assert results[:6] == [
        *expected("s3://pairs/a.jpg"),
        *expected("Oak s3://pairs/b.jpg", image_id=7, line=2),
    ]
    bad = results[6:10]
    assert [row["error"]["line"] for row in bad] == [4, 5, 6, 7]
    assert [row["line"] for row in bad] == [4, 5, 6, 7]
    assert [row["error"]["code"] for row in bad] == [
        *("invalid_image", "no_image", "malformed_line", "no_id")
    ]
    assert [row["image_id"] for row in bad] == [
        *("ftp://host/c.jpg", "no", None, "data:image/png;base64,… (26 characters)")
    ]
    assert all(row["query_id"] is None for row in bad)
    assert results[10:13] == expected("file:%FF.jpg", line=8)
    failed = results[13:]
    assert [row["query_id"] for row in failed] == IDS
    assert {row["image_id"] for row in failed} == {"s3://pairs/fails.jpg"}
    assert {row["error"]["code"] for row in failed} == {"failed"}
    progress = api.status(job_id).progress
    assert (progress.scored, progress.errors, progress.total) == (9, 7, 16)
    assert manifest(control, job_id).lines == 8


def as_csv(*table: tuple[Any, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(table)
    return out.getvalue().removesuffix("\r\n")


def test_csv_is_read_row_by_row(api, control, listing):
    table = as_csv(
        ("price", "id", "image", "text"),
        (9, "a", "s3://pairs/a.jpg", "Oak,\nround"),
        (9, "", "s3://pairs/b.jpg", ""),
        (9, "c", "", "no image"),
        (),
        (9, "d"),
        (9, "e", "x" * 200_000, ""),
        (9, "f", "s3://pairs/\udcff.jpg", ""),
        (9, "g\udce9", "s3://pairs/g.jpg", ""),
        (9, "h", "s3://pairs/h.jpg", "x" * 200_000),
    )
    job_id = api.submit_catalog(listing(table, name="shop.csv"), QUERIES)

    do(control, job_id)

    results = list(api.results(job_id))
    assert results[:3] == expected("Oak,\nround s3://pairs/a.jpg", image_id="a", line=2)
    assert results[3:6] == expected("s3://pairs/b.jpg", line=4)
    bad = results[6:11]
    assert [(row["error"]["line"], row["error"]["code"]) for row in bad] == [
        (5, "no_image"),
        (7, "malformed_line"),
        (8, "invalid_image"),
        (9, "invalid_image"),
        (10, "malformed_line"),
    ]
    assert bad[1]["error"]["message"] == "2 columns, expected 4, at line 7 of the file"
    assert "longer than 8192 characters" in bad[2]["error"]["message"]
    assert bad[4]["error"]["message"] == "not UTF-8 at byte 3 of line 10"
    assert [row["image_id"] for row in results[11:]] == ["h"] * 3  # a cell as long as it likes
    assert manifest(control, job_id).lines == 8


@pytest.mark.parametrize("place", ["local", "s3"])
def test_parquet_is_read_and_written(api, control, s3, tmp_path, place):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [f"s3://pairs/{n}.jpg" for n in range(30)]
    table = pyarrow.table({"id": list(range(30)), "image": [*images[:29], None], "size": [1] * 30})
    path = tmp_path / "shop.parquet"
    parquet.write_table(table, path, row_group_size=4)
    if place == "s3":
        s3.upload_file(str(path), "pairs", "shop.parquet")
    source = path if place == "local" else "s3://pairs/shop.parquet"
    job_id = api.submit_catalog(source, QUERIES, format="parquet")

    do(control, job_id)

    results = list(api.results(job_id))
    assert results[:-1] == [
        row | {"query_id": str(row["query_id"]), "image_id": str(n)}
        for n, image in enumerate(images[:29])
        for row in expected(image, line=n + 1)
    ]
    assert (results[-1]["image_id"], results[-1]["error"]["code"]) == ("29", "no_image")
    name = manifest(control, job_id).parts[0].name
    assert name == "part-000000000000.parquet"
    part = control.objects.read(control.store.jobs.get(job_id).facts["output"] + name)
    assert parquet.read_table(io.BytesIO(part)).column_names[:4] == [
        *("query_id", "image_id", "margin", "relevance_score")
    ]


@pytest.mark.parametrize("name", ["shop.csv", "shop.csv.gz", "shop.parquet"])
def test_a_table_that_a_uri_names_stays_there_until_its_turn_comes(
    api, control, settings, tmp_path, name
):
    table = as_csv(("image", "text"), ("s3://pairs/a.jpg", "Oak"), ("s3://pairs/b.jpg", ""))
    path = tmp_path / "allowed" / name
    path.parent.mkdir()
    if name.endswith(".parquet"):
        pyarrow_csv = pytest.importorskip("pyarrow.csv")
        from pyarrow import parquet

        parquet.write_table(pyarrow_csv.read_csv(io.BytesIO(table.encode())), path)
    else:
        path.write_bytes(gzip.compress(table.encode()) if name.endswith("gz") else table.encode())
    job_id = api.submit_catalog(file_uri(path), QUERIES)
    pinned = control.store.jobs.get(job_id).spec.input
    assert (pinned.uri, pinned.size) == (file_uri(path), path.stat().st_size)

    do(control, job_id)

    results = list(api.results(job_id))
    first = 1 if name.endswith(".parquet") else 2  # the line of its file
    oak = expected("Oak s3://pairs/a.jpg", image_id="s3://pairs/a.jpg", line=first)
    assert results == [*oak, *expected("s3://pairs/b.jpg", line=first + 1)]


def test_a_table_without_images_pauses_its_job_with_what_to_do(api, control, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "allowed" / "shop.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.table({"photo": ["s3://pairs/a.jpg"]}), path)
    job_id = api.submit_catalog(file_uri(path), QUERIES)

    do(control, job_id)

    status = api.status(job_id)
    assert (status.state, status.progress.fed) == ("paused", 0)
    assert "has no column 'image', only photo" in status.reason


def test_a_row_of_csv_that_never_ends_is_refused(api, listing, monkeypatch):
    monkeypatch.setattr(tables, "CSV_ROW_BYTES", 100_000)
    # given a quotation mark in each line: all of them are one row
    lines = ["image", *(f'{n}","' for n in range(30_000))]
    with pytest.raises(UsageError, match="quotation mark missing"):
        api.submit_catalog(listing(*lines, name="long.csv"), QUERIES)


def test_parquet_that_claims_more_than_memory_holds_is_refused(api, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "PARQUET_MEMORY_BYTES", 512 << 20)
    # given 32 KiB that say 32 MiB four thousand times
    cells = pyarrow.DictionaryArray.from_arrays([0] * 4096, ["x" * (32 << 20)])
    path = tmp_path / "bomb.parquet"
    parquet.write_table(
        pyarrow.table({"image": cells}), path, compression="zstd", dictionary_pagesize_limit=1 << 30
    )
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="takes more than 512 MiB of memory"):
        api.submit_catalog(path, QUERIES)


@pytest.mark.slow
def test_parquet_of_one_row_group_is_read_in_little_memory(control, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "PARQUET_MEMORY_BYTES", 300 << 20)
    # given more in one group than memory holds, and of one row the line would be too long
    text = [f"{n} " * 20_000 for n in range(3500)]
    table = pyarrow.table({"image": ["s3://pairs/a.jpg"] * 3500, "text": text})
    path = tmp_path / "large.parquet"
    parquet.write_table(table, path, use_dictionary=False, write_batch_size=16)
    metadata = parquet.ParquetFile(path).metadata
    assert metadata.num_row_groups == 1
    assert metadata.row_group(0).total_byte_size > tables.PARQUET_MEMORY_BYTES

    with table_lines(str(path), control.objects, 90_000) as lines:
        sizes = [len(line) for line in lines]

    assert len(sizes) == 3500
    assert sum(size < 100 for size in sizes) == 2500
    assert max(sizes) <= 90_000
