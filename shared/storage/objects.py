"""Bytes by URI: file:///path, s3://bucket/key, and redis: for small inline payloads.

Reads stream from an offset; writes appear whole or not at all (rename, or multipart completion).
Only what the settings allow is touched: the storage, the allowed buckets, the allowed folders.
`Files` and `Buckets` know how; here is what can be done. Knows nothing of what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO

import stamina

from rerankfleet.shared.addresses import local_path, safe_uri
from rerankfleet.shared.errors import NotAllowed, StorageUnavailable, UsageError
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.below import real_path
from rerankfleet.shared.storage.buckets import Buckets, Connection, bucket_and_key
from rerankfleet.shared.storage.files import Files, Mount, path_of
from rerankfleet.shared.storage.names import Stat, is_name
from rerankfleet.shared.storage.scopes import JOBS, UPLOADS, Scope

retry_storage = stamina.retry(on=StorageUnavailable, attempts=5, timeout=60)


class Objects:
    """Reads and writes objects by URI, within what the settings allow.

    `inline` reads a redis: URI; without it such URIs are refused.
    """

    def __init__(
        self,
        settings: Settings,
        inline: Callable[[str], bytes | None] | None = None,
        *,
        scope: Scope | None = None,
        connection: Connection | None = None,
        mount: Mount | None = None,
    ) -> None:
        self._settings = settings
        self._inline = inline
        self._connection = connection or Connection()
        self._mount = mount or Mount(_folder_of(settings))
        scope = scope or Scope.everything(settings)
        self._files = Files(scope.roots(), self._mount, scope.lists)
        self._buckets = Buckets(scope, self._connection)

    def for_inputs(self, job_id: str) -> Objects:
        """The same, for the addresses that a job names to read, and for its own files."""
        return self._within(Scope.inputs(self._settings, job_id))

    def for_outputs(self, job_id: str, *, over_http: bool) -> Objects:
        """The same, for the address that a job names to write, and for its own files."""
        return self._within(Scope.outputs(self._settings, job_id, over_http=over_http))

    def _within(self, scope: Scope) -> Objects:
        connection, mount = self._connection, self._mount
        return Objects(self._settings, scope=scope, connection=connection, mount=mount)

    def at(self, *names: str) -> str:
        """The URI of something in the storage. Raises UsageError for what is no name there, such as
        `..` in a record that somebody else wrote."""
        for name in names:
            if not is_name(name):
                raise UsageError(f"{name!r} cannot be a name in the storage")
        return "/".join((self._settings.storage_uri, *names))

    def check(self, uri: str) -> None:
        """Raise NotAllowed or UsageError, in one clear sentence, unless the URI may be touched."""
        if not self._is_inline(uri):
            self._half(uri).check(uri)

    def is_in_storage(self, uri: str) -> bool:
        """Whether a URI names something in the storage of running jobs, `..` and links resolved."""
        storage = self._settings.storage_uri
        if uri.startswith("file://") and storage.startswith("file://"):
            return real_path(path_of(uri)).is_relative_to(real_path(path_of(storage)))
        parts = [part for part in uri.split("/")[2:] if part not in ("", ".")]
        inside = parts[: len(storage.split("/")) - 2] == storage.split("/")[2:]
        return uri.startswith("s3://") and (inside or ".." in parts)

    def _half(self, uri: str) -> Files | Buckets:
        scheme = uri.partition("://")[0]
        if scheme == "file":
            return self._files
        if scheme == "s3":
            return self._buckets
        raise UsageError(
            f"{safe_uri(uri)} is not a URI that can be read",
            hint="use s3://bucket/key or file:///path",
        )

    def _is_inline(self, uri: str) -> bool:
        return uri.startswith("redis:") and self._inline is not None

    # ---- reading --------------------------------------------------------------------------------

    @retry_storage
    def stat(self, uri: str) -> Stat:
        """Size and tag. Raises UsageError when there is no such object."""
        return self._half(uri).stat(uri)

    def exists(self, uri: str) -> bool:
        """Whether there is such an object. Raises NotAllowed also for a pipe or a device."""
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
        if self._inline and self._is_inline(uri):
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
        return self._half(uri).open(uri, offset)

    # ---- listing --------------------------------------------------------------------------------

    def listing(self, uri: str, after: str = "") -> Iterator[str]:
        """Yield the URIs of all objects under a prefix, or of all files in a folder and its
        subfolders, in a stable order, starting after the URI `after`.

        Memory holds one page of keys, or the names of one folder. `uri` ends with a slash.
        Raises UsageError when it may not be listed.
        """
        half = self._half(uri)
        if isinstance(half, Files):
            yield from half.listing(uri, after)
            return
        bucket, key = bucket_and_key(uri)[0], bucket_and_key(after)[1]
        more = True
        while more:
            keys, more = self._page(uri, key)
            for key in keys:
                beat()
                if self._buckets.is_listed(uri, key):
                    yield f"s3://{bucket}/{key}"
            more = more and bool(keys)

    @retry_storage
    def _page(self, uri: str, after: str) -> tuple[list[str], bool]:
        return self._buckets.page(uri, after)

    @retry_storage
    def folders(self, uri: str, count: int = 1000) -> list[str]:
        """The names of the first folders directly under a prefix or folder, in order; none where it
        does not exist. `uri` ends with a slash."""
        return self._half(uri).folders(uri, count)

    @retry_storage
    def unfinished(self, uri: str) -> set[str]:
        """The names of folders directly under a prefix in which S3 has parts of what was never
        completed; those of a disk show among its folders. `uri` ends with a slash."""
        half = self._half(uri)
        return half.unfinished(uri) if isinstance(half, Buckets) else set()

    @retry_storage
    def is_folder(self, uri: str) -> bool:
        """Whether a URI names a folder of a disk. Raises NotAllowed for one that may not be
        touched."""
        half = self._half(uri)
        return isinstance(half, Files) and half.is_folder(uri)

    @retry_storage
    def is_occupied(self, uri: str) -> bool:
        """Whether there is anything under a prefix or in a folder. Raises UsageError for a file."""
        return self._half(uri).is_occupied(uri)

    # ---- writing --------------------------------------------------------------------------------

    @retry_storage
    def try_writing(self, uri: str) -> None:
        """Raise UsageError where no file can be made in a folder of a disk; of a bucket only a
        write itself can tell."""
        half = self._half(uri)
        if isinstance(half, Files):
            half.try_writing(uri)

    @retry_storage
    def write(self, uri: str, data: bytes) -> None:
        """Put a whole object; it appears complete or not at all."""
        with self.writer(uri) as stream:
            stream.write(data)

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into a new object, published when the block ends well, discarded otherwise."""
        with self._half(uri).writer(uri) as stream:
            yield stream

    @retry_storage
    def copy(self, source: str, target: str) -> None:
        """Make an object of the bytes of another one in the same kind of storage, which nobody
        changes. The storage copies, or lets both share the bytes: none comes through here."""
        half = self._half(source)
        if half is not self._half(target):
            raise UsageError(f"{safe_uri(source)} and {safe_uri(target)} are of two kinds")
        half.copy(source, target)

    # ---- drafts ---------------------------------------------------------------------------------

    @retry_storage
    def new_draft(self, uri: str, name: str) -> str:
        """Begin an object that appears only when it is published, by whoever does it first.
        `name` is unique. Returns what identifies the draft."""
        return self._half(uri).new_draft(uri, name)

    @contextmanager
    def draft_writer(self, uri: str, draft: str) -> Iterator[IO[bytes]]:
        """A stream into a draft, which is complete when the block ends well."""
        with self._half(uri).draft_writer(uri, draft) as stream:
            yield stream

    @retry_storage
    def publish(self, uri: str, draft: str) -> bool:
        """Make a draft the object. False when it is no draft any more: it was published, or
        discarded."""
        return self._half(uri).publish(uri, draft)

    @retry_storage
    def discard(self, uri: str, draft: str) -> None:
        """Remove a draft, if there is one."""
        self._half(uri).discard(uri, draft)

    @retry_storage
    def delete_tree(self, uri: str) -> None:
        """Remove everything under a URI of a job or an upload, if there is anything.

        Raises NotAllowed for any other: a record that somebody else wrote must not name it.
        """
        storage = self._settings.storage_uri + "/"
        first, *names = uri.removeprefix(storage).split("/")
        is_ours = uri.startswith(storage) and first in (JOBS, UPLOADS)
        if not (is_ours and names and all(map(is_name, names))):
            raise NotAllowed(
                f"{uri} is not a job or an upload of the storage", hint="nothing else is removed"
            )
        ours = Objects(self._settings, connection=self._connection)  # in any scope
        ours._half(uri).delete_tree(self.at(first), *names)


def _folder_of(settings: Settings) -> Path | None:
    is_folder = settings.storage_uri.startswith("file://")
    return local_path(settings.storage_uri) if is_folder else None
