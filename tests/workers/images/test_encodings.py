"""The content encodings of a body are taken off, within the bytes that an image may have."""

from __future__ import annotations

import gzip
import random
import time
import zlib

import pytest

from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images import encodings
from rerankfleet.workers.images.budget import Budget, Transient
from rerankfleet.workers.images.encodings import unpacked
from rerankfleet.workers.images.fetch import Fetcher
from tests.support.nonsense import OK, Nonsense, outcome

BODY = random.Random(1).randbytes(200_000) + b"x" * 200_000
URI = "https://host/a.jpg"


def budget(max_bytes: int = len(BODY)) -> Budget:
    return Budget(URI, max_bytes, 60, time.monotonic() + 60)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def brotli(data: bytes) -> bytes:
    return pytest.importorskip("brotli").compress(data, quality=4)


PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli}


@pytest.mark.parametrize("header", [None, "", "identity", " Identity ,", "none", "aws-chunked"])
def test_without_an_encoding_the_bytes_stay_as_they_are(header):
    assert unpacked(BODY, header, budget()) is BODY


@pytest.mark.parametrize(
    ("header", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZip", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]) + bytes(20)),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("br", brotli),
        ("gzip, gzip", lambda data: gzip.compress(gzip.compress(data))),
        ("deflate,gzip", lambda data: gzip.compress(zlib.compress(data))),
        ("aws-chunked, gzip", gzip.compress),
        ("identity, br, gzip", lambda data: gzip.compress(brotli(data))),
    ],
)
def test_encodings_are_taken_off_in_their_order(header, pack):
    packed = pack(BODY)
    assert unpacked(packed, header, budget()) == BODY
    assert unpacked(pack(b""), header, budget()) == b""
    assert unpacked(b"", header, budget()) == b""  # nothing was sent, which is an empty image


@pytest.mark.parametrize("name", PACK)
def test_a_bomb_costs_no_more_than_the_bytes_of_an_image(name, monkeypatch):
    """Given a few kilobytes that unpack to 200 MB, plainly and packed twice."""
    bomb = PACK[name](bytes(200_000_000))
    steps: list[int] = []
    check_time = Budget.check_time
    monkeypatch.setattr(Budget, "check_time", lambda self: steps.append(1) or check_time(self))
    for data, header in ((bomb, name), (gzip.compress(bomb), f"{name}, gzip")):
        with pytest.raises(ItemError) as caught:
            unpacked(data, header, budget(1 << 20))
        assert caught.value.code == "too_large"
        assert f"unpacks from {name} to more than 1,048,576 bytes" in caught.value.message
    assert len(steps) < 100


@pytest.mark.parametrize("name", PACK)
def test_a_truncated_encoding_is_a_broken_connection(name):
    packed = PACK[name](BODY)
    for size in (1, 5, len(packed) // 2, len(packed) - 1):
        with pytest.raises(Transient, match=f"its {name} encoding ends too early"):
            unpacked(packed[:size], name, budget())


@pytest.mark.parametrize("name", PACK)
def test_a_damaged_encoding_or_none_at_all_is_named(name):
    packed = bytearray(PACK[name](BODY))
    packed[50:60] = bytes(10)
    damaged = [b"\x89PNG\r\n\x1a\n" + BODY, PACK[name](BODY) + b"more"]
    if name != "br":  # which has no check sum
        damaged.append(bytes(packed))
    for data in damaged:
        with pytest.raises(ItemError) as caught:
            unpacked(data, name, budget())
        assert caught.value.code == "invalid_image"
        assert f"content encoding {name}" in caught.value.message


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("zstd", "'zstd'"),
        ("compress", "'compress'"),
        ("base64", "'base64'"),
        ("gzip, dcb", "'dcb'"),
        ("x" * 500, "'another'"),
        ("gzip," * 5, "5 content encodings"),
    ],
)
def test_an_encoding_that_is_not_read_is_refused_by_name(header, words):
    with pytest.raises(ItemError) as caught:
        unpacked(BODY, header, budget())
    assert caught.value.code == "unreadable"
    assert words in caught.value.message


def test_brotli_is_refused_by_name_where_no_library_bounds_it(monkeypatch):
    monkeypatch.setattr(encodings, "_BROTLI", ("no_such_library", "zlib"))
    monkeypatch.setattr(zlib, "Decompressor", object, raising=False)
    with pytest.raises(ItemError, match="'br', which is not read"):
        unpacked(b"\x0b\x02\x80", "br", budget())


# ---- over HTTP and from S3 ----------------------------------------------------------------------


def answer(body: bytes, encoding: str, length: int | None = None) -> bytes:
    announced = len(body) if length is None else length
    headers = f"Content-Encoding: {encoding}\r\nContent-Length: {announced}\r\n\r\n"
    return OK + headers.encode() + body


def test_an_encoded_answer_is_unpacked(server: Nonsense):
    small = BODY[:1000]
    packed = gzip.compress(small)
    assert outcome(server, answer(packed, "gzip")) == small
    chunks = f"{len(packed):x}\r\n".encode() + packed + b"\r\n0\r\n\r\n"
    in_chunks = OK + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + chunks
    assert outcome(server, in_chunks) == small
    two = OK + b"Content-Encoding: deflate\r\nContent-Encoding: gzip\r\n\r\n"
    assert outcome(server, two + gzip.compress(zlib.compress(small))) == small


@pytest.mark.parametrize(
    ("sent", "code", "requests"),
    [
        (answer(gzip.compress(bytes(50_000_000)), "gzip"), "too_large", 1),
        (answer(gzip.compress(BODY)[:-9], "gzip"), "fetch_failed", 2),
        (answer(gzip.compress(BODY)[:-9], "gzip", len(gzip.compress(BODY))), "fetch_failed", 2),
        (answer(BODY, "gzip"), "invalid_image", 1),
        (answer(BODY, "zstd"), "unreadable", 1),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # they hold a time
)
def test_an_encoded_answer_that_is_wrong_has_its_outcome(server, sent, code, requests, at_once):
    error = outcome(server, sent)
    assert isinstance(error, ItemError)
    assert (error.code, server.requests) == (code, requests)


def test_an_encoded_object_is_unpacked(s3):
    def put(key: str, body: bytes, encoding: str) -> str:
        s3.put_object(Bucket="pairs", Key=key, Body=body, ContentEncoding=encoding)
        return f"s3://pairs/{key}"

    fetcher = Fetcher(allowed_buckets=("pairs",), max_bytes=len(BODY))
    assert fetcher.fetch(put("a.jpg", gzip.compress(BODY), "gzip")) == BODY
    for uri, code in {
        put("bomb.jpg", gzip.compress(bytes(50_000_000)), "gzip"): "too_large",
        put("plain.jpg", b"\xff\xd8\xff", "gzip"): "invalid_image",
        put("zstd.jpg", BODY, "zstd"): "unreadable",
    }.items():
        with pytest.raises(ItemError) as caught:
            fetcher.fetch(uri)
        assert caught.value.code == code
