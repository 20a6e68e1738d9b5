"""Sources of lines: a path, standard input or a URI, plain or gzip, in UTF-8 or UTF-16; and what is
refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from rerankfleet.shared.addresses import canonical, local_path, printable, safe_uri, scheme_of
from rerankfleet.shared.errors import OutputExists, UsageError
from rerankfleet.shared.formats.encodings import MARK_BYTES, as_utf8, is_blank, other_encoding
from rerankfleet.shared.formats.file_kinds import HEAD_BYTES as KIND_BYTES
from rerankfleet.shared.formats.file_kinds import kind_of
from rerankfleet.shared.formats.lines import FORMAT_HINT, raw_lines, refuse_other_formats
from rerankfleet.shared.formats.manifest import manifest_uri
from rerankfleet.shared.heartbeat import beat
from rerankfleet.shared.storage.local_files import is_stream
from rerankfleet.shared.storage.objects import Objects

COPY_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
UNPACKED_FREE_BYTES = 256 << 20
UNPACKED_RATIO_MAX = 100
"""A gzip file may unpack to so many bytes in any case, and to so many times its size: text packs
ten or thirty times, a decompression bomb a thousand times."""
PROBE_LINES = 20
"""A file is refused as a whole if none of its first lines is a JSON object."""


def is_uri(text: str) -> bool:
    """Whether the coordinator reads or writes it, rather than the client."""
    return text.startswith(("s3://", "file://"))


def source_of(text: str) -> str:
    """The path or URI of an input or output as people write it, in the form that `is_uri` takes.
    Raises UsageError for an address that is neither."""
    address = canonical(text)
    if scheme_of(address) in ("", "s3", "file") or os.path.lexists(address):
        return address
    raise UsageError(
        f"{safe_uri(address)} is neither a path nor s3:// or file://",
        hint="download it first, or put it into S3",
    )


@contextmanager
def open_local(source: str) -> Iterator[BinaryIO]:
    """The bytes of a path, or of standard input for `-`. Raises UsageError if it cannot be read."""
    if not source:
        raise UsageError("the input has no name", hint="name a file, or - for standard input")
    if source == "-":
        yield sys.stdin.buffer
        return
    name = printable(source)
    try:
        stream = Path(source).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"the input {name} does not exist", hint="check the path") from None
    except IsADirectoryError:
        raise UsageError(f"the input {name} is a folder", hint="name a file in it") from None
    except OSError as error:
        raise UsageError(f"the input {name} cannot be read ({error.strerror})") from None
    except ValueError as error:  # a NUL
        raise UsageError(f"the input {name} is not a path ({error})", hint="check it") from None
    with stream:
        yield stream


@contextmanager
def plain(raw: io.RawIOBase | BinaryIO, name: str) -> Iterator[io.BufferedReader]:
    """The bytes of a stream in UTF-8, unpacked if it is gzip."""
    counted = _Counted(raw)
    buffered: io.BufferedReader = io.BufferedReader(cast(io.RawIOBase, counted), COPY_BYTES)
    if buffered.peek(2).startswith(GZIP_MAGIC):
        unpacked = _Unpacked(buffered, counted, name)
        buffered = io.BufferedReader(cast(io.RawIOBase, unpacked), COPY_BYTES)
    yield as_utf8(buffered, name)


def is_plain(raw: BinaryIO) -> bool:
    """Whether the bytes of a stream at its start are lines as they stand: `plain` changes nothing,
    and any offset in them can be sought."""
    head = raw.read(MARK_BYTES)
    return not head.startswith(GZIP_MAGIC) and other_encoding(head) is None


def refuse_bomb(name: str, packed: int, unpacked: int) -> None:
    """Raise UsageError when a file unpacks to far more bytes than text would."""
    if unpacked > UNPACKED_FREE_BYTES + UNPACKED_RATIO_MAX * packed:
        raise UsageError(
            f"{name} unpacks to more than {UNPACKED_RATIO_MAX} times its size",
            hint="if that is intended, submit it unpacked, as JSON Lines",
        )


class _Counted(io.RawIOBase):
    """A raw stream that counts what is read through it."""

    def __init__(self, stream: io.RawIOBase | BinaryIO) -> None:
        self._stream = cast(io.RawIOBase, stream)
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        beat()
        count = self._stream.readinto(buffer) or 0
        self.size += count
        return count


class _Unpacked(io.RawIOBase):
    """Gzip as a raw stream that raises UsageError as soon as it is damaged or a bomb."""

    def __init__(self, packed: io.BufferedReader, counted: _Counted, name: str) -> None:
        self._stream = gzip.GzipFile(fileobj=packed)
        self._counted = counted
        self._name = name
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        beat()
        try:
            data = self._stream.read(len(buffer))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UsageError(
                f"{self._name} is damaged gzip ({error})", hint="create it again"
            ) from error
        buffer[: len(data)] = data
        self._size += len(data)
        refuse_bomb(self._name, self._counted.size, self._size)
        return len(data)


def probe(plain: io.BufferedReader, name: str) -> None:
    """Refuse what is not JSON Lines, without consuming anything."""
    refuse_other_kinds(plain, name, "JSON Lines", FORMAT_HINT)
    lines = first_lines(plain)
    if lines is not None:
        refuse_other_formats(lines, name)


def refuse_other_kinds(plain: io.BufferedReader, name: str, expected: str, hint: str) -> None:
    """Raise UsageError for what is no text by its first bytes, without consuming anything."""
    if kind := kind_of(plain.peek(KIND_BYTES)[:KIND_BYTES]):
        raise UsageError(f"{printable(name)} seems to be {kind}, expected {expected}", hint=hint)


def first_lines(plain: io.BufferedReader) -> list[bytes] | None:
    """The first lines, those that are not blank if any is, without consuming anything. None where
    they are too long to tell: they are checked when they are read."""
    head = plain.peek(COPY_BYTES)
    is_cut = len(head) >= COPY_BYTES - 1
    lines = [line for _, line in raw_lines(io.BytesIO(head), len(head)) if line is not None]
    if is_cut and not head.endswith(b"\n"):
        lines.pop()
    kept = [line for line in lines if not is_blank(line)][:PROBE_LINES]
    return None if is_cut and not kept else kept or lines[:1]


class Hashing(io.RawIOBase):
    """A raw stream that hashes what is read through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        self._digest.update(data)
        self.size += len(data)
        buffer[: len(data)] = data
        return len(data)

    def hexdigest(self) -> str:
        """The hash of everything read so far, in hexadecimal."""
        return self._digest.hexdigest()


def refuse_existing(output: str, objects: Objects, *, force: bool) -> None:
    """Raise before any work if an output cannot be written, or exists and `force` is not set."""
    if is_uri(output):
        objects.check(output)
        exists = objects.exists(output)
    else:
        with output_errors(output):
            path = Path(output)
            if path.is_dir():
                raise UsageError(
                    f"the output {printable(output)} is a folder", hint="name a file in it"
                )
            require_writable(path)
            exists = path.exists() and not is_stream(path)
    if exists and not force:
        raise OutputExists(
            f"the output {printable(output)} exists",
            hint="set `force` to replace it",
            command="--force",
        )


def refuse_same(source: str, output: str) -> None:
    """Raise UsageError if an output, or its manifest, would replace the input."""
    if any(_is_same(source, written) for written in (output, manifest_uri(output))):
        raise UsageError(
            f"the output {printable(output)} would replace the input {printable(source)}",
            hint="name another file",
        )


def _is_same(one: str, other: str) -> bool:
    if one.startswith("s3://") or other.startswith("s3://"):
        return one == other
    paths = [local_path(uri) if is_uri(uri) else Path(uri) for uri in (one, other)]
    with suppress(OSError, ValueError):  # one of them does not exist
        return paths[0].samefile(paths[1]) and not is_stream(paths[0])
    return False


def require_writable(path: Path) -> None:
    """Raise OSError if a file cannot be made there. Folders that are missing will be made."""
    if is_stream(path):
        return
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    with TemporaryFile(dir=folder):
        pass


@contextmanager
def output_errors(output: str | Path) -> Iterator[None]:
    """Turn errors of the file system into a UsageError that names the output."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the output {printable(str(output))} cannot be written ({error.strerror or error})",
            hint="name a file where you may write and where there is room",
        ) from error
