"""Objects of S3 by their s3:// URIs: the half of `Objects` that speaks to buckets."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import IO, Any, BinaryIO, cast

from rerankfleet.shared.addresses import printable
from rerankfleet.shared.errors import (
    CredentialsRefused,
    NotAllowed,
    StorageUnavailable,
    UsageError,
)
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.errors import clear_errors
from rerankfleet.shared.storage.files import kept
from rerankfleet.shared.storage.names import Stat
from rerankfleet.shared.storage.s3 import new_client
from rerankfleet.shared.storage.s3_streams import (
    S3Body,
    abort_upload,
    abort_uploads,
    complete_upload,
    copy_object,
    multipart,
    new_upload,
    unfinished_keys,
    upload,
)
from rerankfleet.shared.storage.scopes import Scope

KEYS_PER_PAGE = 1000
"""Keys of a listing held at once: the most that S3 returns."""


DOTS = "a part of its key is `.` or `..`, which some servers resolve"
DOTS_HINT = "rename the object"


class Connection:
    """A client of S3, made when it is needed first."""

    @cached_property
    def client(self) -> Any:
        """The client."""
        return new_client(attempts=5, connect_timeout_s=5, read_timeout_s=60, connections=32)

    def forget(self) -> None:
        """Make another one the next time, with credentials that are read anew."""
        vars(self).pop("client", None)


class Buckets:
    """Reads and writes objects of S3, in the storage and the allowed buckets. The verbs are those
    of `Objects`, which describes them."""

    def __init__(self, scope: Scope, connection: Connection) -> None:
        self._scope, self._connection = scope, connection

    def check(self, uri: str, *, listing: bool = False) -> None:
        """Raise NotAllowed or UsageError unless the object, or with `listing` the prefix, may be
        touched."""
        bucket, key = bucket_and_key(uri)
        if not bucket or not (key or listing):
            raise UsageError(f"{printable(uri)} names no object", hint="write s3://bucket/key")
        verdict = self._scope.verdict(uri)
        if verdict == "closed" or (listing and self._scope.is_list_of_all(uri)):
            raise kept(uri)
        if verdict == "dots":
            raise NotAllowed(f"{printable(uri)} is not allowed: {DOTS}", hint=DOTS_HINT)
        if verdict == "outside":
            setting = f"RERANK_{self._scope.lists}_BUCKETS"
            raise NotAllowed(
                f"the bucket {bucket!r} is not allowed",
                hint=f"add it to {setting}: {setting}={bucket}",
            )

    @property
    def client(self) -> Any:
        """The client of S3."""
        return self._connection.client

    # ---- reading --------------------------------------------------------------------------------

    def stat(self, uri: str) -> Stat:
        """Size and ETag."""
        with self._checked(uri) as (bucket, key):
            head = self.client.head_object(Bucket=bucket, Key=key)
            return Stat(head["ContentLength"], head["ETag"].strip('"'))

    def open(self, uri: str, offset: int = 0) -> BinaryIO:
        """A stream of the object's bytes from `offset`."""
        with self._checked(uri) as (bucket, key):
            if offset >= self.stat(uri).size:
                return io.BytesIO()
            answer = self.client.get_object(Bucket=bucket, Key=key, Range=f"bytes={offset}-")
            return cast(BinaryIO, io.BufferedReader(S3Body(answer["Body"], uri), 1 << 20))

    # ---- listing --------------------------------------------------------------------------------

    def page(self, uri: str, after: str) -> tuple[list[str], bool]:
        """One page of the keys under a prefix, after a key, and whether there are more."""
        with self._checked(uri, listing=True) as (bucket, prefix):
            page = self.client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, StartAfter=after, MaxKeys=KEYS_PER_PAGE
            )
        return [entry["Key"] for entry in page.get("Contents", ())], page["IsTruncated"]

    def is_listed(self, uri: str, key: str) -> bool:
        """Whether a listing of a prefix tells of a key."""
        inside = not self._scope.is_listed(uri)  # of what somebody knows already
        return inside or self._scope.is_listed(f"s3://{bucket_and_key(uri)[0]}/{key}")

    def folders(self, uri: str, count: int) -> list[str]:
        """The names of the first folders directly under a prefix."""
        with self._checked(uri, listing=True) as (bucket, prefix):
            page = self.client.list_objects_v2(
                Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=min(count, KEYS_PER_PAGE)
            )
        return [f["Prefix"][len(prefix) : -1] for f in page.get("CommonPrefixes", ())]

    def unfinished(self, uri: str) -> set[str]:
        """The names directly under a prefix below which an upload is not completed."""
        with self._checked(uri, listing=True) as (bucket, prefix):
            keys = [key for key, _ in unfinished_keys(self.client, bucket, prefix)]
        return {key.removeprefix(prefix).partition("/")[0] for key in keys}

    def is_occupied(self, uri: str) -> bool:
        """Whether there is anything under a prefix."""
        return bool(self.page(uri, "")[0])

    # ---- writing --------------------------------------------------------------------------------

    @contextmanager
    def writer(self, uri: str) -> Iterator[IO[bytes]]:
        """A stream into a new object, which appears when the block ends well."""
        with self._checked(uri) as place, multipart(self.client, *place) as stream:
            yield stream

    def copy(self, source: str, target: str) -> None:
        """Make an object of another one, within S3."""
        self.check(source)
        with self._checked(target) as place:
            copy_object(self.client, bucket_and_key(source), place)

    def new_draft(self, uri: str, _name: str) -> str:
        """Begin an object that appears when it is published. Returns the id of its upload."""
        with self._checked(uri) as place:
            return new_upload(self.client, *place)

    @contextmanager
    def draft_writer(self, uri: str, draft: str) -> Iterator[IO[bytes]]:
        """A stream into a draft."""
        with self._checked(uri) as place, upload(self.client, *place, draft) as stream:
            yield stream

    def publish(self, uri: str, draft: str) -> bool:
        """Make a draft the object. False when it is no draft any more."""
        with self._checked(uri) as place:
            return complete_upload(self.client, *place, draft)

    def discard(self, uri: str, draft: str) -> None:
        """Remove a draft, if there is one."""
        with self._checked(uri) as place:
            abort_upload(self.client, *place, draft)

    def delete_tree(self, room: str, *names: str) -> None:
        """Remove all objects below some names under a prefix of the storage."""
        uri = "/".join((room, *names))
        with self._checked(uri) as (bucket, prefix):
            abort_uploads(self.client, bucket, f"{prefix}/")
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{prefix}/"
            )
            for page in pages:
                beat()
                keys = [{"Key": entry["Key"]} for entry in page.get("Contents", ())]
                if keys:
                    answer = self.client.delete_objects(Bucket=bucket, Delete={"Objects": keys})
                    for left in answer.get("Errors", ()):
                        raise StorageUnavailable(f"{uri} is not removed ({left.get('Code')})")

    def _checked(
        self, uri: str, *, listing: bool = False
    ) -> AbstractContextManager[tuple[str, str]]:
        self.check(uri, listing=listing)
        return self._clear_errors(uri)

    @contextmanager
    def _clear_errors(self, uri: str) -> Iterator[tuple[str, str]]:
        """`clear_errors`; once credentials were refused, the next call reads them again, so that
        renewed ones are used without a restart."""
        try:
            with clear_errors(uri):
                yield bucket_and_key(uri)
        except CredentialsRefused:
            self._connection.forget()
            raise


def bucket_and_key(uri: str) -> tuple[str, str]:
    """The two parts of an s3:// URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
