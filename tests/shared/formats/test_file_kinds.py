"""What a file is, by its first bytes: nothing that is text is taken for something else."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from rerankfleet.shared.formats.file_kinds import HEAD_BYTES, described, kind_of


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("photo.jpg")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"bytes"))
    return stream.getvalue()


def _zip(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), data)  # without the time
    return stream.getvalue()


def _boxes(major: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + major + b"\0\0\0\0" + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"GIF89a\1\0\1\0", "a GIF image"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP image"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "a BMP image"),
        (b"II*\0\x08\0\0\0", "a TIFF image"),
        (b"II*\0\x10\0\0\0CR\2\0", "a raw photo of a camera"),
        (b"FUJIFILMCCD-RAW 0201", "a raw photo of a camera"),
        (_boxes(b"crx ", b"isom"), "a raw photo of a camera"),
        (_boxes(b"avif", b"mif1", b"miaf"), "an AVIF image"),
        (_boxes(b"mif1", b"avif"), "an AVIF image"),
        (_boxes(b"mif1", b"heic"), "a HEIC image"),
        (_boxes(b"heic", b"mif1"), "a HEIC image"),
        (_boxes(b"msf1", b"hevc"), "a HEIC image"),
        (_boxes(b"isom", b"iso2", b"mp41"), "an MP4 video"),
        (_boxes(b"qt  "), "a QuickTime video (MOV)"),
        (_boxes(b"M4A ", b"isom"), "an MPEG-4 sound"),
        (b"\0\0\0\x08wide\0\0\1\0mdat", "an MP4 video"),
        (b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\1\x42\x82\x88matroska", "a Matroska video (MKV)"),
        (b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm", "a WebM video"),
        (b"RIFF\x24\0\0\0AVI LIST", "an AVI video"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"%PDF-1.7\n", "a PDF document"),
        (gzip.compress(b"x", mtime=0), "a gzip file"),
        (_zip("a.txt", b"x"), "a ZIP archive"),
        (_zip("[Content_Types].xml", b"x"), "an Office document"),
        (_zip("mimetype", b"application/epub+zip"), "an e-book (EPUB)"),
        (_tar(), "a tar archive"),
        (b"\0" * 600, "a file of zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"/annex/objects/SHA256E-s5--0.jpg\n", "a git-annex pointer"),
        (b"../.git/annex/objects/Xx/1/SHA256E-s5--0.jpg/SHA256E", "a git-annex pointer"),
        (b"outs:\n- md5: 0\n  size: 5\n  path: photo.jpg\n", "a DVC pointer"),
        (b"\0\5\x16\7\0\2\0\0Mac OS X", "a macOS resource file (its name begins with `._`)"),
        (b"<!DOCTYPE html><html>", "a web page (HTML)"),
        (b"\xef\xbb\xbf\n  <!-- hello --> <HTML lang=en>", "a web page (HTML)"),
        (b'<?xml version="1.0"?>\n<!-- made by -->\n<svg xmlns="">', "an SVG drawing"),
        (b"<svg>", "an SVG drawing"),
        (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', "an XML text"),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "">', "a web page (HTML)"),
        (b"PAR1\x15\4", "a Parquet file"),
        (b"\xff\xfe{\0", "a UTF-16 text"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else None,  # they hold a time
)
def test_a_kind_is_known_by_its_first_bytes(head, kind):
    assert kind_of(head) == kind == described(head)
    assert described(head + b"\xff\0" * HEAD_BYTES) in (kind, "a file of an unknown kind")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "an empty file"),
        (b'{"query": "a", "documents": ["b"]}\n', "a JSON text"),
        (b'\xef\xbb\xbf [{"error": 1}]', "a JSON text"),
        (b"id,query,document\n1,a,b\n", "a plain text"),
        (b"Rate limit exceeded", "a plain text"),
        (b"BMW,price\n", "a plain text"),
        (b"MZ is the start of a line of text\n", "a plain text"),
        (b"PAR1,PAR2\n1,2\n", "a plain text"),
        (b"P2 is a query", "a plain text"),
        (b'{"image":"/photos/.git/annex/objects/a.jpg"}\n', "a JSON text"),
        (b".git/annex/objects/a.jpg\n.git/annex/objects/b.jpg\n", "a plain text"),
        (b"ID3,ID4\n", "a plain text"),
        (b"MMORPG,price\n", "a plain text"),
        (b"ab moov is a box", "a plain text"),
        (b"RIFF is a word too", "a plain text"),
        ("naïve, 椅子".encode()[:-1], "a plain text"),
        (b"<p>some text", "an XML text or a web page"),
        (b"no\0text", "a file of an unknown kind"),
        (b"\x9f\x01\x02", "a file of an unknown kind"),
    ],
)
def test_a_text_without_a_form_of_its_own_is_of_no_kind(head, words):
    assert kind_of(head) is None
    assert described(head) == words


def test_no_beginning_of_a_file_fails():
    for whole in (_tar(), _boxes(b"mif1", b"avif"), b"RIFF\x24\0\0\0WEBPVP8 ", _zip("a", b"x")):
        for size in range(64):
            described(whole[:size])
