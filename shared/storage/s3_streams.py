"""Objects of S3 as streams: one to read, and one that uploads what is written in parts; and copies
that S3 makes itself."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.errors import clear_errors

S3_PART_BYTES = 16 << 20
"""Multipart uploads: 10,000 parts of this size make 160 GB, the largest output of one job."""

S3_COPY_PART_BYTES = 256 << 20
"""A larger object is copied in parts: one call copies 5 GB at most, and takes long before that."""


@contextmanager
def multipart(s3: Any, bucket: str, key: str) -> Iterator[IO[bytes]]:
    """A stream into an object, which appears when the block ends well and not at all otherwise."""
    stream = _Multipart(s3, bucket, key)
    try:
        yield cast("IO[bytes]", stream)
        stream.complete()
    except BaseException:
        stream.abort()
        raise


def new_upload(s3: Any, bucket: str, key: str) -> str:
    """Begin an upload, of which nothing is seen before it is completed. Returns its id."""
    return cast(str, s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"])


@contextmanager
def upload(s3: Any, bucket: str, key: str, upload_id: str) -> Iterator[IO[bytes]]:
    """A stream into an upload, which is not completed."""
    stream = _Multipart(s3, bucket, key, upload_id)
    yield cast("IO[bytes]", stream)
    stream.send_rest()


def complete_upload(s3: Any, bucket: str, key: str, upload_id: str) -> bool:
    """Make the object of an upload appear. False when there is no such upload (any more)."""
    names = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
    try:
        pages = s3.get_paginator("list_parts").paginate(**names)
        parts = [
            {"ETag": part["ETag"], "PartNumber": part["PartNumber"]}
            for page in pages
            for part in page.get("Parts", ())
        ]
        s3.complete_multipart_upload(**names, MultipartUpload={"Parts": parts})
    except s3.exceptions.NoSuchUpload:
        return False
    return True


def copy_object(s3: Any, source: tuple[str, str], target: tuple[str, str]) -> None:
    """Copy an object, each given by bucket and key: S3 moves the bytes, a large one in parts."""
    from boto3.s3.transfer import TransferConfig  # only s3:// users pay for the import

    config = TransferConfig(
        multipart_threshold=S3_COPY_PART_BYTES, multipart_chunksize=S3_COPY_PART_BYTES
    )
    s3.copy(dict(zip(("Bucket", "Key"), source, strict=True)), *target, Config=config)


def abort_uploads(s3: Any, bucket: str, prefix: str) -> None:
    """Remove every upload under a prefix that was never completed: nobody sees its parts, but they
    are paid for."""
    for key, upload_id in list(unfinished_keys(s3, bucket, prefix)):
        abort_upload(s3, bucket, key, upload_id)


def unfinished_keys(s3: Any, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    """The key and the id of every upload under a prefix that is not completed."""
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
        for begun in page.get("Uploads", ()):
            yield begun["Key"], begun["UploadId"]


def abort_upload(s3: Any, bucket: str, key: str, upload_id: str) -> None:
    """Remove an upload, if there is one."""
    with suppress(s3.exceptions.NoSuchUpload):
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)


class _Multipart(io.RawIOBase):
    """Collects bytes into parts; a small object goes up in one call at the end."""

    def __init__(self, s3: Any, bucket: str, key: str, upload_id: str | None = None) -> None:
        self._s3, self._object = s3, {"Bucket": bucket, "Key": key}
        self._buffer = bytearray()
        self._size = 0
        self._upload = upload_id
        self._parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        self._size += len(data)
        if len(self._buffer) >= S3_PART_BYTES:
            self._send()
        return len(data)

    def tell(self) -> int:
        return self._size

    def send_rest(self) -> None:
        """Upload what was written; an upload has one part at least."""
        if self._buffer or not self._parts:
            self._send()

    def _send(self) -> None:
        if self._upload is None:
            self._upload = self._s3.create_multipart_upload(**self._object)["UploadId"]
        number = len(self._parts) + 1
        answer = self._s3.upload_part(
            **self._object, UploadId=self._upload, PartNumber=number, Body=bytes(self._buffer)
        )
        self._parts.append({"ETag": answer["ETag"], "PartNumber": number})
        self._buffer.clear()

    def complete(self) -> None:
        """Make the object appear."""
        if self._upload is None:
            self._s3.put_object(**self._object, Body=bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._s3.complete_multipart_upload(
            **self._object, UploadId=self._upload, MultipartUpload={"Parts": self._parts}
        )

    def abort(self) -> None:
        """Remove the parts that were uploaded."""
        if self._upload is not None:
            with suppress(Exception):
                self._s3.abort_multipart_upload(**self._object, UploadId=self._upload)


class S3Body(io.RawIOBase):
    """The body of an answer of S3 as a raw stream that raises our errors."""

    def __init__(self, body: Any, uri: str) -> None:
        self._body, self._uri = body, uri

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        beat()
        with clear_errors(self._uri):
            data = self._body.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
