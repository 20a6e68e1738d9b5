"""What a job names to read and to write lies where such things may, whatever way it is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rerankfleet.shared.addresses import file_uri
from rerankfleet.shared.errors import ItemError, NotAllowed, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.scopes import Scope
from rerankfleet.workers.images.fetch import Fetcher
from rerankfleet.workers.images.source import ImageSource

JOB = "mine"
KEPT = "the storage keeps the files of other jobs there"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder with the storage in it, in which are two jobs and an upload."""
    for name in ("jobs/mine/input.jsonl", "jobs/other/input.jsonl", "uploads/17-ab/upload.png"):
        path = tmp_path / "allowed" / "storage" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(name.encode())
    (tmp_path / "allowed" / "a.png").write_bytes(b"a")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "out").write_bytes(b"out")
    return tmp_path / "allowed"


@pytest.fixture
def settings(tmp_path: Path, folder: Path) -> Settings:
    return Settings(
        storage=str(folder / "storage"),
        allowed_roots=(folder,),
        output_roots=(tmp_path / "outputs",),
        decode_processes=1,
        allowed_buckets="pairs, shop/in",
        output_buckets="shop/out, s3://ranked/",
    )


@pytest.fixture
def objects(settings: Settings) -> Objects:
    return Objects(settings)


def image_errors(settings: Settings, uri: str) -> str:
    """The code that an image at an address has."""
    source = ImageSource.of(settings)
    try:
        with pytest.raises(ItemError) as caught:
            source._fetcher.fetch(uri)
    finally:
        source.close()
    return caught.value.code


# ---- inputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way",
    [
        "{0}/storage/jobs/other/input.jsonl",
        "{0}/storage/jobs/mine/../other/input.jsonl",
        "{0}/storage/%6aobs/other/input.jsonl",
        "{0}/storage//jobs/./other/input.jsonl",
        "{0}/link/other/input.jsonl",
        "{0}/storage/jobs/none/input.jsonl",
        "{0}/storage/jobs",
    ],
)
def test_the_files_of_another_job_are_not_read(objects, settings, folder, way):
    (folder / "link").symlink_to(folder / "storage" / "jobs")
    uri = f"file://{way.format(folder)}"
    inputs = objects.for_inputs(JOB)
    for verb in (inputs.read, inputs.stat, inputs.exists, inputs.check, inputs.is_folder):
        with pytest.raises(NotAllowed, match=KEPT):
            verb(uri)
    with pytest.raises(NotAllowed, match=KEPT):
        list(inputs.listing(f"{uri}/"))
    assert image_errors(settings, uri) == "refused_source"


def test_a_job_reads_its_own_files_and_uploads_that_it_can_name(objects, settings, folder):
    inputs, storage = objects.for_inputs(JOB), file_uri(folder / "storage")
    own, upload = f"{storage}/jobs/mine/input.jsonl", f"{storage}/uploads/17-ab/upload.png"
    assert inputs.read(own) == b"jobs/mine/input.jsonl"
    assert inputs.read(upload) == b"uploads/17-ab/upload.png"
    assert list(inputs.listing(f"{storage}/uploads/17-ab/")) == [upload]
    assert inputs.read(file_uri(folder / "a.png")) == b"a"
    source = ImageSource.of(settings)
    assert source._fetcher.fetch(upload) == b"uploads/17-ab/upload.png"
    source.close()


def test_no_listing_tells_of_jobs_and_uploads(objects, folder):
    inputs = objects.for_inputs(JOB)
    for above in (folder, folder / "storage"):
        listed = list(inputs.listing(f"{file_uri(above)}/"))
        assert not [uri for uri in listed if "/storage/" in uri]
    (folder / "link").symlink_to(folder / "storage" / "uploads")
    for way in ("storage/uploads", "storage/x/../uploads", "link"):
        with pytest.raises(NotAllowed, match=KEPT):
            list(inputs.listing(f"{file_uri(folder)}/{way}/"))


def test_an_output_folder_is_not_readable(objects, settings, tmp_path):
    uri = file_uri(tmp_path / "outputs" / "out")
    for verb in (objects.for_inputs(JOB).read, objects.for_inputs(JOB).stat):
        with pytest.raises(NotAllowed, match="RERANK_ALLOWED_ROOTS"):
            verb(uri)
    assert image_errors(settings, uri) == "refused_source"
    both = Settings(allowed_roots=(tmp_path,), output_roots=(tmp_path / "outputs",))
    assert Objects(both).for_inputs(JOB).read(uri) == b"out"


# ---- outputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_http", [True, False])
def test_outputs_lie_in_the_output_folders(objects, tmp_path, over_http):
    outputs = objects.for_outputs(JOB, over_http=over_http)
    uri = file_uri(tmp_path / "outputs" / "new" / "out")
    outputs.write(uri, b"x")
    assert outputs.read(uri) == b"x"


def test_of_allowed_folders_only_those_who_have_redis_may_write(objects, folder):
    uri = file_uri(folder / "out")
    over_http = objects.for_outputs(JOB, over_http=True)
    for verb in (over_http.exists, over_http.try_writing, lambda uri: over_http.write(uri, b"x")):
        with pytest.raises(NotAllowed, match="add it to RERANK_OUTPUT_ROOTS"):
            verb(uri)
    objects.for_outputs(JOB, over_http=False).write(uri, b"x")
    assert (folder / "out").read_bytes() == b"x"


@pytest.mark.parametrize("over_http", [True, False])
@pytest.mark.parametrize("name", ["jobs/other/input.jsonl", "uploads/17-ab/upload.png", "jobs/x"])
def test_nobody_writes_what_the_storage_keeps_for_others(tmp_path, folder, over_http, name):
    # given a storage that even is in an output folder
    settings = Settings(
        storage=str(folder / "storage"), allowed_roots=(folder,), output_roots=(folder,)
    )
    outputs = Objects(settings).for_outputs(JOB, over_http=over_http)
    uri = file_uri(folder / "storage") + f"/{name}"
    with pytest.raises(NotAllowed, match=KEPT):
        outputs.write(uri, b"x")
    with pytest.raises(NotAllowed, match=KEPT):
        outputs.publish(uri, "draft")
    assert not (folder / "storage" / "jobs" / "x").exists()


def test_a_link_out_of_an_output_folder_is_not_written_through(objects, folder, tmp_path):
    (tmp_path / "outputs" / "link").symlink_to(folder)
    with pytest.raises(NotAllowed, match="leads out of the allowed folders"):
        objects.for_outputs(JOB, over_http=True).write(
            file_uri(tmp_path / "outputs") + "/link/a.png", b"x"
        )
    assert (folder / "a.png").read_bytes() == b"a"


# ---- buckets ------------------------------------------------------------------------------------

SETTINGS = Settings(
    storage="s3://pairs/work",
    decode_processes=1,
    allowed_buckets="pairs, shop/in",
    output_buckets="shop/out, s3://ranked/",
)


@pytest.mark.parametrize(
    ("uri", "inputs", "over_http", "by_python"),
    [
        ("s3://pairs/a.jsonl", "open", "outside", "open"),
        ("s3://pairs/a..b/...", "open", "outside", "open"),
        ("s3://pairs/a//b", "open", "outside", "open"),
        ("s3://pairs/work/jobs/mine/x", "open", "open", "open"),
        ("s3://pairs/work/jobs/other/x", "closed", "closed", "closed"),
        ("s3://pairs/work//jobs/other/x", "closed", "closed", "closed"),
        ("s3://pairs//work/jobs/other/x", "closed", "outside", "closed"),
        ("s3://pairs/work/uploads/17-ab/x", "open", "closed", "closed"),
        ("s3://pairs/x/../work/jobs/other/x", "dots", "dots", "dots"),
        ("s3://pairs/./work/jobs/other/x", "dots", "dots", "dots"),
        ("s3://pairs/..", "dots", "dots", "dots"),
        ("s3://shop/in/a", "open", "outside", "open"),
        ("s3://shop/out/a", "outside", "open", "open"),
        ("s3://shop/out", "outside", "outside", "outside"),
        ("s3://shop/out2/a", "outside", "outside", "outside"),
        ("s3://shop/out/../in/a", "dots", "dots", "dots"),
        ("s3://shop//in/a", "outside", "outside", "outside"),
        ("s3://shop/a", "outside", "outside", "outside"),
        ("s3://ranked/a/b", "outside", "open", "open"),
        ("s3://rankedx/a", "outside", "outside", "outside"),
        ("s3://other/a", "outside", "outside", "outside"),
    ],
)
def test_what_a_key_may_be(uri, inputs, over_http, by_python):
    assert Scope.inputs(SETTINGS, JOB).verdict(uri) == inputs
    assert Scope.outputs(SETTINGS, JOB, over_http=True).verdict(uri) == over_http
    assert Scope.outputs(SETTINGS, JOB, over_http=False).verdict(uri) == by_python
    # and no verb does what is not open
    if inputs != "open":
        with pytest.raises(NotAllowed):
            Objects(SETTINGS).for_inputs(JOB).read(uri)
    if over_http != "open":
        with pytest.raises(NotAllowed):
            Objects(SETTINGS).for_outputs(JOB, over_http=True).new_draft(uri, "n")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("s3://pairs/work/jobs/other/x.png", "refused_source"),
        ("s3://pairs/work//jobs/other/x.png", "refused_source"),
        ("s3://pairs/work/uploads/../jobs/other/x.png", "refused_source"),
        ("s3://shop/out/x.png", "refused_source"),
        ("s3://pairs/x/../y.png", "refused_source"),
    ],
)
def test_no_image_is_one_of_another_jobs_files(uri, code):
    assert image_errors(SETTINGS, uri) == code


def test_a_refusal_of_a_bucket_names_the_setting_that_would_allow_it():
    outputs = Objects(SETTINGS).for_outputs(JOB, over_http=True)
    with pytest.raises(NotAllowed, match="RERANK_OUTPUT_BUCKETS=pairs"):
        outputs.check("s3://pairs/a")
    with pytest.raises(NotAllowed, match="RERANK_ALLOWED_BUCKETS=ranked"):
        Objects(SETTINGS).for_inputs(JOB).check("s3://ranked/a")


def test_no_listing_of_a_bucket_tells_of_jobs_and_uploads(s3):
    for key in ("a.png", "work/jobs/other/x.png", "work/uploads/17-ab/upload.png", "work/b.png"):
        s3.put_object(Bucket="pairs", Key=key, Body=b"x")
    inputs = Objects(SETTINGS).for_inputs(JOB)
    assert list(inputs.listing("s3://pairs/")) == ["s3://pairs/a.png", "s3://pairs/work/b.png"]
    upload = "s3://pairs/work/uploads/17-ab/"
    assert list(inputs.listing(upload)) == [f"{upload}upload.png"]
    for uri in ("s3://pairs/work/uploads/", "s3://pairs//work/uploads/", "s3://pairs/work/jobs/"):
        with pytest.raises(NotAllowed, match=KEPT):
            list(inputs.listing(uri))
    # while the sweep of uploads sees them all
    assert Objects(SETTINGS).folders("s3://pairs/work/uploads/") == ["17-ab"]


def test_a_fetcher_takes_prefixes_too(s3):
    s3.put_object(Bucket="pairs", Key="in/a.png", Body=b"a")
    fetcher = Fetcher(allowed_buckets=("pairs/in",))
    assert fetcher.fetch("s3://pairs/in/a.png") == b"a"
    with pytest.raises(ItemError, match="is in the bucket"):
        fetcher.fetch("s3://pairs/inside/a.png")


def test_a_path_of_many_names_is_refused_before_it_costs_anything(objects):
    long = "/a" * 2_000_000
    with pytest.raises(UsageError, match="longer than 4,096 bytes"):
        objects.for_inputs(JOB).check(f"file://{long}")
    with pytest.raises(ItemError, match="is not a path"):
        Fetcher(allowed_roots=(Path(os.sep),)).fetch(long)
