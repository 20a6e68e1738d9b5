"""Bytes by URI: whole or not at all, and only where the settings allow."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from rerankfleet.shared.addresses import file_uri, local_path
from rerankfleet.shared.errors import (
    CredentialsRefused,
    NotAllowed,
    ObjectMissing,
    StorageFull,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage import buckets as s3_half
from rerankfleet.shared.storage import files as disk_half
from rerankfleet.shared.storage import s3_streams
from rerankfleet.shared.storage.local_files import publish_file
from rerankfleet.shared.storage.names import Stat
from rerankfleet.shared.storage.objects import Objects
from rerankfleet.shared.storage.s3_streams import S3_PART_BYTES


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    folder.mkdir()
    return folder


@pytest.fixture
def files(tmp_path: Path, root: Path) -> Objects:
    """Objects over a storage folder and one allowed folder."""
    return Objects(Settings(storage=str(tmp_path / "storage"), allowed_roots=(root,)))


@pytest.fixture
def buckets(s3) -> Objects:
    """Objects over a storage in one bucket, with another one allowed."""
    return Objects(Settings(storage="s3://pairs/work", allowed_buckets="pairs-in, more"))


@pytest.fixture(autouse=True)
def _few_attempts(monkeypatch):
    """Retries happen at once."""
    import stamina

    stamina.set_testing(True, attempts=2)
    yield
    stamina.set_testing(False)


def fail_while_writing(objects: Objects, uri: str, data: bytes) -> None:
    with suppress(RuntimeError), objects.writer(uri) as stream:
        stream.write(data)
        raise RuntimeError("the writer fails here")


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---- folders ------------------------------------------------------------------------------------


def test_what_is_written_can_be_read_from_any_offset(files):
    uri = files.at("jobs", "a", "x")
    files.write(uri, b"0123456789")

    assert files.read(uri) == b"0123456789"
    with files.open(uri, 4) as stream:
        assert stream.readline() == b"456789"
    with files.open(uri, 10) as stream:
        assert stream.read() == b""
    assert files.stat(uri).size == 10
    assert files.exists(uri)
    assert not files.exists(files.at("jobs", "a", "y"))


def test_the_tag_of_a_file_changes_with_its_bytes(files, root):
    (root / "f").write_bytes(b"one")
    before = files.stat(file_uri(root / "f"))
    os.utime(root / "f", ns=(1, before.size))

    assert files.stat(file_uri(root / "f")) != before
    assert isinstance(before, Stat)


def test_a_file_appears_whole_or_not_at_all(files, tmp_path):
    uri = files.at("x")
    with files.writer(uri) as stream:
        stream.write(b"half")
        stream.flush()
        assert not files.exists(uri)
    assert files.read(uri) == b"half"

    fail_while_writing(files, uri, b"other")

    assert files.read(uri) == b"half"
    assert names(tmp_path / "storage") == ["x"]


def test_a_file_is_on_the_disk_before_it_appears(files, monkeypatch):
    """A commit must never outlive the part that it names."""
    seen = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(files.exists(files.at("x"))))

    files.write(files.at("x"), b"x")

    assert seen == [False]


def test_a_draft_that_a_killed_writer_left_is_not_the_file(files, tmp_path):
    storage = tmp_path / "storage"
    context = files.writer(files.at("x"))
    context.__enter__().write(b"half")

    assert not files.exists(files.at("x"))
    assert all(name.endswith(".draft") for name in names(storage))


def test_of_two_writers_the_last_wins_and_both_are_whole(files):
    uri = files.at("x")
    with files.writer(uri) as one, files.writer(uri) as two:
        one.write(b"one")
        two.write(b"two")
    assert files.read(uri) == b"one"


def test_a_tree_of_the_storage_can_be_removed_and_nothing_else(files, root, tmp_path):
    files.write(files.at("jobs", "a", "parts", "1"), b"x")
    files.write(files.at("jobs", "ab"), b"x")

    files.delete_tree(files.at("jobs", "a"))
    files.delete_tree(files.at("jobs", "nothing"))

    assert names(tmp_path / "storage") == ["jobs/ab"]
    storage = file_uri(tmp_path / "storage")
    others = ("", "2/jobs/a", "/", "/jobs", "/jobs/", "/x/a", "/jobs/../x", "/jobs/a/../../x")
    for uri in (file_uri(root), *(storage + other for other in others), f"{storage}/jobs/a//b"):
        with pytest.raises(NotAllowed, match="nothing else is removed"):
            files.delete_tree(uri)


def test_no_link_leads_a_removal_out_of_the_storage(files, root, tmp_path):
    # given links in the storage to folders of somebody else's
    (victim := root / "victim").mkdir()
    (victim / "kept").write_bytes(b"x")
    files.write(files.at("jobs", "a", "parts", "1"), b"x")
    (tmp_path / "storage" / "jobs" / "a" / "parts" / "link").symlink_to(victim)
    (tmp_path / "storage" / "jobs" / "b").symlink_to(root)
    # when what holds them is removed, or lies behind one
    files.delete_tree(files.at("jobs", "a"))
    files.delete_tree(files.at("jobs", "b", "victim"))
    files.delete_tree(files.at("jobs", "b"))
    # then they are gone, and what they lead to is not
    assert names(tmp_path / "storage") == []
    assert (victim / "kept").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../victim", "a\0", "ä", "a" * 129])
def test_what_is_no_name_has_no_place_in_the_storage(files, name):
    with pytest.raises(UsageError, match="cannot be a name in the storage"):
        files.at("jobs", name)


def test_what_cannot_be_removed_is_told(files, tmp_path, monkeypatch):
    files.write(files.at("jobs", "a", "parts", "1"), b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(UsageError, match="permission"):
        files.delete_tree(files.at("jobs", "a"))


VERBS = {
    "stat": Objects.stat,
    "read": Objects.read,
    "open": Objects.open,
    "exists": Objects.exists,
    "write": lambda objects, uri: objects.write(uri, b""),
    "writer": lambda objects, uri: objects.writer(uri).__enter__(),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "path", ["outside/x", "allowed/../outside/x", "allowed/link/x", "allowed2/x"]
)
def test_nothing_outside_the_allowed_folders_is_touched(files, root, tmp_path, verb, path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x").write_bytes(b"secret")
    (root / "link").symlink_to(tmp_path / "outside")

    with pytest.raises(NotAllowed, match=r"is not allowed: .* to RERANK_ALLOWED_ROOTS"):
        VERBS[verb](files, f"file://{tmp_path}/{path}")

    assert (tmp_path / "outside" / "x").read_bytes() == b"secret"


def test_percent_signs_do_not_lead_out_of_a_folder(files, tmp_path):
    with pytest.raises(NotAllowed):
        files.check(f"file://{tmp_path}/allowed/%2e%2e/outside")


@pytest.mark.parametrize("uri", ["http://host/x", "/etc/passwd", "ftp://x", "redis:a/b", "s3:/x"])
def test_other_addresses_are_refused_in_one_sentence(files, uri):
    with pytest.raises(UsageError, match=r"use s3://bucket/key or file:///path"):
        files.check(uri)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("{root}/" + "x" * 256, "longer than 255 bytes"),
        ("{root}/" + "ä" * 128, "longer than 255 bytes"),
        ("{root}/" + "x" * 256 + "/a", "longer than 255 bytes"),
        ("{root}" + "/x" * 3000, "longer than 4,096 bytes"),
        ("relative/a.jsonl", "it is not absolute"),
        ("", "it is not absolute"),
        ("localhost/etc", "it is not absolute"),
        ("{root}/\ud800", "surrogates not allowed"),
    ],
)
def test_what_is_not_a_path_is_refused_at_once(files, root, path, words):
    with pytest.raises(UsageError, match="is not a path") as caught:
        files.stat("file://" + path.format(root=root))
    assert not isinstance(caught.value, NotAllowed)
    assert words in caught.value.message
    assert os.getcwd() not in str(caught.value).replace(str(root), "")


def test_the_longest_name_can_be_written(files, root):
    uri = file_uri(root / ("x" * 255))
    files.write(uri, b"x")
    assert files.read(uri) == b"x"


def test_a_folder_that_is_read_as_a_file_is_refused_at_once(files, root):
    (root / "f").write_bytes(b"")
    for path in (root, root / "f" / "below"):
        with pytest.raises(UsageError):
            files.read(file_uri(path))


def test_a_missing_file_is_named(files, root):
    with pytest.raises(UsageError, match=r"allowed/x does not exist: check the path"):
        files.read(file_uri(root / "x"))


def test_a_disk_that_fails_is_tried_again_and_then_named(files, monkeypatch):
    attempts = []

    def full(*_):
        attempts.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_half, "new_file", full)
    with pytest.raises(StorageUnavailable, match="No space left on device"):
        files.write(files.at("x"), b"")
    assert len(attempts) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(files, root):
    (root / "x").touch(mode=0)
    with pytest.raises(UsageError, match="may not be read or written"):
        files.read(file_uri(root / "x"))


@pytest.mark.parametrize("name", ["plain", "with space", "ünï", "100%", "50%25", "a#b?c"])
def test_any_name_of_a_folder_is_understood(tmp_path, name):
    storage = tmp_path / name
    objects = Objects(Settings(storage=str(storage)))

    objects.write(objects.at("x"), b"bytes")

    assert objects.read(objects.at("x")) == b"bytes"
    assert names(storage) == ["x"]
    assert local_path(file_uri(storage / "x")) == storage / "x"


def test_a_folder_is_listed_in_one_order_from_behind_any_file(files, root):
    for name in ("b/2", "b/10", "b.x", "a", "c/d/e", "c/d.e", ".hidden", "b/.hidden/x", "100%"):
        files.write(file_uri(root / name), b"x")
    (root / "link").symlink_to(root / "c")

    uris = list(files.listing(f"{file_uri(root)}/"))

    names = [str(local_path(uri).relative_to(root)) for uri in uris]
    assert names == ["100%", "a", "b/10", "b/2", "b.x", "c/d/e", "c/d.e"]
    for n, uri in enumerate(uris):
        assert list(files.listing(f"{file_uri(root)}/", after=uri)) == uris[n + 1 :]


def test_a_folder_that_is_missing_or_not_allowed_is_not_listed(files, root, tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        list(files.listing(f"{file_uri(root)}/none/"))
    with pytest.raises(NotAllowed):
        list(files.listing(f"{file_uri(tmp_path)}/"))


def test_inline_bytes_are_read_only_with_a_reader_for_them(settings):
    with_inline = Objects(settings, inline={"redis:a/b": b"x"}.get)

    assert with_inline.read("redis:a/b") == b"x"
    with pytest.raises(UsageError, match="redis:a/c has expired"):
        with_inline.read("redis:a/c")


def test_a_local_file_is_published_beside_its_place(tmp_path):
    with publish_file(tmp_path / "new" / "out") as stream:
        stream.write(b"x")
    assert names(tmp_path) == ["new/out"]


# ---- S3 -----------------------------------------------------------------------------------------


def test_an_object_is_written_and_read_from_any_offset(buckets, s3):
    uri = buckets.at("x")
    assert uri == "s3://pairs/work/x"
    buckets.write(uri, b"0123456789")

    assert buckets.read(uri) == b"0123456789"
    for offset, rest in ((3, b"3456789"), (10, b""), (99, b"")):
        with buckets.open(uri, offset) as stream:
            assert stream.read() == rest
    assert buckets.stat(uri).size == 10
    before = buckets.stat(uri).tag
    buckets.write(uri, b"9876543210")
    assert buckets.stat(uri).tag != before


def test_a_large_object_goes_up_in_parts_and_appears_at_the_end(buckets, s3):
    uri, block = buckets.at("big"), b"0123456789abcdef" * (1 << 16)
    with buckets.writer(uri) as out:
        for _ in range(S3_PART_BYTES // len(block) + 2):
            out.write(block)
        assert not buckets.exists(uri)

    assert buckets.stat(uri).size == S3_PART_BYTES + 2 * len(block)
    with buckets.open(uri, S3_PART_BYTES - 1) as stream:
        assert stream.read(3) == b"f01"


@pytest.mark.parametrize("size", [10, S3_PART_BYTES + 1])
def test_a_writer_that_fails_leaves_no_object_and_no_parts(buckets, s3, size):
    fail_while_writing(buckets, buckets.at("x"), b"x" * size)

    assert not buckets.exists(buckets.at("x"))
    assert "Uploads" not in s3.list_multipart_uploads(Bucket="pairs")


def test_a_tree_in_a_bucket_can_be_removed(buckets, s3):
    for name in ("jobs/a/1", "jobs/a/b/2", "jobs/ab"):
        buckets.write(buckets.at(*name.split("/")), b"x")

    buckets.delete_tree(buckets.at("jobs", "a"))
    buckets.delete_tree(buckets.at("jobs", "none"))

    left = [entry["Key"] for entry in s3.list_objects_v2(Bucket="pairs")["Contents"]]
    assert left == ["work/jobs/ab"]


def test_a_prefix_is_listed_page_by_page_from_behind_any_key(buckets, s3, monkeypatch):
    monkeypatch.setattr(s3_half, "KEYS_PER_PAGE", 3)
    s3.create_bucket(Bucket="more")
    keys = sorted(["p/a b", "p/a+b", "p/ü", "p/日本", "p/%41", "p/q/r", "p/q.r", "p/\U0001f600"])
    for key in [*keys, "o", "q/x"]:
        s3.put_object(Bucket="more", Key=key, Body=b"")

    uris = list(buckets.listing("s3://more/p/"))

    assert uris == [f"s3://more/{key}" for key in keys]
    for n, uri in enumerate(uris):
        assert list(buckets.listing("s3://more/p/", after=uri)) == uris[n + 1 :]
    assert len(list(buckets.listing("s3://more/"))) == len(keys) + 2
    assert list(buckets.listing("s3://more/none/")) == []


def test_what_is_not_allowed_is_not_listed(buckets):
    for uri in ("s3://other/", "s3://pairs/elsewhere/"):
        with pytest.raises(NotAllowed):
            next(buckets.listing(uri))
    with pytest.raises(UsageError, match="names no object"):
        next(buckets.listing("s3:///"))


def test_only_the_storage_and_allowed_buckets_are_touched(buckets):
    buckets.check("s3://pairs-in/any")
    buckets.check("s3://more/any")
    for uri in ("s3://other/x", "s3://pairs/elsewhere", "s3://pairs/workplace"):
        with pytest.raises(NotAllowed, match=r"RERANK_ALLOWED_BUCKETS=(other|pairs)$"):
            buckets.read(uri)
    for uri in ("s3://pairs-in", "s3://pairs-in/", "s3:///x"):
        with pytest.raises(UsageError, match="names no object"):
            buckets.check(uri)


def test_a_missing_key_or_bucket_is_named(buckets):
    assert not buckets.exists("s3://more/none")
    with pytest.raises(UsageError, match=r"s3://pairs/work/none does not exist"):
        buckets.read(buckets.at("none"))
    with pytest.raises(UsageError, match=r"s3://more/x does not exist"):
        buckets.write("s3://more/x", b"")


def test_refused_credentials_are_reported_without_them(buckets, monkeypatch):
    from botocore.exceptions import ClientError

    def refuse(**_):
        answer = {"Error": {"Code": "InvalidAccessKeyId", "Message": "key-id very-secret"}}
        raise ClientError(answer, "GetObject")

    buckets.write(buckets.at("x"), b"x")
    monkeypatch.setattr(buckets._buckets.client, "get_object", refuse)
    with pytest.raises(CredentialsRefused) as caught:
        buckets.read(buckets.at("x"))

    assert "(InvalidAccessKeyId): check the AWS credentials" in str(caught.value)
    assert "secret" not in str(caught.value)
    # and the next call makes a new client
    assert buckets.read(buckets.at("x")) == b"x"


def test_an_expired_token_is_recognised_also_where_the_answer_has_no_body(buckets, monkeypatch):
    from botocore.exceptions import ClientError

    def refuse(**_):
        raise ClientError({"Error": {"Code": "400", "Message": "Bad Request"}}, "HeadObject")

    monkeypatch.setattr(buckets._buckets.client, "head_object", refuse)
    with pytest.raises(CredentialsRefused, match=r"refused the credentials for .* \(400\)"):
        buckets.stat(buckets.at("x"))


def test_missing_credentials_are_reported(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    objects = Objects(Settings(storage="s3://pairs/work"))
    with pytest.raises(CredentialsRefused, match="NoCredentialsError"):
        objects.stat("s3://pairs/work/x")
    # and once they exist, they are used without a restart
    keys = "[default]\naws_access_key_id = test\naws_secret_access_key = test\n"
    (tmp_path / "none").write_text(keys)
    with pytest.raises(UsageError, match="does not exist"):
        objects.stat("s3://pairs/work/x")


def test_a_bucket_that_does_not_answer_is_infrastructure(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(StorageUnavailable, match="s3://pairs/work/x"):
        Objects(Settings(storage="s3://pairs/work")).stat("s3://pairs/work/x")


def test_a_connection_that_breaks_while_reading_is_infrastructure(buckets, monkeypatch):
    from urllib3.exceptions import ProtocolError

    class Broken:
        def read(self, size):
            raise ProtocolError("Connection broken")

    buckets.write(buckets.at("x"), b"x")
    monkeypatch.setattr(buckets._buckets.client, "get_object", lambda **_: {"Body": Broken()})

    with pytest.raises(StorageUnavailable):
        buckets.read(buckets.at("x"))


# ---- copies -------------------------------------------------------------------------------------


def test_a_copy_in_a_folder_shares_its_bytes_and_outlives_its_source(files, tmp_path):
    # given an object, copied twice to the same place as a repeated call would
    source, target = files.at("uploads", "1-a", "x"), files.at("jobs", "j", "input")
    files.write(source, b"bytes")
    for _ in range(2):
        files.copy(source, target)
    # then both are one file on the disk, and nothing lies beside it
    assert os.path.samefile(local_path(source), local_path(target))
    assert [path.name for path in local_path(target).parent.iterdir()] == ["input"]
    # when the source is removed, and its name taken by another
    files.delete_tree(files.at("uploads", "1-a"))
    files.write(source, b"others")
    assert files.read(target) == b"bytes"


@pytest.mark.parametrize("in_kernel", [True, False])
def test_where_a_file_can_have_one_name_only_its_bytes_are_copied(files, monkeypatch, in_kernel):
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refused)
    source, target = files.at("uploads", "1-a", "x"), files.at("jobs", "j", "input")
    files.write(source, b"bytes" * 100_000)
    files.copy(source, target)
    assert files.read(target) == b"bytes" * 100_000
    assert not os.path.samefile(local_path(source), local_path(target))


def test_what_is_not_there_is_not_copied(files):
    with pytest.raises(ObjectMissing, match="does not exist"):
        files.copy(files.at("uploads", "1-a", "x"), files.at("jobs", "j", "input"))
    assert files.folders(files.at("jobs", "j") + "/") == []
    assert not files.exists(files.at("jobs", "j", "input"))


@pytest.mark.parametrize("in_parts", [False, True])
def test_s3_copies_its_objects_itself(s3, tmp_path, monkeypatch, in_parts):
    # given an object in S3, and a client through which no byte of an object may come
    in_s3 = Objects(Settings(storage="s3://pairs/work"))
    data = os.urandom(11 << 20)
    source, target = in_s3.at("uploads", "1-a", "x"), in_s3.at("jobs", "j", "input")
    in_s3.write(source, data)
    if in_parts:
        monkeypatch.setattr(s3_streams, "S3_COPY_PART_BYTES", 5 << 20)
    calls: list[str] = []
    in_s3._buckets.client.meta.events.register(
        "before-call.s3.*", lambda model, **_: calls.append(model.name)
    )
    # when it is copied
    in_s3.copy(source, target)
    # then S3 did it
    assert {"GetObject", "PutObject", "UploadPart"}.isdisjoint(calls)
    assert calls.count("UploadPartCopy") == (3 if in_parts else 0)
    in_s3.delete_tree(in_s3.at("uploads", "1-a"))
    assert in_s3.read(target) == data


def test_what_was_never_completed_in_s3_goes_with_its_folder(s3):
    # given writers that were killed in the middle of an upload, of a job, and of something else
    in_s3 = Objects(Settings(storage="s3://pairs/work"))
    names = ("work/uploads/1-a/x", "work/jobs/j/parts/0", "work/jobs/j2/parts/0", "other/x")
    for key in names:
        begun = s3.create_multipart_upload(Bucket="pairs", Key=key)["UploadId"]
        s3.upload_part(Bucket="pairs", Key=key, UploadId=begun, PartNumber=1, Body=b"x")
    # when both are removed
    in_s3.delete_tree(in_s3.at("uploads", "1-a"))
    in_s3.delete_tree(in_s3.at("jobs", "j"))
    # then only the others are left
    left = s3.list_multipart_uploads(Bucket="pairs")["Uploads"]
    assert sorted(upload["Key"] for upload in left) == sorted(names[2:])


# ---- a full disk --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_such_and_passes(files, number):
    with pytest.raises(StorageFull, match=r"its disk is full .*make room on it"):
        with files.writer(files.at("x")):
            raise OSError(number, os.strerror(number))
    assert not files.exists(files.at("x"))
