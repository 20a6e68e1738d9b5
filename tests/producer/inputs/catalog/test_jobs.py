"""Catalogs: every image meets every query exactly once, whatever is killed on the way."""

from __future__ import annotations

import dataclasses
import json
from contextlib import suppress
from typing import Any

import pytest

from rerankfleet.producer.coordinator import rows
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.calibration import PLAIN, relevance_score
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.ranges import shard_name
from rerankfleet.shared.errors import (
    OutputExists,
    StorageUnavailable,
    UsageError,
    WrongState,
)
from rerankfleet.shared.formats.manifest import Manifest
from rerankfleet.shared.formats.shard_files import load_slices, shard_uri
from rerankfleet.shared.storage.objects import Objects
from tests.support.catalogs import IDS, QUERIES, all_expected, do, manifest
from tests.support.fleet import MODEL, Worker, run

# ---- from end to end -----------------------------------------------------------------------------


def test_every_image_of_a_prefix_meets_every_query(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES)

    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket)
    counts = manifest(control, job_id)
    assert (counts.lines, counts.pairs, counts.scored) == (23, 69, 69)
    assert [(part.start, part.end) for part in counts.parts][:2] == [(0, 5), (5, 10)]
    assert sum(part.rows for part in counts.parts) == 69
    assert counts.ranking is None
    assert counts.options["catalog"]["count"] == 3
    assert api.status(job_id).progress.total == 69


def test_the_output_goes_where_the_job_says(api, control, bucket, s3):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, output="s3://pairs/out", top_n=2)

    do(control, job_id)

    listed = s3.list_objects_v2(Bucket="pairs", Prefix="out/")["Contents"]
    names = [counts["Key"].removeprefix("out/") for counts in listed]
    counts = manifest(control, job_id)
    assert sorted([*(p.name for p in counts.parts), "manifest.json", "ranking.jsonl"]) == names
    assert api.status(job_id).output == "s3://pairs/out/"
    with pytest.raises(OutputExists, match="s3://pairs/out/ is not empty: set `force`"):
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
            {name: row[name] for name in ("image_id", "line", "margin", "relevance_score")}
            for row in best
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

    assert [result["image_id"] for result in line["results"]] == ["i2", "i4"]


@pytest.mark.parametrize("top_n", [1, 2, 3, 5])
@pytest.mark.parametrize("order", [1, -1])
def test_the_same_image_in_several_rows_is_ranked_in_the_order_of_the_catalog(top_n, order):
    """Given rows of which some have the same image, whose margins differ in their last digits."""
    ranking = rows.Ranking(1, top_n=top_n)
    images = {"a": 1.0, "b": 2.0, "c": 0.5}
    catalog = "abcabcab"
    for line, image in enumerate(catalog, 1):
        margin = images[image] + order * line * 1e-9
        scored = {"index": 0, "margin": margin, "twin": image.encode().hex()}
        named = {"image_id": f"{image}{line}"}
        ranking.add(rows.SliceOutcome(line=line, metadata=named, results=[scored]))

    (line,) = ranking.lines([Document(id="q", text="q")], PLAIN)

    ranked = [result["image_id"] for result in line["results"]]
    assert ranked == ["b2", "b5", "b8", "a1", "a4", "a7", "c3", "c6"][:top_n]
    margins = {result["margin"] for result in line["results"]}
    assert len(margins) == len({image[0] for image in ranked})


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
    ranked = [result for line in ranking.splitlines() for result in json.loads(line)["results"]]
    assert (len(rows), len(ranked)) == (6, 6)
    assert partial
    for result in (*rows, *ranked, *partial):
        assert result["relevance_score"] == relevance_score(result["margin"], 0.3, 0.8)
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

    images = ["a.png", "b/1.webp", "b/2.jpg", "b.jpg", "c/d/e.JPEG"]
    assert list(api.results(job_id)) == all_expected([file_uri(root / name) for name in images])


def test_a_limit_counts_images(api, control, bucket):
    job_id = api.submit_catalog("s3://pairs/shop/", QUERIES, limit=4)

    do(control, job_id)

    assert list(api.results(job_id)) == all_expected(bucket[:4])


# ---- shards --------------------------------------------------------------------------------------


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


# ---- disturbed -----------------------------------------------------------------------------------


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
    images = [*bucket[:14], f"s3://pairs/{next_to_it}", *later, f"s3://pairs/{last}"]
    assert list(api.results(job_id)) == all_expected(images)
    assert api.status(job_id).progress.total == len(images) * len(QUERIES)


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

    result_rows = list(api.results(job_id))
    assert len(result_rows) == 69
    assert sum("margin" in row for row in result_rows) == 10
    names = [(row["image_id"], row["query_id"]) for row in result_rows]
    assert names == [(image, query) for image in bucket for query in IDS]
    assert {row["error"]["code"] for row in result_rows if "error" in row} == {"cancelled"}
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

    counts = Manifest.model_validate_json((tmp_path / "out" / "manifest.json").read_bytes())
    lines = [
        json.loads(line)
        for part in counts.parts
        for line in (tmp_path / "out" / part.name).read_text().splitlines()
    ]
    assert lines == all_expected(bucket)
    assert (tmp_path / "out" / "ranking.jsonl").read_text().count("\n") == 3
