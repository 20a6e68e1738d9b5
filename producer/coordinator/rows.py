"""The output of a catalog: flat rows, a file of them per shard, and the best images of each query.

One part is in memory at a time, and what a ranking keeps: `top_n` entries a query.
"""

from __future__ import annotations

import heapq
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rerankfleet.producer.inputs.tables import no_pyarrow
from rerankfleet.shared.calibration import Calibration
from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Scored, SliceOutcome
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.output import dump_line
from rerankfleet.shared.job_spec import OutputFormat
from rerankfleet.shared.sub_scores import explain

RANKING_ENTRIES_MAX = 2_000_000
"""Entries of a ranking held at once: about 215 bytes each, so 430 MB at the most."""

PART = "part-"
"""How the name of a part begins."""

Row = dict[str, Any]
"""query_id, image_id, and either margin and relevance_score or an error."""

SUB_SCORES = ("visual_match", "text_alignment", "consistency")
"""Columns of Parquet for what `explain` holds."""
FACTS = ("quality", "plain_margin")
"""What is said of a scored image where it is known."""


# ---- rows ---------------------------------------------------------------------------------------


def rows_of(outcome: SliceOutcome, calibration: Calibration) -> Iterator[Row]:
    """The rows of one image and one query, or of a line that names no image."""
    name: Row = {
        "query_id": outcome.id,
        "image_id": (outcome.metadata or {}).get("image_id"),
    }
    for found in outcome.results:
        yield name | _scores(found, calibration)
    for error in outcome.errors:
        yield name | {"error": error.model_dump(include={"line", "code", "message", "hint"})}


def _scores(found: Scored, calibration: Calibration) -> Row:
    row: Row = {
        "margin": found.margin,
        "relevance_score": calibration.score(found.margin),
    }
    for fact in FACTS:
        if (value := getattr(found, fact)) is not None:
            row[fact] = value
    if found.channels is not None:
        row["explain"] = explain(found.channels, calibration)
    return row


def part_name(start: int, format: OutputFormat) -> str:
    """The name of the file whose first item is `start`: names sort as items do."""
    return f"{PART}{start:012}.{format}"


def dump_rows(rows: Sequence[Row], format: OutputFormat) -> bytes:
    """The bytes of a part. Raises UsageError where Parquet is wanted and cannot be written."""
    return b"".join(map(dump_line, rows)) if format == "jsonl" else _dump_parquet(rows)


def parse_rows(data: bytes, format: OutputFormat) -> Iterator[Row]:
    """What `dump_rows` wrote; the ids in Parquet are text."""
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
            row["error"] = {k: flat[f"error_{k}"] for k in ("line", "code", "message", "hint")}
        yield row


def _dump_parquet(rows: Sequence[Row]) -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise no_pyarrow("to write Parquet") from error
    number, text = pyarrow.float64(), pyarrow.string()
    types = {"query_id": text, "image_id": text, "margin": number, "relevance_score": number}
    types |= dict.fromkeys((*FACTS, *SUB_SCORES), number)
    types |= {"error_line": pyarrow.int64()}
    types |= {f"error_{name}": text for name in ("code", "message", "hint")}
    columns = {name: [row.get(name) for row in rows] for name in types}
    for name in ("query_id", "image_id"):  # a column has one type, ids may be text or numbers
        columns[name] = [None if value is None else str(value) for value in columns[name]]
    for name in SUB_SCORES:
        columns[name] = [row.get("explain", {}).get(name) for row in rows]
    for name in ("line", "code", "message", "hint"):
        columns[f"error_{name}"] = [row.get("error", {}).get(name) for row in rows]
    table = pyarrow.table(columns, schema=pyarrow.schema(types.items()))
    out = io.BytesIO()
    parquet.write_table(table, out)
    return out.getvalue()


# ---- the ranking --------------------------------------------------------------------------------


class Ranking:
    """The `top_n` images of each query, by margin, then in the order of the catalog."""

    def __init__(self, queries: int, top_n: int) -> None:
        self._top_n = top_n
        self._best: list[list[tuple[float, int, str | int]]] = [[] for _ in range(queries)]

    def add(self, outcome: SliceOutcome) -> None:
        """Take note of what was scored."""
        for found in outcome.results:
            heap = self._best[found.index]
            entry = (found.margin, -outcome.line, (outcome.metadata or {})["image_id"])
            if len(heap) < self._top_n:
                heapq.heappush(heap, entry)
            elif entry > heap[0]:
                heapq.heapreplace(heap, entry)

    def lines(
        self, queries: Iterable[Document], calibration: Calibration
    ) -> Iterator[dict[str, Any]]:
        """A line per query, in the order of the queries."""
        for query, heap in zip(queries, self._best, strict=True):
            yield {
                "query_id": query.id,
                "results": [
                    {
                        "image_id": image,
                        "margin": margin,
                        "relevance_score": calibration.score(margin),
                    }
                    for margin, _, image in sorted(heap, reverse=True)
                ],
            }


def refuse_large_ranking(queries: int, top_n: int | None) -> None:
    """Raise UsageError when a ranking would not fit into the coordinator's memory."""
    if top_n is not None and queries * top_n > RANKING_ENTRIES_MAX:
        raise UsageError(
            f"a ranking of {queries:,} queries with {top_n:,} images each is held in memory: at "
            f"most {RANKING_ENTRIES_MAX:,} entries are",
            hint=f"top_n may be {RANKING_ENTRIES_MAX // queries:,} here; the rows have all scores",
        )
