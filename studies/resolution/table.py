"""Rows of Parquet -> a line per category and cell, from the rows and the reference alone."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet
from scipy.stats import kendalltau

from rerankfleet.shared.content.images import Interpolation
from rerankfleet.studies.resolution.plan import Cell, parse_size, pixels, size_name

ALL = "all"
OTHER = "other"
"""Images without a category, where others have one."""
DRAWS = 2000
"""Samples of the bootstrap."""
LEVEL = 0.95

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scores:
    """All margins, and the sizes of the images."""

    images: list[str]
    categories: list[str]
    """Of each image."""
    queries: list[str]
    cells: list[Cell]
    margins: Floats
    """[cell, repeat, image, query]"""
    scores: Floats
    """Like margins."""
    seconds: Floats
    """Like margins."""
    used: Integers
    """[cell, image, 2]: width and height of the model's input."""
    original: Integers
    """[image, 2]: width and height of the source."""
    tokens: Integers
    """[cell, image]: visual tokens."""

    def finite(self) -> tuple[Scores, list[str]]:
        """Without the images that have a NaN margin; and the names of those."""
        good = np.asarray(np.isfinite(self.margins).all(axis=(0, 1, 3)))
        return self.of(good), [self.images[at] for at in np.flatnonzero(~good)]

    def of(self, chosen: Mask) -> Scores:
        """The scores of some of the images."""
        return Scores(
            [self.images[at] for at in np.flatnonzero(chosen)],
            [self.categories[at] for at in np.flatnonzero(chosen)],
            self.queries,
            self.cells,
            self.margins[:, :, chosen],
            self.scores[:, :, chosen],
            self.seconds[:, :, chosen],
            self.used[:, chosen],
            self.original[chosen],
            self.tokens[:, chosen],
        )


@dataclass(frozen=True, slots=True)
class Line:
    """A category in a cell. None: too few images or repeats to tell."""

    category: str
    size: str
    interpolation: str
    images: int
    queries: int
    visual_tokens: float
    """Mean of the images."""
    smaller: int
    """Images with fewer pixels than the size: they are not enlarged."""
    unchanged: int
    """Images with the same model input as in the next smaller size."""
    margin: float
    """Mean over images and queries, each the mean of its repeats."""
    margin_low: float | None
    margin_high: float | None
    score: float
    change: float
    """Of the mean margin, against the reference."""
    change_low: float | None
    change_high: float | None
    noise: float | None
    """Standard deviation of a pair's margin over the repeats, root mean square over pairs."""
    noise_max: float | None
    """Largest less smallest margin of the repeats, in the worst pair."""
    tau_b: float | None
    """Kendall's τ-b of the images' order against the reference, mean over queries."""
    tau_queries: int
    """Queries for which it is defined: not all margins are equal."""
    top1_flips: float
    """Share of queries whose first image differs from the reference."""
    images_per_s: float
    """Images per second: prepared, encoded by the tower and scored with all queries."""


def read_scores(path: Path) -> Scores:
    """All rows of a study's Parquet file. Raises ValueError unless each occurs once."""
    table = parquet.read_table(path)
    images, image = _places(table["image"])
    queries, query = _places(table["query"])
    sizes, size = _places(table["size"], key=lambda name: pixels(parse_size(name)))
    interpolations, interpolation = _places(table["interpolation"])
    cell = interpolation * len(sizes) + size
    repeat = table["repeat"].to_numpy()
    cells = len(interpolations) * len(sizes)
    shape = (cells, int(repeat.max()) + 1, len(images), len(queries))

    def of_pairs(column: str) -> Floats:
        values = np.full(shape, np.nan)
        values[cell, repeat, image, query] = table[column].to_numpy()
        return values

    def of_images(*columns: str) -> Integers:
        values = np.zeros((cells, len(images), len(columns)), np.int64)
        values[cell, image] = np.stack([table[column].to_numpy() for column in columns], axis=-1)
        return values

    if table.num_rows != math.prod(shape) or np.isnan(of_pairs("seconds")).any():
        raise ValueError(f"{path} does not hold {' x '.join(map(str, shape))} rows")
    of_image = dict(zip(table["image"].to_pylist(), table["category"].to_pylist(), strict=True))
    return Scores(
        images=images,
        categories=[of_image[name] for name in images],
        queries=queries,
        cells=[
            Cell(parse_size(size), cast(Interpolation, name))
            for name in interpolations
            for size in sizes
        ],
        margins=of_pairs("margin"),
        scores=of_pairs("score"),
        seconds=of_pairs("seconds"),
        used=of_images("used_width", "used_height"),
        original=of_images("original_width", "original_height")[0],
        tokens=of_images("visual_tokens")[..., 0],
    )


def summarize(scores: Scores, reference: Cell) -> list[Line]:
    """A line per category and cell: all images first, then each category by itself."""
    groups = [(ALL, np.ones(len(scores.images), bool))]
    if any(scores.categories):
        named = np.array([name or OTHER for name in scores.categories])
        groups += [(str(name), named == name) for name in np.unique(named)]
    return [line for name, chosen in groups for line in _lines(name, scores.of(chosen), reference)]


def write_table(lines: Sequence[Line], path: Path) -> None:
    """Write the lines as CSV, with empty cells for None."""
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, [field.name for field in fields(Line)])
        writer.writeheader()
        writer.writerows(asdict(line) for line in lines)


def tau_b(margins: Floats, reference: Floats) -> Floats:
    """Kendall's tau-b of each query's order of images; [image, query] -> [query].

    NaN where it is not defined: for fewer than two images, or where all margins are equal.
    """
    if len(margins) < 2:
        return np.full(margins.shape[1], np.nan)
    pairs = zip(margins.T, reference.T, strict=True)
    return np.array([kendalltau(ours, theirs, variant="b").statistic for ours, theirs in pairs])


def interval(values: Floats) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap interval of the mean of values [image, query]; None for a single image.

    Both images and queries are resampled, rows and columns independently.
    """
    images, queries = values.shape
    if images < 2:
        return None, None
    rng = np.random.default_rng(0)  # the same draws in every cell
    rows = rng.multinomial(images, np.full(images, 1 / images), DRAWS) / images
    columns = rng.multinomial(queries, np.full(queries, 1 / queries), DRAWS) / queries
    means = ((rows @ values) * columns).sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _lines(category: str, scores: Scores, reference: Cell) -> Iterator[Line]:
    mean = scores.margins.mean(axis=1)
    compared = mean[scores.cells.index(reference)]
    for at, cell in enumerate(scores.cells):
        tau = tau_b(mean[at], compared)
        defined = tau[np.isfinite(tau)]
        low, high = interval(mean[at])
        change_low, change_high = interval(mean[at] - compared)
        noise, noise_max = _noise(scores.margins[at])
        yield Line(
            category=category,
            size=size_name(cell.size),
            interpolation=cell.interpolation,
            images=len(scores.images),
            queries=len(scores.queries),
            visual_tokens=float(scores.tokens[at].mean()),
            smaller=int((scores.original.prod(axis=1) < pixels(cell.size)).sum()),
            unchanged=_unchanged(scores, at),
            margin=float(mean[at].mean()),
            margin_low=low,
            margin_high=high,
            score=float(scores.scores[at].mean()),
            change=float((mean[at] - compared).mean()),
            change_low=change_low,
            change_high=change_high,
            noise=noise,
            noise_max=noise_max,
            tau_b=float(defined.mean()) if len(defined) else None,
            tau_queries=len(defined),
            top1_flips=float((mean[at].argmax(axis=0) != compared.argmax(axis=0)).mean()),
            images_per_s=float(scores.margins.shape[1] * len(scores.images))
            / float(scores.seconds[at].sum()),
        )


def _noise(margins: Floats) -> tuple[float, float] | tuple[None, None]:
    """How much margins [repeat, image, query] differ over the repeats: typically and at worst."""
    if len(margins) < 2:
        return None, None
    typical = np.sqrt(margins.var(axis=0, ddof=1).mean())
    return float(typical), float(np.ptp(margins, axis=0).max())


def _unchanged(scores: Scores, at: int) -> int:
    """Images that have in this cell the size that they have in the next smaller one."""
    if at == 0 or scores.cells[at - 1].interpolation != scores.cells[at].interpolation:
        return 0
    return int((scores.used[at] == scores.used[at - 1]).all(axis=1).sum())


def _places(
    column: pa.ChunkedArray, key: Callable[[str], Any] | None = None
) -> tuple[list[str], Integers]:
    """The distinct values in order, and the index of each row's value."""
    values = column.to_pylist()
    names = sorted(set(values), key=key)
    place = {name: at for at, name in enumerate(names)}
    return names, np.array([place[value] for value in values])
