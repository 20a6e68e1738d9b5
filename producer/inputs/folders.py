"""What is taken of a prefix or folder: images by the end of their names; the others are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from urllib.parse import unquote

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)
"""What is read of a prefix or folder; other files are passed over. Whether a worker can decode the
last ones depends on what it has installed: if it cannot, their rows say what is missing."""
NAMES_COUNTED = 20_000
"""So many names of a folder are read when a job is made, to say what is passed over."""
SUFFIXES_SHOWN = 5

_SUFFIX = re.compile(r"[^.]\.([A-Za-z0-9_-]{1,10})\s*\Z")


def is_folder(uri: str) -> bool:
    """Whether a URI names a prefix or folder rather than an object."""
    return uri.endswith("/")


def name_in(address: str, folder: str) -> str:
    """The name of a listed key below its prefix. Of a file it is the last part alone: the folders
    above it are not hidden, or it would not be listed."""
    if folder.startswith("file:"):
        return unquote(address.rpartition("/")[2])
    return address[len(folder) :]


def is_image(name: str) -> bool:
    """Whether a name is that of an image. Hidden ones are not: they belong to programs, such as
    `._a.jpg` of macOS."""
    return not is_hidden(name) and name.rstrip().lower().endswith(IMAGE_SUFFIXES)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder above it, is hidden."""
    return name.startswith(".") or "/." in name


def passed_over(names: Iterable[str]) -> Iterator[str]:
    """The suffixes of the names that are no images, empty where there is none; hidden ones and the
    markers of folders in S3 are not counted."""
    for name in names:
        if not is_image(name) and not is_hidden(name) and not is_folder(name) and name:
            match = _SUFFIX.search(name)
            yield f".{match[1].lower()}" if match else ""


def said(suffixes: Iterable[str], *, of_first: int | None = None) -> str:
    """What was passed over in one line, `7 passed over: 5 .txt, 2 without suffix`; empty for
    nothing. `of_first`: how many names were counted, where there are more."""
    counts = Counter(suffixes)
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    parts = [f"{count:,} {suffix or 'without suffix'}" for suffix, count in ranked[:SUFFIXES_SHOWN]]
    if rest := sum(count for _, count in ranked[SUFFIXES_SHOWN:]):
        parts.append(f"{rest:,} others")
    among = f" among the first {of_first:,} names" if of_first else ""
    return f"{counts.total():,} passed over{among}: {', '.join(parts)}"


def survey(folder: str, listed: Iterator[str]) -> tuple[bool, str]:
    """Whether a prefix or folder has an image, and what is passed over in it, in one line. Reads
    the first NAMES_COUNTED names, or up to the first image where that comes later."""
    names = (name_in(address, folder) for address in listed)
    first = list(islice(names, NAMES_COUNTED))
    beyond = next(names, None)
    has_image = any(map(is_image, first)) or (
        beyond is not None and (is_image(beyond) or any(map(is_image, names)))
    )
    return has_image, said(passed_over(first), of_first=None if beyond is None else len(first))
