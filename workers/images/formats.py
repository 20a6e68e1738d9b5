"""Which formats of images are read, and the outcome of a file of another kind."""

from __future__ import annotations

from typing import NoReturn

from PIL import Image, features

from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.formats.file_kinds import HEAD_BYTES, IMAGE_KINDS, described, kind_of

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""By Pillow's names. HEIF is added where it is needed and pillow-heif is installed."""
NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or, with the extra `heic`, HEIC"

_READ = frozenset(IMAGE_KINDS.values())
_NOT_FETCHED = "the file itself was not fetched: run `{}` where it is stored"
_HINTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Git LFS",), _NOT_FETCHED.format("git lfs pull")),
    (("git-annex",), _NOT_FETCHED.format("git annex get")),
    (("DVC",), _NOT_FETCHED.format("dvc pull")),
    (("text", "web page"), "its address leads to a page or a message, not to an image: look at it"),
    (("video",), 'give its frames as images: {"frames": [...]}'),
    (("archive", "gzip", "bzip2", "xz file", "Zstandard", "LZ4", "compressed"), "unpack it first"),
    (("`._`", ".DS_Store", "shortcut"), "leave it out: it stands beside a file, or for one"),
    (("zeros",), "copy the file again: its content was lost"),
)
"""Words of a kind -> what to do about it; the first that matches."""

_SUBFILE_TYPE, _REDUCED = 254, 1


def formats_for(data: bytes) -> tuple[str, ...]:
    """What Pillow may take an image's bytes for. Raises ItemError for a kind that is not read."""
    kind = kind_of(data[:HEAD_BYTES])
    if kind == IMAGE_KINDS["HEIF"]:
        _register_heif()
        return (*FORMATS, "HEIF")
    if kind == IMAGE_KINDS["AVIF"] and not features.check("avif"):
        raise ItemError(
            "unsupported_image",
            f"it is {kind}, which this worker's Pillow was built without",
            hint="install Pillow from its own wheel, or save the image as JPEG or PNG",
        )
    if kind is not None and kind not in _READ:
        refuse(data)
    return FORMATS


def _register_heif() -> None:
    """Let Pillow read HEIC. Raises ItemError where pillow-heif is not installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ItemError(
            "unsupported_image",
            f"it is {IMAGE_KINDS['HEIF']}, for which this worker lacks the package pillow-heif",
            hint="pip install 'rerankfleet[heic]' on the workers, or save it as JPEG or PNG",
        ) from None
    register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def refuse(data: bytes) -> NoReturn:
    """Raise the ItemError of bytes that Pillow does not take for any of the formats."""
    head = data[:HEAD_BYTES]
    kind = described(head)
    if kind in _READ:
        raise ItemError(
            "invalid_image",
            f"it begins like {kind}, but is truncated, damaged or of a variety that is not read",
            hint="save the image again, as JPEG or PNG",
        )
    lost = kind == "a file of zeros"
    hints = (hint for words, hint in _HINTS if any(word in kind for word in words))
    raise ItemError(
        "invalid_image" if lost else "unsupported_image",
        f"it is {kind}, not an image of a format that is read",
        hint=next(hints, f"use {NAMES}"),
    )


def refuse_raw(image: Image.Image) -> None:
    """Raise ItemError for a camera's raw photo: as TIFF it is the photo's thumbnail only."""
    tags = getattr(image, "tag_v2", {})
    reduced = tags.get(_SUBFILE_TYPE)
    if isinstance(reduced, int) and reduced & _REDUCED:
        raise ItemError(
            "unsupported_image",
            "it is a raw photo of a camera, or a TIFF image whose first picture is a thumbnail",
            hint="save the photo itself as JPEG, PNG or TIFF",
        )
