"""What a file is by its first bytes, in plain English: names for messages about files of the wrong
kind. Needs no library, and reads no more than it is given."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 4096
"""So many first bytes are enough for every kind; with fewer, some are not recognised."""

_BOM = b"\xef\xbb\xbf"

IMAGE_KINDS = {
    "JPEG": "a JPEG image",
    "PNG": "a PNG image",
    "WEBP": "a WebP image",
    "GIF": "a GIF image",
    "BMP": "a BMP image",
    "TIFF": "a TIFF image",
    "AVIF": "an AVIF image",
    "HEIF": "a HEIC image",
}
"""Pillow's name of a format -> its kind."""

_CAMERA = "a raw photo of a camera"
_MOVIE = "an MP4 video"
_STARTS: tuple[tuple[bytes, str], ...] = (
    # images
    (b"\xff\xd8\xff", IMAGE_KINDS["JPEG"]),
    (b"\x89PNG", IMAGE_KINDS["PNG"]),
    (b"GIF87a", IMAGE_KINDS["GIF"]),
    (b"GIF89a", IMAGE_KINDS["GIF"]),
    (b"II*\0\x10\0\0\0CR", _CAMERA),
    (b"II*\0", IMAGE_KINDS["TIFF"]),
    (b"MM\0*", IMAGE_KINDS["TIFF"]),
    (b"II+\0", IMAGE_KINDS["TIFF"]),
    (b"MM\0+", IMAGE_KINDS["TIFF"]),
    (b"IIU\0", _CAMERA),
    (b"IIRO\x08", _CAMERA),
    (b"IIRS\x08", _CAMERA),
    (b"MMOR\0", _CAMERA),
    (b"FUJIFILMCCD-RAW", _CAMERA),
    (b"FOVb\0", _CAMERA),
    (b"\0MRM", _CAMERA),
    (b"II\xbc", "a JPEG XR image"),
    (b"\xff\x0a", "a JPEG XL image"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"8BPS\0", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"\0\0\1\0", "an icon file"),
    (b"\0\0\2\0", "a cursor file"),
    (b"icns\0", "an icon file"),
    (b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (b"#?RADIANCE", "a Radiance image"),
    (b"#?RGBE", "a Radiance image"),
    (b"DDS \x7c", "a DDS texture"),
    (b"qoif\0", "a QOI image"),
    (b"BPG\xfb", "a BPG image"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (b"SIMPLE  =", "a FITS file"),
    # archives and compressed files
    (b"\x1f\x8b", "a gzip file"),
    (b"\x1f\x9d", "a compressed file (.Z)"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"PK\5\6", "an empty ZIP archive"),
    (b"PK\7\x08", "a part of a ZIP archive"),
    (b"!<arch>\n", "an ar archive"),
    # videos and sounds
    (b"FLV\1", "a Flash video"),
    (b"OggS\0", "an Ogg file"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"\0\0\1\xb3", "an MPEG video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file"),
    (b"\xff\xfb", "an MP3 sound"),
    (b"\xff\xf3", "an MP3 sound"),
    (b"\xff\xf2", "an MP3 sound"),
    (b"fLaC\0", "a FLAC sound"),
    (b"#!AMR", "an AMR sound"),
    # documents
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"{\\rtf", "an RTF document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"AT&TFORM", "a DjVu document"),
    # data and programs
    (b"PAR1\x15", "a Parquet file"),
    (b"PARE\x15", "an encrypted Parquet file"),
    (b"ARROW1\0\0", "an Arrow file"),
    (b"FEA1\0", "a Feather file"),
    (b"Obj\1", "an Avro file"),
    (b"ORC\x0a\x0b", "an ORC file"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x80\4\x95", "a Python pickle"),
    (b"\x80\5\x95", "a Python pickle"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"\xcf\xfa\xed\xfe", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\0asm", "a WebAssembly program"),
    # what systems leave beside or instead of a file
    (b"\0\5\x16\7", "a macOS resource file (its name begins with `._`)"),
    (b"\0\5\x16\0", "a macOS resource file"),
    (b"\0\0\0\1Bud1", "a .DS_Store file"),
    (b"\x4c\0\0\0\1\x14\2\0", "a Windows shortcut"),
    (b"[InternetShortcut]", "a shortcut to a web page"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer"),
    (b"version https://hawser.github.com/spec/", "a Git LFS pointer"),
    (b"\xff\xfe", "a UTF-16 text"),
    (b"\xfe\xff", "a UTF-16 text"),
)
"""First bytes -> kind; the first entry that matches counts."""

_INSIDE: tuple[tuple[int, bytes, str], ...] = (
    (257, b"ustar", "a tar archive"),
    (128, b"DICM", "a DICOM file"),
)
"""Bytes at an offset -> kind."""

_PATTERNS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"(?:(?:\.\./)*\.git)?/annex/objects/[^\n]+\n?\Z"), "a git-annex pointer"),
    (re.compile(rb"(?:#[^\n]*\n|md5: \w+\n)*outs:\s*\n\s*- (?:md5|hash|etag|size|path):"),
     "a DVC pointer"),
    (re.compile(rb"P[1-6]\s+(?:#|\d+\s)"), "a PNM image"),
    (re.compile(rb"P7\s+(?:#|WIDTH)"), "a PNM image"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), IMAGE_KINDS["BMP"]),
    (re.compile(rb"MZ.*\0\0", re.DOTALL), "a Windows program"),
    (re.compile(rb"\x01\0\0\0.{36} EMF", re.DOTALL), "a Windows metafile"),
    (re.compile(rb"\x1a\x45\xdf\xa3.{,60}\x42\x82.{1,8}webm", re.DOTALL), "a WebM video"),
    (re.compile(rb"\x1a\x45\xdf\xa3"), "a Matroska video (MKV)"),
    (re.compile(rb"\x47.{187}\x47.{187}\x47", re.DOTALL), "an MPEG video"),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "a bzip2 file"),
    (re.compile(rb"ID3[\2-\4]"), "an MP3 sound"),
    (re.compile(rb"FORM.{4}AIF", re.DOTALL), "an AIFF sound"),
)  # fmt: skip

_RIFF = {
    b"WEBP": IMAGE_KINDS["WEBP"],
    b"AVI ": "an AVI video",
    b"WAVE": "a WAV sound",
}

_BRANDS = (
    ((b"avif", b"avis"), IMAGE_KINDS["AVIF"]),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"), IMAGE_KINDS["HEIF"]),
    ((b"mif1", b"msf1", b"mif2"), IMAGE_KINDS["HEIF"]),
    ((b"crx ",), _CAMERA),
    ((b"qt  ",), "a QuickTime video (MOV)"),
    ((b"M4A ", b"M4B ", b"M4P "), "an MPEG-4 sound"),
)
"""Brands of a file of boxes -> kind. AVIF comes first: its files name `mif1` too."""
_BOXES = (b"moov", b"mdat", b"wide", b"skip", b"free", b"pnot", b"moof", b"styp")

_BEFORE_MARKUP = re.compile(rb"(?:\s+|<\?.*?\?>|<!--.*?-->)*", re.DOTALL)
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE)
_SVG = re.compile(rb"<(?:!DOCTYPE\s+svg|(?:\w+:)?svg)[\s>]")


def kind_of(head: bytes) -> str | None:
    """What a file is that begins with these bytes: "a PDF document", "a JPEG image".

    `head` is the file's first HEAD_BYTES, or the whole file where it is shorter. None where nothing
    is known by them, which is so for text without a form of its own: JSON Lines, CSV, plain lines.
    """
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    for at, inside, kind in _INSIDE:
        if head.startswith(inside, at):
            return kind
    for pattern, kind in _PATTERNS:
        if pattern.match(head):
            return kind
    if head and not head.strip(b"\0"):
        return "a file of zeros"
    return _container(head) or _markup(head.removeprefix(_BOM))


def described(head: bytes) -> str:
    """The same for any file, in words that follow "it is": also texts, an empty file, and "a file
    of an unknown kind"."""
    if not head:
        return "an empty file"
    return kind_of(head) or _text(head.removeprefix(_BOM)) or "a file of an unknown kind"


def _container(head: bytes) -> str | None:
    """The kind of a container that says further inside what it holds."""
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12])
    if head.startswith(b"PK\3\4"):
        return _zip(head)
    if head[4:8] == b"ftyp" and len(head) >= 12:
        return _boxes(head)
    return _MOVIE if head[4:8] in _BOXES and not head.startswith(b"\x20") else None


def _zip(head: bytes) -> str:
    """A ZIP archive, by the name of its first entry and what follows it."""
    if head.startswith((b"[Content_Types].xml", b"_rels/"), 30):
        return "an Office document"
    if head.startswith(b"mimetypeapplication/epub", 30):
        return "an e-book (EPUB)"
    if head.startswith(b"mimetypeapplication/vnd.oasis", 30):
        return "an OpenDocument file"
    return "a ZIP archive"


def _boxes(head: bytes) -> str:
    """A file of boxes (ISO 14496-12), by its own brand, then by those that it is compatible to."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    major, *others = (head[at : at + 4] for at in (8, *range(16, end - 3, 4)))
    for wanted in ([major] if major not in (b"mif1", b"msf1") else [], [major, *others]):
        for brands, kind in _BRANDS:
            if any(brand in brands for brand in wanted):
                return kind
    return _MOVIE


def _markup(head: bytes) -> str | None:
    """HTML, SVG or XML, by its first element."""
    before = _BEFORE_MARKUP.match(head)
    rest = head[before.end() :] if before else head
    if _SVG.match(rest):
        return "an SVG drawing"
    if _HTML.match(rest):
        return "a web page (HTML)"
    return "an XML text" if head.lstrip().startswith(b"<?xml") else None


def _text(head: bytes) -> str | None:
    """The kind of a text without a form of its own, or None for what is no text."""
    if b"\0" in head:
        return None
    try:  # the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    if any(c < " " and c not in "\t\n\r\f\x1b" for c in text):
        return None
    start = text.lstrip()[:1]
    if start == "<":
        return "an XML text or a web page"
    return "a JSON text" if start in ("{", "[") else "a plain text"
