"""Bytes by URI: file:///path, s3://bucket/key, and redis: for small inline payloads.

Reads stream from an offset; writes appear whole or not at all (rename, or multipart completion).
Only what the settings allow is touched: the storage, the allowed buckets, the allowed folders.
Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import stamina

from rerankfleet.shared.addresses import local_path, path_address, printable, safe_uri
from rerankfleet.shared.errors import (
    CredentialsRefused,
    NotAllowed,
    StorageRefused,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.errors import clear_errors
from rerankfleet.shared.storage.folders import remove_tree, walk
from rerankfleet.shared.storage.s3 import new_client
from rerankfleet.shared.storage.s3_streams import (
    S3Body,
    abort_upload,
    complete_upload,
    multipart,
    new_upload,
    upload,
)

KEYS_PER_PAGE = 1000
"""Keys of a listing held at once: the most that S3 returns."""

_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,128}")
"""Of what rerankfleet keeps in its storage."""
_REMOVABLE = ("jobs", "uploads")

NAME_BYTES_MAX = 255
"""Of a file or folder: the limit of common file systems."""

retry_storage = stamina.retry(on=StorageUnavailable, attempts=5, timeout=60)


@dataclass(frozen=True, slots=True)
class Stat:
    """Identifies a version of an object: its size and a tag that changes with its bytes."""

    size: int
    tag: str


def _resolved(uri: str) -> Path:
    """The path of a file: URI, with links and `..` resolved.

    Raises UsageError where it is not a path, or a relative one: that would depend on the working
    folder of this process.
    """
    try:
        path = local_path(uri)
        if not path.is_absolute():
            raise ValueError("it is not absolute")
        if max(len(os.fsencode(name)) for name in path.parts) > NAME_BYTES_MAX:
            raise ValueError(f"a name in it is longer than {NAME_BYTES_MAX} bytes")
        return path.resolve()
    except (ValueError, OSError) as error:  # also a NUL, or half a character
        raise UsageError(
            f"{uri!r} is not a path ({error})", hint="write file:///folder/name"
        ) from error


class Objects:
    """Reads and writes objects by URI, within what the settings allow.

    `inline` reads a redis: URI; without it such URIs are refused.
    """

    def __init__(
        self, settings: Settings, inline: Callable[[str], bytes | None] | None = None
    ) -> None:
        self._settings = settings
        self._inline = inline
        self._storage_seen = False

    def at(self, *names: str) -> str:
        """The URI of something in the storage. Raises UsageError for what is no name there, such as
        `..` in a record that somebody else wrote."""
        for name in names:
            if not _is_name(name):
                raise UsageError(f"{name!r} cannot be a name in the storage")
        return "/".join((self._settings.storage_uri, *names))

    def check(self, uri: str) -> None:
        """Raise NotAllowed or UsageError, in one clear sentence, unless the URI may be touched."""
        scheme = uri.partition("://")[0]
        if uri.startswith("redis:") and self._inline:
            return
        if scheme == "s3":
            self._check_bucket(uri)
        elif scheme == "file":
            self._check_folder(uri)
        else:
            raise UsageError(
                f"{safe_uri(uri)} is not a URI that can be read",
                hint="use s3://bucket/key or file:///path",
            )

    def is_in_storage(self, uri: str) -> bool:
        """Whether a URI names something in the storage of running jobs, `..` and links resolved."""
        storage = self._settings.storage_uri
        if uri.startswith("file://") and storage.startswith("file://"):
            return _resolved(uri).is_relative_to(_resolved(storage))
        parts = [part for part in uri.split("/")[2:] if part not in ("", ".")]
        inside = parts[: len(storage.split("/")) - 2] == storage.split("/")[2:]
        return uri.startswith("s3://") and (inside or ".." in parts)

    def _check_bucket(self, uri: str, *, listing: bool = False) -> None:
        bucket, key = _bucket_and_key(uri)
        if not bucket or not (key or listing):
            raise UsageError(f"{printable(uri)} names no object", hint="write s3://bucket/key")
        storage = self._settings.storage_uri + "/"
        if bucket not in self._settings.allowed_buckets and not uri.startswith(storage):
            raise NotAllowed(
                f"the bucket {bucket!r} is not allowed",
                hint=f"add it to RERANK_ALLOWED_BUCKETS: RERANK_ALLOWED_BUCKETS={bucket}",
            )

    def _check_folder(self, uri: str) -> None:
        path = _resolved(uri)  # a link that leads out of a root is not in the root
        roots = list(self._settings.allowed_roots)
        if self._settings.storage_uri.startswith("file://"):
            roots.append(local_path(self._settings.storage_uri))
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise NotAllowed(
                f"the folder {path.parent} is not allowed",
                hint=f"add it to RERANK_ALLOWED_ROOTS: RERANK_ALLOWED_ROOTS={path.parent}",
            )

    def _look_at_storage(self, uri: str) -> None:
        """Raise StorageRefused for a URI in the folder of the storage when that was there before
        and is not: one made anew would be in the way when it comes back."""
        storage = self._settings.storage_uri
        if not (uri.startswith("file:") and uri.startswith(storage + "/")):
            return
        if local_path(storage).is_dir():
            self._storage_seen = True
        elif self._storage_seen:
            raise StorageRefused(
                f"the folder of the storage, {printable(storage)}, is away", hint="bring it back"
            )

    @cached_property
    def _s3(self) -> Any:
        return new_client(attempts=5, connect_timeout_s=5, read_timeout_s=60, connections=32)

    @contextmanager
    def _clear_errors(self, uri: str) -> Iterator[None]:
        """`clear_errors`; once credentials were refused, the next call reads them again, so that
        renewed ones are used without a restart."""
        try:
            with clear_errors(uri):
                yield
        except CredentialsRefused:
            vars(self).pop("_s3", None)
            raise

    # ---- reading --------------------------------------------------------------------------------

    @retry_storage
    def stat(self, uri: str) -> Stat:
        """Size and tag. Raises UsageError when there is no such object."""
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                bucket, key = _bucket_and_key(uri)
                head = self._s3.head_object(Bucket=bucket, Key=key)
                return Stat(head["ContentLength"], head["ETag"].strip('"'))
            self._look_at_storage(uri)
            file = local_path(uri).stat()
            return Stat(file.st_size, str(file.st_mtime_ns))

    def exists(self, uri: str) -> bool:
        """Whether there is such an object."""
        try:
            self.stat(uri)
        except NotAllowed:
            raise
        except UsageError:
            return False
        return True

    @retry_storage
    def read(self, uri: str) -> bytes:
        """The whole object."""
        if uri.startswith("redis:") and self._inline:
            payload = self._inline(uri)
            if payload is None:
                raise UsageError(f"{uri} has expired")
            return payload
        with self.open(uri) as stream:
            return stream.read()

    @retry_storage
    def open(self, uri: str, offset: int = 0) -> BinaryIO:
        """A stream of the object's bytes from `offset`."""
        beat()
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                bucket, key = _bucket_and_key(uri)
                if offset >= self.stat(uri).size:
                    return io.BytesIO()
                answer = self._s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-")
                return cast(BinaryIO, io.BufferedReader(S3Body(answer["Body"], uri), 1 << 20))
            self._look_at_storage(uri)
            stream = local_path(uri).open("rb")
            stream.seek(offset)
            return cast(BinaryIO, stream)

    # ---- listing --------------------------------------------------------------------------------

    def listing(self, uri: str, after: str = "") -> Iterator[str]:
        """Yield the URIs of all objects under a prefix, or of all files in a folder and its
        subfolders, in a stable order, starting after the URI `after`.

        Memory holds one page of keys, or the names of one folder. `uri` ends with a slash.
        Raises UsageError when it may not be listed.
        """
        if uri.startswith("s3:"):
            self._check_bucket(uri, listing=True)
            yield from self._list_keys(uri, after)
            return
        self.check(uri)
        root = local_path(uri).resolve()
        after_parts = local_path(after).relative_to(root).parts if after else ()
        for path in walk(root, after_parts):
            yield path_address(str(path))

    @retry_storage
    def folders(self, uri: str, count: int = KEYS_PER_PAGE) -> list[str]:
        """The names of the first folders directly under a prefix or folder, in order; none where it
        does not exist. `uri` ends with a slash."""
        if not uri.startswith("s3:"):
            self.check(uri)
            path = local_path(uri)
            if not path.is_dir():
                return []
            with clear_errors(uri), os.scandir(path) as entries:
                return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))[:count]
        self._check_bucket(uri, listing=True)
        bucket, prefix = _bucket_and_key(uri)
        with self._clear_errors(uri):
            page = self._s3.list_objects_v2(
                Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=min(count, KEYS_PER_PAGE)
            )
        return [f["Prefix"][len(prefix) : -1] for f in page.get("CommonPrefixes", ())]

    def _list_keys(self, uri: str, after: str) -> Iterator[str]:
        bucket, prefix = _bucket_and_key(uri)
        key = _bucket_and_key(after)[1]
        while True:
            keys, more = self._page(uri, bucket, prefix, key)
            for key in keys:
                beat()
                yield f"s3://{bucket}/{key}"
            if not more or not keys:
                return

    @retry_storage
    def _page(self, uri: str, bucket: str, prefix: str, after: str) -> tuple[list[str], bool]:
        """One page of keys after a key, and whether there are more."""
        with self._clear_errors(uri):
            page = self._s3.list_objects_v2(
                Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=KEYS_PER_PAGE
            )
        return [entry["Key"] for entry in page.get("Contents", ())], page["IsTruncated"]

    # ---- writing --------------------------------------------------------------------------------

    @retry_storage
    def write(self, uri: str, data: bytes) -> None:
        """Put a whole object; it appears complete or not at all."""
        with self.writer(uri) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into a new object, published when the block ends well, discarded otherwise."""
        self.check(uri)
        self._look_at_storage(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                with multipart(self._s3, *_bucket_and_key(uri)) as stream:
                    yield stream
            else:
                with publish_file(local_path(uri)) as stream:
                    yield stream

    # ---- drafts ---------------------------------------------------------------------------------

    @retry_storage
    def new_draft(self, uri: str, name: str) -> str:
        """Begin an object that appears only when it is published, by whoever does it first.
        `name` is unique. Returns what identifies the draft."""
        self.check(uri)
        self._look_at_storage(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                return new_upload(self._s3, *_bucket_and_key(uri))
            path = _draft_path(uri, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return name

    @contextmanager
    def draft_writer(self, uri: str, draft: str) -> Iterator[IO[bytes]]:
        """A stream into a draft, which is complete when the block ends well."""
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                with upload(self._s3, *_bucket_and_key(uri), draft) as stream:
                    yield stream
                return
            with _draft_path(uri, draft).open("r+b") as stream:  # one that was discarded is gone
                yield stream
                stream.flush()
                os.fsync(stream.fileno())

    @retry_storage
    def publish(self, uri: str, draft: str) -> bool:
        """Make a draft the object. False when it is no draft any more: it was published, or
        discarded."""
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                return complete_upload(self._s3, *_bucket_and_key(uri), draft)
            path, target = _draft_path(uri, draft), local_path(uri)
            try:
                if is_stream(target):
                    with path.open("rb") as source, target.open("ab") as stream:
                        shutil.copyfileobj(source, stream)
                    path.unlink()
                else:
                    path.replace(target)
            except FileNotFoundError:
                return False
            return True

    @retry_storage
    def discard(self, uri: str, draft: str) -> None:
        """Remove a draft, if there is one."""
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                abort_upload(self._s3, *_bucket_and_key(uri), draft)
            else:
                _draft_path(uri, draft).unlink(missing_ok=True)

    @retry_storage
    def delete_tree(self, uri: str) -> None:
        """Remove everything under a URI of a job or an upload, if there is anything.

        Raises NotAllowed for any other: a record that somebody else wrote must not name it.
        """
        storage = self._settings.storage_uri + "/"
        first, *names = uri.removeprefix(storage).split("/")
        ours = uri.startswith(storage) and first in _REMOVABLE
        if not (ours and names and all(map(_is_name, names))):
            raise NotAllowed(
                f"{uri} is not a job or an upload of the storage", hint="nothing else is removed"
            )
        with self._clear_errors(uri):
            if not uri.startswith("s3:"):
                room = local_path(self.at(first)).resolve()
                if local_path(uri).resolve().parent.is_relative_to(room):  # no link leads out
                    remove_tree(local_path(uri))
                return
            bucket, prefix = _bucket_and_key(uri)
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/"
            )
            for page in pages:
                beat()
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
                if keys:
                    answer = self._s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
                    for left in answer.get("Errors", ()):
                        raise StorageUnavailable(f"{uri} is not removed ({left.get('Code')})")


def _draft_path(uri: str, draft: str) -> Path:
    """The file of a draft, beside that of `uri`. Raises UsageError for what is no draft's name."""
    if not _is_name(draft):
        raise UsageError(f"{draft!r} is not a draft")
    return local_path(uri).with_name(f".{draft}.draft")


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def is_stream(path: Path) -> bool:
    """Whether a path is a pipe or a device, which is written to and never replaced: also where
    standard output, /dev/stdout, is a file."""
    if not os.path.exists(path) or path.is_dir():
        return False
    return path.absolute().is_relative_to("/dev") or not path.is_file()


@contextmanager
def publish_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file under a temporary name; it is renamed when the block ends well. A pipe or
    a device is written to as it is."""
    if is_stream(path):
        with path.open("ab") as stream:  # what standard output holds already is kept
            yield stream
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")  # short, however long the name is
    try:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # a commit must never outlive the part file that it names
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
