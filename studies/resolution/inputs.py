"""Images with their categories, and queries: read, checked, and kept on disk for the run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import structlog

from rerankfleet.producer.contents import read_contents
from rerankfleet.producer.inputs.catalog import QUERIES_BYTES
from rerankfleet.producer.inputs.csv_rows import CsvRows
from rerankfleet.producer.inputs.folders import IMAGE_SUFFIXES, is_image, passed_over, said
from rerankfleet.producer.inputs.tables import CSV_ROW_BYTES, columns_of, table_suffix
from rerankfleet.shared.addresses import (
    path_address,
    printable,
    safe_uri,
    scheme_of,
    without_secrets,
)
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.formats.sources import plain
from rerankfleet.shared.settings import Settings
from rerankfleet.studies.resolution.plan import Cell
from rerankfleet.workers.images.decode import prepare_image
from rerankfleet.workers.images.fetch import Fetcher

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listed:
    """An image as it was listed."""

    name: str
    """For display: the address without secrets, in characters that any file holds."""
    uri: str
    category: str


@dataclass(frozen=True, slots=True)
class Held:
    """An image whose bytes are on disk and can be decoded."""

    name: str
    category: str
    path: Path


@dataclass(frozen=True, slots=True)
class Skipped:
    """An image that was left out, and why."""

    image: str
    code: str
    message: str


def read_queries(path: Path) -> list[str]:
    """One query per line, or per row of a table with the column `text`; blank lines are skipped.
    Raises UsageError."""
    if table_suffix(str(path)):
        rows = read_contents(str(path), None, QUERIES_BYTES)
        queries = [_query_of(path, number, fields) for number, fields in rows]
    else:
        queries = [line.strip() for line in _text(path, "queries").splitlines() if line.strip()]
    if not queries:
        raise UsageError(f"{path} has no queries", hint="write one query per line")
    _refuse_twice(f"{path}: the query", queries)
    return queries


def _query_of(path: Path, number: int, fields: Mapping[str, Any]) -> str:
    text = fields.get("text")
    if not isinstance(text, str) or not text.strip() or "image" in fields:
        raise UsageError(f"{path}, line {number}: a query here is text alone", hint="see `text`")
    return text.strip()


def read_images(source: Path, categories: Path | None = None) -> list[Listed]:
    """The images of a folder with its sub-folders, or of a listing.

    A listing has one path or URI per line, or is CSV with columns `image` and, optionally,
    `category`. `categories` is CSV with both columns; its images are named as in the listing,
    or by their path in the folder. Raises UsageError.
    """
    listed = list(_folder(source) if source.is_dir() else _listing(source))
    if not listed:
        raise UsageError(
            f"{source} names no image",
            hint=f"in a folder, files are used that end with {' '.join(IMAGE_SUFFIXES)}",
        )
    by_uri = dict(_rows(categories, ("image", "category"))) if categories else {}
    if unknown := by_uri.keys() - {uri for uri, _ in listed}:
        raise UsageError(
            f"{categories} names {len(unknown)} images that are not studied, such as "
            f"{safe_uri(min(unknown))}",
            hint="name images as the listing does, or by their path in the folder",
        )
    _refuse_twice(f"{source}: the image", [uri for uri, _ in listed], safe_uri)
    names = _distinct(printable(without_secrets(uri)) for uri, _ in listed)
    return [
        Listed(name, uri, by_uri.get(uri, category))
        for name, (uri, category) in zip(names, listed, strict=True)
    ]


def hold(
    images: Iterable[Listed], base: Path, settings: Settings, folder: Path, cell: Cell
) -> tuple[list[Held], list[Skipped]]:
    """Fetch each image once into `folder`, and decode it once as a check.

    Relative paths start at `base`, from which images may be read besides the locations that the
    settings allow. Raises UsageError when credentials are refused, or nothing is left.
    """
    fetcher = Fetcher(
        allowed_buckets=settings.allowed_buckets,
        allowed_hosts=settings.allowed_hosts,
        allowed_roots=[*settings.allowed_roots, base],
        base=base,
        max_bytes=settings.image_bytes_max,
        timeout_s=settings.image_timeout_s,
    )
    held: list[Held] = []
    skipped: list[Skipped] = []
    for number, image in enumerate(images):
        try:
            data = fetcher.fetch(image.uri)
            prepare_image(data, cell.options)
        except ItemError as error:
            skipped.append(Skipped(image.name, error.code, str(error)))
            continue
        path = folder / f"{number:06}"
        path.write_bytes(data)
        held.append(Held(image.name, image.category, path))
    if not held:
        first = skipped[0]
        raise UsageError(
            f"none of the {len(skipped)} images can be used; {first.image}: {first.message}"
        )
    return held, skipped


def _folder(folder: Path) -> Iterator[tuple[str, str]]:
    """The images of a folder by their paths in it; one that reads as an address, or is not UTF-8,
    by the address of that path."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in files]
    if others := said(passed_over(names)):
        log.warning("files that are no images", folder=str(folder), others=others)
    for name in filter(is_image, names):
        yield path_address(name) if scheme_of(name) else printable(name), ""


def _listing(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() == ".csv":
        yield from _rows(path, ("image",))
        return
    for line in _text(path, "images", errors="surrogateescape").split("\n"):
        if line.strip():
            yield line.strip(" \t\r"), ""


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """(image, category) of each row of CSV that names an image."""
    rows = iter(CsvRows(io.BytesIO(_text(path, "CSV").encode()), str(path), CSV_ROW_BYTES))
    header = next(rows, None)
    names = header.cells if header else []
    places = {}
    for column in needed:
        places = columns_of(names, str(path), (column,), ("image", "category"))
    for row in rows:
        if row.error or len(row.cells) != len(names):
            why = row.error or f"{len(row.cells)} columns, expected {len(names)}, {row.place}"
            raise UsageError(f"{path}, line {row.line}: {why}", hint="correct the row")
        cells = {name: row.cells[at].strip() for name, at in places.items()}
        if cells["image"]:
            yield cells["image"], cells.get("category", "")


def _text(path: Path, what: str, errors: str = "strict") -> str:
    try:
        with path.open("rb") as raw, plain(raw, str(path)) as stream:
            return stream.read().decode("utf-8-sig", errors)
    except FileNotFoundError:
        raise UsageError(f"{path} ({what}) does not exist", hint="check the path") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} ({what}) is not UTF-8 (at byte {error.start})") from error
    except OSError as error:
        raise UsageError(f"{path} ({what}) cannot be read ({error.strerror})") from error


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """The names in order; one that came before, since only what signs them differs, is numbered."""
    used: set[str] = set()
    for name in names:
        numbered = chain([name], (f"{name} ({number})" for number in count(2)))
        free = next(one for one in numbered if one not in used)
        used.add(free)
        yield free


def _refuse_twice(what: str, names: Iterable[str], shown: Callable[[str], str] = str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {shown(name)!r} stands twice", hint="name it once")
        seen.add(name)
