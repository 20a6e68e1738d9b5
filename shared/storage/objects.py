"""Bytes by URI: file:///path, s3://bucket/key, and redis: for small inline payloads.

Reads stream from an offset; writes appear whole or not at all (rename, or multipart completion).
Only what the settings allow is touched: the storage, the allowed buckets, the allowed folders.
Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from urllib.parse import unquote

import stamina

from rerankfleet.shared.errors import CredentialsRefused, NotAllowed, StorageUnavailable, UsageError
from rerankfleet.shared.settings import Settings

S3_PART_BYTES = 16 << 20
"""Multipart uploads: 10,000 parts of this size make 160 GB, the largest output of one job."""

KEYS_PER_PAGE = 1000
"""Keys of a listing held at once: what S3 gives at the most."""

NAME_BYTES_MAX = 255
"""Of a file or folder: no common file system takes more."""

retry_storage = stamina.retry(on=StorageUnavailable, attempts=5, timeout=60)


@dataclass(frozen=True, slots=True)
class Stat:
    """What pins an object: its size and a tag that changes with its bytes."""

    size: int
    tag: str


def file_uri(path: Path | str) -> str:
    """The URI of a local path."""
    return f"file://{str(Path(path).resolve()).replace('%', '%25')}"


def local_path(uri: str) -> Path:
    """The path of a file: URI."""
    return Path(unquote(uri.removeprefix("file://")))


def _resolved(uri: str) -> Path:
    """The path of a file: URI without links and detours. Raises UsageError for what is no path, or
    one that begins nowhere: it would be a place of this process."""
    try:
        path = local_path(uri)
        if not path.is_absolute():
            raise ValueError("it begins at no root")
        if max(len(os.fsencode(name)) for name in path.parts) > NAME_BYTES_MAX:
            raise ValueError(f"a name in it is longer than {NAME_BYTES_MAX} bytes")
        return path.resolve()
    except (ValueError, OSError) as error:  # also a NUL, or half a character
        raise UsageError(
            f"{uri!r} is no path ({error})", hint="write file:///folder/name"
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

    def at(self, *parts: str) -> str:
        """The URI of something in the storage."""
        return "/".join((self._settings.storage_uri, *parts))

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
                f"{uri} is not a URI that can be read", hint="use s3://bucket/key or file:///path"
            )

    def is_in_storage(self, uri: str) -> bool:
        """Whether a URI names something in the storage of running jobs, by whatever detour."""
        storage = self._settings.storage_uri
        if uri.startswith("file://") and storage.startswith("file://"):
            return _resolved(uri).is_relative_to(_resolved(storage))
        parts = [part for part in uri.split("/")[2:] if part not in ("", ".")]
        inside = parts[: len(storage.split("/")) - 2] == storage.split("/")[2:]
        return uri.startswith("s3://") and (inside or ".." in parts)

    def _check_bucket(self, uri: str, *, listing: bool = False) -> None:
        bucket, key = _bucket_and_key(uri)
        if not bucket or not (key or listing):
            raise UsageError(f"{uri} names no object", hint="write s3://bucket/key")
        storage = self._settings.storage_uri + "/"
        if bucket not in self._settings.allowed_buckets and not uri.startswith(storage):
            raise NotAllowed(
                f"the bucket {bucket!r} is not allowed",
                hint=f"add it to RERANK_ALLOWED_BUCKETS: RERANK_ALLOWED_BUCKETS={bucket}",
            )

    def _check_folder(self, uri: str) -> None:
        path = _resolved(uri)  # follows links: a link out of a root is not in the root
        roots = list(self._settings.allowed_roots)
        if self._settings.storage_uri.startswith("file://"):
            roots.append(local_path(self._settings.storage_uri))
        if not any(path.is_relative_to(root.resolve()) for root in roots):
            raise NotAllowed(
                f"the folder {path.parent} is not allowed",
                hint=f"add it to RERANK_ALLOWED_ROOTS: RERANK_ALLOWED_ROOTS={path.parent}",
            )

    @cached_property
    def _s3(self) -> Any:
        import boto3  # half a second of import that only s3:// users pay
        from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=32,
            connect_timeout=5,
            read_timeout=60,
        )
        # a session of its own: the default one keeps the credentials it found first
        return boto3.Session().client("s3", config=config)

    @contextmanager
    def _clear_errors(self, uri: str) -> Iterator[None]:
        """As the function does; and when the credentials were refused, the next call reads them
        anew: whoever renews them need not start anything again."""
        try:
            with _clear_errors(uri):
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
            found = local_path(uri).stat()
            return Stat(found.st_size, str(found.st_mtime_ns))

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
            found = self._inline(uri)
            if found is None:
                raise UsageError(f"{uri} is over its time")
            return found
        with self.open(uri) as stream:
            return stream.read()

    @retry_storage
    def open(self, uri: str, offset: int = 0) -> BinaryIO:
        """A stream of the object's bytes from `offset`."""
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                bucket, key = _bucket_and_key(uri)
                if offset >= self.stat(uri).size:
                    return io.BytesIO()
                answer = self._s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-")
                return cast(BinaryIO, io.BufferedReader(_Body(answer["Body"], uri), 1 << 20))
            stream = local_path(uri).open("rb")
            stream.seek(offset)
            return cast(BinaryIO, stream)

    # ---- listing --------------------------------------------------------------------------------

    def listing(self, uri: str, after: str = "") -> Iterator[str]:
        """Yield the URIs of all objects under a prefix, or of all files in a folder and in those
        inside it, in one order that never changes, from behind `after` on.

        Memory holds one page of keys, or the names of one folder. `uri` ends with a slash.
        Raises UsageError when it may not be listed.
        """
        if uri.startswith("s3:"):
            self._check_bucket(uri, listing=True)
            yield from self._list_keys(uri, after)
            return
        self.check(uri)
        root = local_path(uri).resolve()
        behind = local_path(after).relative_to(root).parts if after else ()
        for path in _walk(root, behind):
            yield f"file://{str(path).replace('%', '%25')}"

    @retry_storage
    def folders(self, uri: str, count: int = KEYS_PER_PAGE) -> list[str]:
        """The names of the first folders right under a prefix or folder, in order; `uri` ends with
        a slash. Where there is no such folder there are none."""
        if not uri.startswith("s3:"):
            self.check(uri)
            path = local_path(uri)
            if not path.is_dir():
                return []
            with _clear_errors(uri), os.scandir(path) as found:
                return sorted(e.name for e in found if e.is_dir(follow_symlinks=False))[:count]
        self._check_bucket(uri, listing=True)
        bucket, prefix = _bucket_and_key(uri)
        with _clear_errors(uri):
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
                yield f"s3://{bucket}/{key}"
            if not more or not keys:
                return

    @retry_storage
    def _page(self, uri: str, bucket: str, prefix: str, after: str) -> tuple[list[str], bool]:
        """One page of keys behind a key, and whether there are more."""
        with self._clear_errors(uri):
            page = self._s3.list_objects_v2(
                Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=KEYS_PER_PAGE
            )
        return [found["Key"] for found in page.get("Contents", ())], page["IsTruncated"]

    # ---- writing --------------------------------------------------------------------------------

    @retry_storage
    def write(self, uri: str, data: bytes) -> None:
        """Put a whole object; it appears complete or not at all."""
        with self.writer(uri) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into a new object, published when the block ends well, dropped otherwise."""
        self.check(uri)
        with self._clear_errors(uri):
            if uri.startswith("s3:"):
                with _multipart(self._s3, *_bucket_and_key(uri)) as stream:
                    yield stream
            else:
                with publish_file(local_path(uri)) as stream:
                    yield stream

    @retry_storage
    def delete_tree(self, uri: str) -> None:
        """Remove everything under a URI of the storage; nothing there is no error."""
        if not uri.startswith(self._settings.storage_uri + "/"):
            raise NotAllowed(f"{uri} is not in the storage", hint="only the storage is cleaned")
        with self._clear_errors(uri):
            if not uri.startswith("s3:"):
                path = local_path(uri)
                shutil.rmtree(path, ignore_errors=True)
                path.unlink(missing_ok=True) if path.is_file() else None
                return
            bucket, prefix = _bucket_and_key(uri)
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/"
            )
            for page in pages:
                keys = [{"Key": found["Key"]} for found in page.get("Contents", ())]
                if keys:
                    self._s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})


def _walk(folder: Path, after: tuple[str, ...]) -> Iterator[Path]:
    """The files of a folder and of those in it, by name, behind the one whose path has the parts
    `after`. Hidden ones and links to folders are left out."""
    with _clear_errors(str(folder)), os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        edge = after[0] if after else ""
        if entry.name < edge or entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), after[1:] if entry.name == edge else ())
        elif entry.name != edge and entry.is_file():
            yield Path(entry.path)


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


@contextmanager
def publish_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a local file beside its place and rename it there when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")  # any name that fits has one that does
    try:
        with draft.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # a commit must never outlive the part that it names
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


@contextmanager
def _multipart(s3: Any, bucket: str, key: str) -> Iterator[IO[bytes]]:
    stream = _Multipart(s3, bucket, key)
    try:
        yield cast("IO[bytes]", stream)
        stream.complete()
    except BaseException:
        stream.abort()
        raise


class _Multipart(io.RawIOBase):
    """Collects bytes into parts; a small object goes up in one call at the end."""

    def __init__(self, s3: Any, bucket: str, key: str) -> None:
        self._s3, self._at = s3, {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._upload: str | None = None
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        if len(self._buffer) >= S3_PART_BYTES:
            self._send()
        return len(data)

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._s3.create_multipart_upload(**self._at)["UploadId"]
        number = len(self._parts) + 1
        answer = self._s3.upload_part(
            **self._at, UploadId=self._upload, PartNumber=number, Body=bytes(self._buffer)
        )
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})
        self._buffer.clear()

    def complete(self) -> None:
        """Make the object appear."""
        if self._upload is None:
            self._s3.put_object(**self._at, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._s3.complete_multipart_upload(
            **self._at, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
        )

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._upload is not None:
            with suppress(Exception):
                self._s3.abort_multipart_upload(**self._at, UploadId=self._upload)


class _Body(io.RawIOBase):
    """An S3 answer as a raw stream whose errors are ours."""

    def __init__(self, body: Any, uri: str) -> None:
        self._body, self._uri = body, uri

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _clear_errors(self._uri):
            data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _clear_errors(uri: str) -> Iterator[None]:
    """Turn what the disk or S3 raises into an error that says what to do."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{uri} does not exist", hint="check the path") from error
    except (IsADirectoryError, FileExistsError) as error:
        raise UsageError(f"{uri} is a folder, or one is needed", hint="name a file") from error
    except PermissionError as error:
        raise UsageError(f"{uri} may not be read or written", hint="check permissions") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # trying again would not help
            raise UsageError(f"{uri} is no path ({error.strerror})", hint="shorten it") from error
        raise StorageUnavailable(f"{uri}: {error.strerror or error}") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "boto3", "urllib3")):
            raise
        raise _s3_error(uri, error) from error


_REFUSED = ("400", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch")
"""The numbers are what a request for a head is told, also of an expired token."""


def _s3_error(uri: str, error: Exception) -> Exception:
    code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
    if code in ("404", "NoSuchKey", "NoSuchBucket"):
        return UsageError(f"{uri} does not exist ({code})", hint="check bucket and key")
    if code in ("AccessDenied", *_REFUSED):
        refused = CredentialsRefused if code in _REFUSED else UsageError
        return refused(f"{uri} was refused ({code})", hint="check the AWS credentials")
    if code in ("NoCredentialsError", "PartialCredentialsError", "ExpiredToken", "InvalidToken"):
        return CredentialsRefused(
            f"no valid AWS credentials for {uri} ({code})", hint="set them anew"
        )
    return StorageUnavailable(f"{uri}: {code}")
