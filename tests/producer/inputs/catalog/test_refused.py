"""What is refused before a catalog becomes a job."""

from __future__ import annotations

import pytest

from rerankfleet.producer.inputs import catalog as module
from rerankfleet.producer.inputs.catalog import read_queries
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.errors import (
    NotAllowed,
    OutputExists,
    UsageError,
)
from tests.support.catalogs import QUERIES, do


def test_what_cannot_be_a_catalog_is_refused_before_any_work(api, bucket, listing, tmp_path):
    folder = tmp_path / "allowed"
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    good = listing("a.png")
    refused = {
        "s3://pairs/none/": "there is no image under s3://pairs/none/",
        "s3://pairs/none.txt": "s3://pairs/none.txt does not exist",
        str(folder): "there is no image under file:///",
        str(tmp_path / "nothing"): "does not exist: check the path",
        str(listing(name="empty")): "is empty: write one image a line",
        str(listing({"query": "q"}, name="jobs")): "is not a listing of images",
        str(listing("a,b", "c,d", name="a.csv")): "has no column 'image', only a, b",
        str(listing(name="empty.csv")): "is empty",
        str(listing("image", "x" * 500_001, name="long.csv")): "line 2 of .* is too long",
        str(listing("no", name="a.parquet")): "is not Parquet",
    }
    for source, words in refused.items():
        with pytest.raises(UsageError, match=words):
            api.submit_catalog(source, QUERIES)
    for words, queries in {
        "the queries has no queries": [],
        "the queries, query 2 is empty": ["a", " "],
        "query 2: the id 1 is already used": ["a", {"id": 1, "text": "b"}],
        "query 1: expected s3://": [{"image": "ftp://b"}],
    }.items():
        with pytest.raises(UsageError, match=words):
            api.submit_catalog(good, queries)
    with pytest.raises(NotAllowed, match="RERANK_ALLOWED_BUCKETS=elsewhere"):
        api.submit_catalog("s3://elsewhere/x/", QUERIES)
    with pytest.raises(NotAllowed, match="RERANK_ALLOWED_ROOTS"):
        api.submit_catalog(tmp_path, QUERIES)
    with pytest.raises(UsageError, match="file is a file: name a folder"):
        api.submit_catalog(good, QUERIES, output=folder / "file")
    with pytest.raises(OutputExists, match="is not empty"):
        api.submit_catalog(good, QUERIES, output=folder)
    with pytest.raises(UsageError, match=r"top_n may be 666,666 here"):
        api.submit_catalog(good, QUERIES, top_n=700_000)
    with pytest.raises(UsageError, match=r"catalog.format is wrong: Input should be 'jsonl' or"):
        api.submit_catalog(good, QUERIES, format="xml")
    assert api.jobs() == []


def test_without_pyarrow_parquet_is_refused_with_what_to_do(api, control, listing, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'rerankfleet\[parquet\]'"):
        api.submit_catalog(listing("PAR1", name="a.parquet"), QUERIES)
    job_id = api.submit_catalog(listing("s3://pairs/a.jpg"), QUERIES, format="parquet")

    do(control, job_id)

    status = api.status(job_id)
    assert (status.state, status.progress.done) == ("paused", 3)
    assert "pyarrow is needed to write Parquet" in status.reason
    monkeypatch.undo()
    api.resume(job_id)
    do(control, job_id)
    assert api.status(job_id).state == "done"


def test_queries_are_read_from_a_file(objects, tmp_path):
    path = tmp_path / "queries.txt"
    path.write_text('\ufeffa chair\n\n  {"id": "x", "image": "a.png"}\r\n{"text": "b"}\n')

    queries = read_queries(path, objects)

    assert queries == [
        Document(id=1, text="a chair"),
        Document(id="x", image=("a.png",)),
        Document(id=4, text="b"),
    ]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"text": "a"', "query 1 is not valid JSON"),
        (b"\xff", "is not UTF-8"),
        (b"\n \n", "has no queries"),
        (b"x" * 200, "is larger than"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_a_query_file_that_is_wrong_is_refused(objects, tmp_path, monkeypatch, data, words):
    monkeypatch.setattr(module, "QUERIES_BYTES", 100)
    path = tmp_path / "queries.txt"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=words):
        read_queries(path, objects)
