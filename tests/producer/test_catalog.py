"""Catalogs: every image meets every query exactly once, whatever is killed on the way."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator import rows
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.producer.inputs import catalog as module
from rerankfleet.producer.inputs import tables
from rerankfleet.producer.inputs.catalog import read_queries
from rerankfleet.producer.inputs.tables import table_lines
from rerankfleet.shared.calibration import PLAIN, relevance_score
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import (
    NotAllowed,
    OutputExists,
    StorageUnavailable,
    UsageError,
    WrongState,
)
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from rerankfleet.shared.formats.shard_files import load_slices, shard_uri
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage import objects as objects_module
from rerankfleet.shared.storage.objects import Objects, file_uri
from tests.support.fleet import MODEL, Worker, margin_of, run, worker_row

QUERIES = ["red chair", {"id": "blue", "text": "blue chair"}, {"image": "s3://pairs/query.png"}]
IDS = [1, "blue", 3]
NAMES = ["red chair", "blue chair", "s3://pairs/query.png"]

Row = dict[str, Any]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Shards of five pairs, four open at the most, and a bucket that may be read."""
    small = {
        "shard_pairs_max": 5,
        "window_min": 4,
        "max_line_bytes": 500_000,
        "allowed_buckets": ("pairs",),
    }
    return settings.model_copy(update=small)


@pytest.fixture
def api(settings: Settings, fleet) -> Client:
    """A client of a fleet that serves one model."""
    fleet.beat(worker_row())
    return Client(settings)


@pytest.fixture
def bucket(s3, monkeypatch) -> list[str]:
    """Twenty-three images in folders of a bucket, and other things; listed four keys a page."""
    monkeypatch.setattr(objects_module, "KEYS_PER_PAGE", 4)
    keys = [f"shop/{n % 3}/{n:02}.{'JPG' if n % 2 else 'png'}" for n in range(23)]
    for key in [*keys, "shop/", "shop/readme.txt", "shop/1/notes.json", "other/x.png"]:
        s3.put_object(Bucket="pairs", Key=key, Body=b"x")
    return [f"s3://pairs/{key}" for key in sorted(keys)]


@pytest.fixture
def listing(tmp_path) -> Callable[..., Path]:
    """`listing("a.png", {"id": 1}, b"raw")` writes a listing, a line each."""

    def write(*lines: Any, name: str = "images.txt") -> Path:
        path = tmp_path / name
        encoded = [line if isinstance(line, bytes | str) else json.dumps(line) for line in lines]
        data = [
            line.encode(errors="surrogateescape") if isinstance(line, str) else line
            for line in encoded
        ]
        path.write_bytes(b"".join(line + b"\n" for line in data))
        return path

    return write


def do(control: Control, job_id: str, **options: Any) -> None:
    """Carry a submitted job to its end."""
    control.hints.feed(job_id)
    run(control, Worker(control, **options))


def manifest(control: Control, job_id: str) -> Manifest:
    uri = manifest_uri(control.store.jobs.get(job_id).facts["output"])
    return Manifest.model_validate_json(control.objects.read(uri))


def expected(image: str, image_id: Any = None) -> list[Row]:
    """The rows of one image."""
    margins = [margin_of(name, image) for name in NAMES]
    return [
        {
            "query_id": query,
            "image_id": image if image_id is None else image_id,
            "margin": margin,
            "relevance_score": relevance_score(margin),
        }
        for query, margin in zip(IDS, margins, strict=True)
    ]


def all_expected(images: list[str]) -> list[Row]:
    return [row for image in images for row in expected(image)]


# ---- from end to end ----------------------------------------------------------------------------


def test_every_image_of_a_prefix_meets_every_query(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)

    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket)
    found = manifest(control, job_id)
    assert (found.lines, found.pairs, found.scored) == (23, 69, 69)
    assert [(part.start, part.end) for part in found.parts][:2] == [(0, 5), (5, 10)]
    assert sum(part.rows for part in found.parts) == 69
    assert found.ranking is None
    assert found.options["catalog"]["count"] == 3
    assert api.status(job_id).progress.total == 69


def test_the_output_goes_where_the_job_says(api, control, bucket, s3):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, output="s3://pairs/out", top_n=2)

    do(control, job_id)

    listed = s3.list_objects_v2(Bucket="pairs", Prefix="out/")["Contents"]
    names = [found["Key"].removeprefix("out/") for found in listed]
    found = manifest(control, job_id)
    assert sorted([*(p.name for p in found.parts), "manifest.json", "ranking.jsonl"]) == names
    assert api.status(job_id).output == "s3://pairs/out/"
    with pytest.raises(OutputExists, match="s3://pairs/out/ holds files already: use --force"):
        api.submit_catalog("s3://pairs/shop/", QUERIES, output="s3://pairs/out/")


@pytest.mark.parametrize("top_n", [1, 4, 100])
def test_the_ranking_is_that_of_all_rows_sorted(api, control, bucket, top_n):
    """Given a catalog in which some images have equal margins."""
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, top_n=top_n)

    do(control, job_id, fails="/02.")

    every = [row for row in api.results(job_id) if "margin" in row]
    uri = control.store.jobs.get(job_id).facts["output"] + "ranking.jsonl"
    ranking = [json.loads(line) for line in control.objects.read(uri).splitlines()]
    assert [line["query_id"] for line in ranking] == IDS
    for line in ranking:
        best = sorted(
            (row for row in every if row["query_id"] == line["query_id"]),
            key=lambda row: -row["margin"],
        )[:top_n]
        assert line["results"] == [
            {name: row[name] for name in ("image_id", "margin", "relevance_score")} for row in best
        ]


def test_equal_margins_are_ranked_in_the_order_of_the_catalog():
    ranking = rows.Ranking(1, top_n=2)
    for line, margin in enumerate([1.0, 2.0, 1.0, 2.0, 1.0], 1):
        ranking.add(
            rows.SliceOutcome(
                line=line,
                metadata={"image_id": f"i{line}"},
                results=[{"index": 0, "margin": margin}],
            )
        )

    (line,) = ranking.lines([Document(id="q", text="q")], PLAIN)

    assert [found["image_id"] for found in line["results"]] == ["i2", "i4"]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_scores_are_calibrated_in_rows_and_ranking(api, control, listing, format):
    images = ["s3://pairs/a.png", "s3://pairs/b.png"]
    options = {"format": format, "top_n": 2, "profile": "ecommerce", "top_p": 0.8}
    job_id = api.submit_catalog(listing(*images), QUERIES, **options)

    feed(job_id, control)
    run(control, Worker(control), until=lambda: bool(list(api.results(job_id, partial=True))))
    partial = list(api.results(job_id, partial=True))
    do(control, job_id)

    rows = list(api.results(job_id))
    ranking = control.objects.read(control.store.jobs.get(job_id).facts["output"] + "ranking.jsonl")
    ranked = [found for line in ranking.splitlines() for found in json.loads(line)["results"]]
    assert (len(rows), len(ranked)) == (6, 6)
    assert partial
    for found in (*rows, *ranked, *partial):
        assert found["relevance_score"] == relevance_score(found["margin"], 0.3, 0.8)
    options = manifest(control, job_id).options
    recorded = ("profile", "temperature", "top_p")
    assert [options[name] for name in recorded] == ["ecommerce", 0.3, 0.8]


def test_a_folder_is_read_in_one_order_without_what_is_hidden(api, control, tmp_path):
    root = tmp_path / "allowed" / "50% off"
    names = ["b/2.jpg", "a.png", "b.jpg", "b/1.webp", "c/d/e.JPEG", ".hidden.png", "b/x.txt"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")

    job_id = api.submit_catalog(root, QUERIES)
    do(control, job_id)

    found = ["a.png", "b/1.webp", "b/2.jpg", "b.jpg", "c/d/e.JPEG"]
    assert list(api.results(job_id)) == all_expected([file_uri(root / name) for name in found])


def test_a_limit_counts_images(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, limit=4)

    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket[:4])


# ---- listings -----------------------------------------------------------------------------------


def test_every_line_of_a_listing_has_its_outcomes(api, control, listing):
    """Given lines that name no image, and one whose image fails."""
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

    found = list(api.results(job_id))
    assert found[:6] == [
        *expected("s3://pairs/a.jpg"),
        *expected("Oak s3://pairs/b.jpg", image_id=7),
    ]
    bad = found[6:12]
    assert [row["error"]["line"] for row in bad] == [3, 4, 5, 6, 7, 8]
    assert [row["error"]["code"] for row in bad] == [
        *("no_image", "invalid_image", "no_image", "malformed_line", "no_id", "invalid_image")
    ]
    assert [row["image_id"] for row in bad] == [None, None, "no", None, None, None]
    assert all(row["query_id"] is None for row in bad)
    failed = found[12:]
    assert [row["query_id"] for row in failed] == IDS
    assert {row["image_id"] for row in failed} == {"s3://pairs/fails.jpg"}
    assert {row["error"]["code"] for row in failed} == {"failed"}
    progress = api.status(job_id).progress
    assert (progress.scored, progress.errors, progress.total) == (6, 9, 15)


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
    )
    job_id = api.submit_catalog(listing(table, name="shop.csv"), QUERIES)

    do(control, job_id)

    found = list(api.results(job_id))
    assert found[:3] == expected("Oak,\nround s3://pairs/a.jpg", image_id="a")
    assert found[3:6] == expected("s3://pairs/b.jpg")
    assert [row["error"]["code"] for row in found[6:]] == [
        *("no_image", "malformed_line", "malformed_line", "invalid_image")
    ]
    assert [row["error"]["message"] for row in found[7:9]] == [
        "2 columns, expected 4, at line 7 of the file",
        "field larger than field limit (131072), near line 8 of the file",
    ]


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

    found = list(api.results(job_id))
    assert found[:-1] == [
        row | {"query_id": str(row["query_id"]), "image_id": str(n)}
        for n, image in enumerate(images[:29])
        for row in expected(image)
    ]
    assert (found[-1]["image_id"], found[-1]["error"]["code"]) == ("29", "no_image")
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

    found = list(api.results(job_id))
    oak = expected("Oak s3://pairs/a.jpg", image_id="s3://pairs/a.jpg")
    assert found == [*oak, *expected("s3://pairs/b.jpg")]


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


def test_parquet_of_one_row_group_is_read_in_little_memory(control, tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "PARQUET_MEMORY_BYTES", 300 << 20)
    # given more in one group than memory holds, and of one row the line would be too long
    text = [f"{n} " * 20_000 for n in range(3500)]
    table = pyarrow.table({"image": ["s3://pairs/a.jpg"] * 3500, "text": text})
    path = tmp_path / "large.parquet"
    parquet.write_table(table, path, use_dictionary=False, write_batch_size=16)
    found = parquet.ParquetFile(path).metadata
    assert found.num_row_groups == 1
    assert found.row_group(0).total_byte_size > tables.PARQUET_MEMORY_BYTES

    with table_lines(str(path), control.objects, 90_000) as lines:
        sizes = [len(line) for line in lines]

    assert len(sizes) == 3500
    assert sum(size < 100 for size in sizes) == 2500
    assert max(sizes) <= 90_000


# ---- shards -------------------------------------------------------------------------------------


def test_a_shard_file_names_an_image_once_and_no_query(api, control, listing, change):
    many = [f"query number {n}" for n in range(60)]
    job_id = api.submit_catalog(listing("s3://pairs/a.jpg", "s3://pairs/b.jpg"), many)
    feed(
        job_id,
        dataclasses.replace(control, settings=change(shard_pairs_max=4096, shard_seconds=60)),
    )

    ((_, shard),) = control.store.shards.due(MODEL, 10)
    lease = Worker(control).claimed(job_id, shard)
    data = control.objects.read(shard_uri(control.objects, job_id, lease.file))
    assert data.count(b"\n") == 2
    assert data.count(b"s3://pairs/a.jpg") == 1
    assert b"query number" not in data
    slices = load_slices(control.objects, job_id, lease.file, shard)
    assert len(slices) == 120
    assert [s.indices for s in slices] == [[n] for n in range(60)] * 2
    assert [s.line for s in slices] == [1] * 60 + [2] * 60
    assert slices[61].query.text == "query number 1"
    assert slices[61].documents == [Document(image=("s3://pairs/b.jpg",))]


def test_halves_of_a_shard_that_killed_its_worker_are_all_of_it(api, control, bucket):
    """Given a shard that ends in the midst of an image, and is split down to single pairs."""
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    feed(job_id, control)
    lease = Worker(control).claimed(job_id, "0-5")
    whole = load_slices(control.objects, job_id, lease.file, "0-5")

    pieces = [
        piece
        for n in range(5)
        for piece in load_slices(control.objects, job_id, lease.file, shard_name(n, n + 1))
    ]

    assert pieces == whole
    assert [(p.line, p.indices[0]) for p in whole] == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]


def test_a_shard_that_kills_its_workers_is_split_and_the_rest_is_scored(
    api, control, bucket, change, store
):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, limit=2)
    feed(job_id, control)
    worker = Worker(control)
    worker.claimed(job_id, "0-5", token="dies")
    keys = store.keys
    for _ in range(2):  # its lease runs out: a suspect; dying with it alone splits it
        store.client.zadd(keys.open(MODEL), {f"{job_id}/0-5": 1})
        store.client.set(keys.pulse, store.now_ms())
        store.client.set(keys.amnesty, 0)
        answer = worker.claim(job_id, "0-5", alone=True)
    assert answer == "split"
    assert store.shards.split(job_id, MODEL, "0-5") == ["0-2", "2-5"]
    for shard in ("0-2", "2-5"):
        assert worker.commit(worker.claimed(job_id, shard, alone=True))
    run(control, worker)

    assert list(api.results(job_id)) == all_expected(bucket[:2])


# ---- disturbed ----------------------------------------------------------------------------------


def test_a_feeder_that_dies_while_it_lists_is_followed_by_another(
    api, control, bucket, monkeypatch
):
    """Given a listing that breaks off at every third page, and steps that cut little."""
    calls = 0
    page = Objects._page

    def sometimes(self: Objects, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise StorageUnavailable("the storage is away")
        return page(self, *args)

    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    monkeypatch.setattr(Objects, "_page", sometimes)
    for _ in range(60):
        control.hints.feed(job_id)
        run(control, Worker(control))
        if control.store.jobs.get(job_id).finished:
            break

    assert calls >= 9
    assert list(api.results(job_id)) == all_expected(bucket)


class Killed(BaseException):
    """The process ends here."""


def test_a_feeder_that_is_killed_before_its_shard_is_open_loses_nothing(
    api, control, bucket, monkeypatch
):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    opened, count = control.store.shards.open, 0

    def dies(*args: Any, **options: Any) -> str:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise Killed
        return opened(*args, **options)

    monkeypatch.setattr(control.store.shards, "open", dies)
    for _ in range(40):
        with suppress(Killed):
            feed(job_id, control)
        control.store.client.hdel(control.store.keys.job(job_id), "step_token", "step_until")
        Worker(control).work()
        if control.store.jobs.get(job_id).sealed:
            break
    control.hints.finish(job_id)
    run(control, Worker(control))

    assert list(api.results(job_id)) == all_expected(bucket)


def test_an_image_that_goes_while_it_is_cut_in_two_keeps_its_place(api, control, bucket, s3):
    """Given a first step that ends within the fourteenth image, which is then deleted."""
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    feed(job_id, control)
    begun = json.loads(control.store.jobs.get(job_id).facts["cursor"])
    assert (begun["line"], begun["skip"], begun["key"]) == (13, 1, bucket[13])
    for gone in (bucket[13], bucket[15]):
        s3.delete_object(Bucket="pairs", Key=gone.removeprefix("s3://pairs/"))

    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket[:15] + bucket[16:])


def test_a_prefix_that_changes_while_it_is_cut_gives_each_image_once_from_where_it_stands(
    api, control, bucket, s3
):
    """Given a first step that ends within the fourteenth image, and a prefix that then changes."""
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    feed(job_id, control)
    assert json.loads(control.store.jobs.get(job_id).facts["cursor"])["key"] == bucket[13]
    # when images appear before and behind that place, some go, and one is written anew
    before, last = "shop/0/-.png", "shop/~/last.png"
    next_to_it = f"{bucket[13].removeprefix('s3://pairs/')}.png"
    for key in (before, next_to_it, last, bucket[3].removeprefix("s3://pairs/")):
        s3.put_object(Bucket="pairs", Key=key, Body=b"y")
    for gone in (bucket[2], bucket[20]):
        s3.delete_object(Bucket="pairs", Key=gone.removeprefix("s3://pairs/"))

    do(control, job_id)

    # then those behind it are taken as they are now, those before it as they were
    later = [uri for uri in bucket[14:] if uri != bucket[20]]
    found = [*bucket[:14], f"s3://pairs/{next_to_it}", *later, f"s3://pairs/{last}"]
    assert list(api.results(job_id)) == all_expected(found)
    assert api.status(job_id).progress.total == len(found) * len(QUERIES)


def test_a_cancelled_catalog_ends_with_a_row_for_every_pair(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    feed(job_id, control)
    Worker(control).work(2)
    partial = list(api.results(job_id, partial=True))
    expected = all_expected(bucket)  # of whichever two shards were first
    assert len(partial) == 10
    assert all(row in expected for row in partial)

    api.cancel(job_id)
    do(control, job_id)

    found = list(api.results(job_id))
    assert len(found) == 69
    assert sum("margin" in row for row in found) == 10
    names = [(row["image_id"], row["query_id"]) for row in found]
    assert names == [(image, query) for image in bucket for query in IDS]
    assert {row["error"]["code"] for row in found if "error" in row} == {"cancelled"}
    with pytest.raises(WrongState, match="is a catalog, which cannot be retried: submit"):
        api.retry(job_id)


def test_a_paused_catalog_goes_on(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)
    feed(job_id, control)
    api.pause(job_id)
    run(control, Worker(control))
    assert api.status(job_id).progress.done == 0

    api.resume(job_id)
    Worker(control).work()
    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket)


def test_the_same_key_is_the_same_catalog(api, bucket):
    options = {"key": "shop", "top_n": 3}
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, **options)

    assert api.submit_catalog("s3://pairs/shop/", QUERIES, **options) == job_id
    with pytest.raises(UsageError, match="another input or options"):
        api.submit_catalog("s3://pairs/shop/", QUERIES[:1], **options)


def test_an_output_is_fetched_into_a_folder(api, control, bucket, tmp_path):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, top_n=1)
    do(control, job_id)

    api.fetch(job_id, tmp_path / "out")

    found = Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_bytes())
    lines = [
        json.loads(line)
        for part in found.parts
        for line in (tmp_path / "out" / part.name).read_text().splitlines()
    ]
    assert lines == all_expected(bucket)
    assert (tmp_path / "out" / "ranking.jsonl").read_text().count("\n") == 3


# ---- what is refused ----------------------------------------------------------------------------


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
        str(listing({"query": "q"}, name="jobs")): "is no listing of images",
        str(listing("a,b", "c,d", name="a.csv")): "has no column 'image', only a, b",
        str(listing(name="empty.csv")): "is empty",
        str(listing("image", "x" * 500_001, name="long.csv")): "line 2 of .* is too long",
        str(listing("no", name="a.parquet")): "is no Parquet",
    }
    for source, says in refused.items():
        with pytest.raises(UsageError, match=says):
            api.submit_catalog(source, QUERIES)
    for says, queries in {
        "the queries holds no query": [],
        "the queries, query 2 is empty": ["a", " "],
        "query 2: the id 1 is taken already": ["a", {"id": 1, "text": "b"}],
        "query 1: expected s3://": [{"image": "ftp://b"}],
    }.items():
        with pytest.raises(UsageError, match=says):
            api.submit_catalog(good, queries)
    with pytest.raises(NotAllowed, match="RERANK_ALLOWED_BUCKETS=elsewhere"):
        api.submit_catalog("s3://elsewhere/x/", QUERIES)
    with pytest.raises(NotAllowed, match="RERANK_ALLOWED_ROOTS"):
        api.submit_catalog(tmp_path, QUERIES)
    with pytest.raises(UsageError, match="file is a file: name a folder"):
        api.submit_catalog(good, QUERIES, output=folder / "file")
    with pytest.raises(OutputExists, match="holds files already"):
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
        api.submit_catalog(listing("x", name="a.parquet"), QUERIES)
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

    found = read_queries(path, objects)

    assert found == [
        Document(id=1, text="a chair"),
        Document(id="x", image=("a.png",)),
        Document(id=4, text="b"),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"text": "a"', "query 1 is not valid JSON"),
        (b"\xff", "is not UTF-8"),
        (b"\n \n", "holds no query"),
        (b"x" * 200, "is larger than"),
        (b'{"text": "\\ud800"}', "half a surrogate pair"),
    ],
)
def test_a_query_file_that_is_wrong_is_refused(objects, tmp_path, monkeypatch, data, says):
    monkeypatch.setattr(module, "QUERIES_BYTES", 100)
    path = tmp_path / "queries.txt"
    path.write_bytes(data)

    with pytest.raises(UsageError, match=says):
        read_queries(path, objects)
