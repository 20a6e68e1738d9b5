"""Whatever a text is written in, it is read as UTF-8; what is not is named."""

from __future__ import annotations

import codecs
import gzip
import io
import json

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.encodings import is_blank, other_encoding
from rerankfleet.shared.formats.lines import parse_line, raw_lines
from rerankfleet.shared.formats.sources import is_plain, plain

LINE = {"query": "Stühle 椅子 🪑", "documents": ["a", "ü"]}
TEXT = (json.dumps(LINE, ensure_ascii=False) + "\r\n") * 3
MARKS = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


def read(data: bytes) -> bytes:
    with plain(io.BytesIO(data), "f") as lines:
        return lines.read()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("encoding", MARKS)
def test_another_encoding_with_its_mark_is_read(encoding, pack):
    data = pack(MARKS[encoding] + TEXT.encode(encoding))

    assert read(data) == TEXT.encode()
    assert not is_plain(io.BytesIO(data))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_shows_by_its_zeros(encoding):
    assert read(TEXT.encode(encoding)) == TEXT.encode()


def test_utf_8_stays_as_it_is():
    for data in (TEXT.encode(), b"\xef\xbb\xbf" + TEXT.encode(), b"", b"a", b"\xff", b"a\0b\1"):
        assert other_encoding(data) is None
        assert read(data) == data
        assert is_plain(io.BytesIO(data))


def test_a_large_file_of_another_encoding_is_read_whole():
    text = "".join(f'{{"query": "{n} é🪑"}}\n' for n in range(120_000))

    assert read(codecs.BOM_UTF16_LE + text.encode("utf-16-le")) == text.encode()


def test_half_a_surrogate_pair_costs_its_own_line():
    good = json.dumps(LINE) + "\n"
    data = MARKS["utf-16-le"] + (good + '{"query": "\ud800"}\n' + good).encode(
        "utf-16-le", "surrogatepass"
    )
    lines = [line for _, line in raw_lines(io.BytesIO(read(data)), 1000)]

    pieces = [parse_line(n, line, max_documents=9) for n, line in enumerate(lines, 1)]

    assert [len(piece.failures) for piece in pieces] == [0, 1, 0]
    assert pieces[1].failures[0].message == "not UTF-8 at byte 11"


def test_a_text_that_is_cut_within_a_character_says_so():
    with pytest.raises(UsageError, match=r"f seems to be UTF-16-LE, but is not near byte \d+"):
        read((MARKS["utf-16-le"] + TEXT.encode("utf-16-le"))[:-1])


def test_what_is_blank():
    for line in (b"", b" \t", b"\r", b"\xef\xbb\xbf", "\u3000\u00a0".encode(), b"\x0b\x0c"):
        assert is_blank(line), line
    for line in (b"a", b" {", "\u3000a".encode(), b"\xff", b"\0", b",,"):
        assert not is_blank(line), line
