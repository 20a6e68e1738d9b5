"""The output of a catalog: flat rows, a file of them per shard, and the best images of each query.

In memory are one part, and the `top_n` entries of each query in the ranking.
"""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from rerankfleet.producer.inputs.tables import no_pyarrow
from rerankfleet.shared.calibration import Calibration
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.content.validation import ItemId
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.output import dump_line
from rerankfleet.shared.job_spec import OutputFormat
from rerankfleet.shared.sub_scores import explain

RANKING_ENTRIES_MAX = 2_000_000
"""Entries of a ranking held in memory: about 340 bytes each, so at most 680 MB."""

PART = "part-"
"""The prefix of a part's name."""

Row = dict[str, Any]
"""query_id, image_id, line, and either margin and relevance_score or an error."""

SUB_SCORES = ("visual_match", "text_alignment", "consistency")
"""Columns of Parquet for the values of `explain`."""
ERROR_FIELDS = ("line", "image", "code", "message", "hint")
"""`image` is its address, without secrets, where the row's id is another."""
OPTIONAL = ("quality", "plain_margin")
"""Columns of scored images that may be unknown."""


# ---- rows ---------------------------------------------------------------------------------------


def rows_of(outcome: SliceOutcome, calibration: Calibration) -> Iterator[Row]:
    """The rows of one image and one query, or of a line that names no image."""
    name: Row = {
        "query_id": outcome.id,
        "image_id": (outcome.metadata or {}).get("image_id"),
        "line": outcome.line,
    }
    for result in outcome.results:
        yield name | _scores(result, calibration)
    for error in outcome.errors:
        fields = error.model_dump(include=set(ERROR_FIELDS))
        if error.image in (None, name["image_id"]):
            del fields["image"]
        yield name | {"error": fields}


def _scores(result: Scored, calibration: Calibration) -> Row:
    row: Row = {
        "margin": result.margin,
        "relevance_score": calibration.score(result.margin),
    }
    for name in OPTIONAL:
        if (value := getattr(result, name)) is not None:
            row[name] = value
    if result.channels is not None:
        row["explain"] = explain(result.channels, calibration)
    return row


def part_name(start: int, format: OutputFormat) -> str:
    """The name of the file whose first item is `start`; names sort in the order of the items."""
    return f"{PART}{start:012}.{format}"


def dump_rows(rows: Sequence[Row], format: OutputFormat) -> bytes:
    """The bytes of a part. Raises UsageError if pyarrow is needed and missing."""
    return b"".join(map(dump_line, rows)) if format == "jsonl" else _dump_parquet(rows)


def parse_rows(data: bytes, format: OutputFormat) -> Iterator[Row]:
    """The inverse of `dump_rows`, except that ids in Parquet are text."""
    if format == "jsonl":
        yield from map(json.loads, data.splitlines())
        return
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise no_pyarrow("to read Parquet") from error
    for flat in parquet.read_table(io.BytesIO(data)).to_pylist():
        names = ("query_id", "image_id")
        kept = {k: v for k, v in flat.items() if v is not None and not k.startswith("error_")}
        row = {name: flat[name] for name in names} | kept
        if flat["error_code"] is not None:
            found = {name: flat.get(f"error_{name}") for name in ERROR_FIELDS}
            row["error"] = {k: v for k, v in found.items() if k != "image" or v is not None}
        yield row


def _dump_parquet(rows: Sequence[Row]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise no_pyarrow("to write Parquet") from error
    number, text = pyarrow.float64(), pyarrow.string()
    types = {"query_id": text, "image_id": text, "margin": number, "relevance_score": number}
    types |= dict.fromkeys((*OPTIONAL, *SUB_SCORES), number)
    types |= {"line": pyarrow.int64(), "error_line": pyarrow.int64()}
    types |= {f"error_{name}": text for name in ERROR_FIELDS if name != "line"}
    columns = {name: [row.get(name) for row in rows] for name in types}
    for name in ("query_id", "image_id"):  # a column has one type, ids may be text or numbers
        columns[name] = [None if value is None else str(value) for value in columns[name]]
    for name in SUB_SCORES:
        columns[name] = [row.get("explain", {}).get(name) for row in rows]
    for name in ERROR_FIELDS:
        columns[f"error_{name}"] = [row.get("error", {}).get(name) for row in rows]
    table = pyarrow.table(columns, schema=pyarrow.schema(types.items()))
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


# ---- the ranking --------------------------------------------------------------------------------


class Entry(NamedTuple):
    """An image in the ranking of a query. Entries are compared by margin, then by line."""

    margin: float
    above: int
    """Its line, negated."""
    image: ItemId
    twin: int | None
    """What equal images share."""


class _Best:
    """The best images of one query. An image that is equal to one among them has its margin."""

    __slots__ = ("entries", "first")

    def __init__(self) -> None:
        self.entries: list[Entry] = []  # a heap
        self.first: dict[int, Entry] = {}

    def add(self, entry: Entry, most: int) -> None:
        """Add an image, which comes after all others in the catalog; keep the best."""
        if entry.twin is not None and (first := self.first.get(entry.twin)):
            entry = entry._replace(margin=first.margin, twin=first.twin)
        if len(self.entries) < most:
            heapq.heappush(self.entries, entry)
        elif entry > self.entries[0]:
            out = heapq.heapreplace(self.entries, entry)
            if out.twin is not None and self.first[out.twin] is out:
                del self.first[out.twin]
        else:
            return
        if entry.twin is not None:
            self.first.setdefault(entry.twin, entry)


class Ranking:
    """The `top_n` images of each query, by margin, then in the order of the catalog. The same image
    in several rows has one margin."""

    def __init__(self, queries: int, top_n: int) -> None:
        self._top_n = top_n
        self._best = [_Best() for _ in range(queries)]

    def add(self, outcome: SliceOutcome) -> None:
        """Add the results of a slice."""
        for result in outcome.results:
            image = (outcome.metadata or {})["image_id"]
            twin = None if result.twin is None else int(result.twin, 16)
            entry = Entry(result.margin, -outcome.line, image, twin)
            self._best[result.index].add(entry, self._top_n)

    def lines(
        self, queries: Iterable[Document], calibration: Calibration
    ) -> Iterator[dict[str, Any]]:
        """A line per query, in the order of the queries."""
        for query, best in zip(queries, self._best, strict=True):
            yield {
                "query_id": query.id,
                "results": [
                    {
                        "image_id": entry.image,
                        "line": -entry.above,
                        "margin": entry.margin,
                        "relevance_score": calibration.score(entry.margin),
                    }
                    for entry in sorted(best.entries, reverse=True)
                ],
            }


def refuse_large_ranking(queries: int, top_n: int | None) -> None:
    """Raise UsageError if a ranking would not fit into the coordinator's memory."""
    if top_n is not None and queries * top_n > RANKING_ENTRIES_MAX:
        raise UsageError(
            f"a ranking of {queries:,} queries with {top_n:,} images each is held in memory: at "
            f"most {RANKING_ENTRIES_MAX:,} entries are",
            hint=f"top_n may be {RANKING_ENTRIES_MAX // queries:,} here; the rows have all scores",
        )
