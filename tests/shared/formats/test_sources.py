"""Where lines come from, and what is refused before any work starts."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.sources import COPY_BYTES, Hashing, is_uri, open_local, plain, probe

LINE = json.dumps({"query": "q", "documents": ["a"]}).encode() + b"\n"


class Trickle(io.RawIOBase):
    """A raw stream that gives one byte at a time, as a slow connection may."""

    def __init__(self, data: bytes) -> None:
        self._rest = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._rest.readinto(memoryview(buffer)[:1])


def unpack(data: bytes) -> bytes:
    with plain(io.BytesIO(data), "f") as lines:
        return lines.read()


@pytest.mark.parametrize("data", [LINE * 3, b"", b"\x1f", b"\n"])
def test_plain_and_packed_bytes_read_alike(data):
    assert unpack(data) == data
    assert unpack(gzip.compress(data)) == data


def test_several_packed_files_in_a_row_are_one():
    assert unpack(gzip.compress(LINE) + gzip.compress(LINE)) == LINE * 2


def damaged() -> dict[str, bytes]:
    packed = gzip.compress(b"".join(LINE[:-1] + b"%d\n" % i for i in range(5000)))
    middle = bytearray(packed)
    middle[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    checksum = bytearray(packed)
    checksum[-6] ^= 1
    return {
        "cut short": packed[: len(packed) // 2],
        "wrong in the middle": bytes(middle),
        "wrong checksum": bytes(checksum),
        "something behind it": packed + b"garbage",
        "nothing but the magic": packed[:2],
    }


@pytest.mark.parametrize("how", damaged())
def test_damaged_gzip_says_so(how):
    with pytest.raises(UsageError, match=r"f is damaged gzip \(.*\): create it again"):
        unpack(damaged()[how])


def test_probing_consumes_nothing():
    with plain(io.BytesIO(gzip.compress(LINE * 2)), "f") as lines:
        probe(lines, "f")
        assert lines.read() == LINE * 2


def test_a_slow_stream_is_waited_for():
    with plain(Hashing(io.BufferedReader(Trickle(LINE))), "f") as lines:
        probe(lines, "f")
        assert lines.read() == LINE


@pytest.mark.parametrize("data", [b"\x00\x01binary", b"a,b\n1,2\n", b"[1]\n"], ids=repr)
def test_other_formats_are_refused(data):
    with plain(io.BytesIO(data), "f") as lines, pytest.raises(UsageError, match="not JSON Lines"):
        probe(lines, "f")


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_input_is_refused(data):
    with plain(io.BytesIO(data), "f") as lines, pytest.raises(UsageError, match="f is empty"):
        probe(lines, "f")


def test_one_very_long_line_is_left_to_be_parsed_in_its_turn():
    line = json.dumps({"query": "q", "documents": ["x" * (2 * COPY_BYTES)]}).encode()
    with plain(io.BytesIO(line), "f") as lines:
        probe(lines, "f")
        assert lines.read() == line


def test_what_was_read_is_hashed():
    hashing = Hashing(io.BytesIO(LINE * 100))
    with plain(hashing, "f") as lines:
        while lines.read(7):
            pass

    assert hashing.hexdigest() == hashlib.sha256(LINE * 100).hexdigest()
    assert hashing.size == len(LINE) * 100


def test_standard_input_is_a_dash(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LINE)))
    with open_local("-") as stream:
        assert stream.read() == LINE


def test_a_path_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "file").touch()
    for name, words in {
        "missing.jsonl": "missing.jsonl does not exist: check the path",
        "file/below": "below does not exist",
        "": "is a folder: name a file in it",
        "x" * 300: r"cannot be read \(File name too long\)",
    }.items():
        with pytest.raises(UsageError, match=words):
            open_local(str(tmp_path / name)).__enter__()


def test_what_the_coordinator_reads_itself_is_a_uri():
    assert is_uri("s3://b/k")
    assert is_uri("file:///p")
    assert not is_uri("http://host/p")
    assert not is_uri("C:/p")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\3\4" + bytes(50), "a ZIP archive"),
        (b"SQLite format 3\0", "an SQLite database"),
        (b"PAR1\x15", "a Parquet file"),
        (gzip.compress(b"x" * 257 + b"ustar"), "a tar archive"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(data, kind):
    words = f"f seems to be {kind}, expected JSON Lines: write one JSON object a line"
    with plain(io.BytesIO(data), "f") as lines, pytest.raises(UsageError, match=words):
        probe(lines, "f")


def test_blank_lines_before_the_first_request_are_passed_over():
    with plain(io.BytesIO(b"\n \n" * 40 + LINE), "f") as lines:
        probe(lines, "f")
