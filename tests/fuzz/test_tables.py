"""Tables and packed files: their rows, each one image or one named failure, or one refusal."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rerankfleet.producer.inputs.tables import table_lines
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.lines import image_of
from rerankfleet.shared.formats.sources import plain, probe
from tests.fuzz.test_lines import checked
from tests.support.mutations import Mutations, case, cases

ROWS = [
    ("1", "s3://b/a.jpg", "Oak, dark"),
    ("2", "https://h/b c.png", 'a "quoted" chair'),
    ("", "x/é.jpg", ""),
    ("4", "", "two\nlines"),
    ("id-5", "file:///d.webp", "\ttab"),
]
LINE_BYTES = 20_000


def csv_of(mutations: Mutations) -> tuple[str, bytes]:
    """The name and the bytes of a CSV, one way or the other."""
    name, delimiter = mutations.pick([("a.csv", ","), ("a.csv", ";"), ("a.tsv", "\t")])
    quoted = mutations.random.random() < 0.7
    rows = [("id", "image", "text"), *ROWS * mutations.random.randint(1, 3)]
    lines = []
    for row in rows:
        cells = [cell if quoted else cell.replace("\n", " ").replace('"', "") for cell in row]
        cells = [cell.replace('"', '""') for cell in cells]
        lines.append(delimiter.join(f'"{cell}"' if quoted else cell for cell in cells))
    text = mutations.pick(["\n", "\r\n", "\r"]).join(lines) + mutations.pick(["", "\n"])
    return name, text.encode(mutations.pick(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))


@contextmanager
def refusals(results: Counter[str]) -> Iterator[None]:
    """Count whether the block is carried out or refused, in words that any record can hold."""
    try:
        yield
        results["read"] += 1
    except UsageError as error:
        results["refused"] += 1
        assert error.message  # noqa: PT017
        assert str(error).encode()  # noqa: PT017


def read(path: Path, results: Counter[str]) -> list[bytes]:
    """The lines that a table gives, each looked at; nothing for one that is refused."""
    found: list[bytes] = []
    with refusals(results), table_lines(str(path), None, LINE_BYTES) as lines:
        found = [line for block in lines for line in block.splitlines()]
    for number, line in enumerate(found, 2):
        if not is_blank(line):
            piece = image_of(number, line, queries=2)
            assert piece.line == number
            if isinstance(piece, Slice):
                checked(piece)
    return found


def test_every_row_of_csv_is_one_line(tmp_path):
    results: Counter[str] = Counter()
    for mutations in cases("csv", 400):
        # given a CSV that was changed, packed or not
        name, data = csv_of(mutations)
        data = mutations.of_bytes(data)
        packed = mutations.random.random() < 0.3
        path = tmp_path / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(data, 1) if packed else data)
        with case(mutations, data):
            # when it is read, then it is refused or each row has its line
            lines = read(path, results)
            if lines and not set(data) & set(b'"\r\xff\xfe'):
                due = [line for line in data.split(b"\n")[1:] if not is_blank(line)]
                assert len([line for line in lines if not is_blank(line)]) == len(due)
    assert min(results.values()) > 20, results


def test_packed_bytes_that_were_changed_are_read_or_refused():
    results: Counter[str] = Counter()
    packed = gzip.compress(b"".join(json.dumps({"query": r[2]}).encode() + b"\n" for r in ROWS))
    for mutations in cases("gzip", 400):
        data = mutations.of_bytes(packed, 1)
        with case(mutations, data):
            with refusals(results), plain(io.BytesIO(data), "f") as lines:
                probe(lines, "f")
                lines.read()
    assert results["refused"] > 100, results


def test_every_row_of_parquet_is_one_line(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = dict(zip(("id", "image", "text"), map(list, zip(*ROWS, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    results: Counter[str] = Counter()
    assert len(read(tmp_path / "whole.parquet", results)) == len(ROWS)
    for mutations in cases("parquet", 3):
        # given a file that was changed anywhere
        data = mutations.of_bytes(whole)
        path = tmp_path / "a.parquet"
        path.write_bytes(data)
        with case(mutations, data):
            # when it is read, then it is refused or gives rows
            read(path, results)
