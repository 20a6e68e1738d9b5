"""Shard files and part files: a range of a shard is exactly those items."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Failure, SliceOutcome
from rerankfleet.shared.content.ranges import shard_name, shard_range
from rerankfleet.shared.content.requests import ImageRun, Piece, Slice
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.formats.shard_files import (
    dump_part,
    dump_queries,
    dump_slices,
    load_part,
    load_queries,
    load_slices,
    part_uri,
    queries_uri,
    shard_file,
    shard_uri,
)
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.storage.objects import Objects
from tests.support.fleet import PROVENANCE


@pytest.fixture
def files(tmp_path: Path) -> Objects:
    return Objects(Settings(storage=str(tmp_path)))


@st.composite
def slices(draw) -> list[Slice]:
    """Slices of a few items each, some of them failures."""
    found = []
    for line in range(draw(st.integers(1, 5))):
        pairs, failures = draw(st.integers(0, 4)), draw(st.integers(0, 2))
        found.append(
            Slice(
                line=line + 1,
                query="q\u2028\r",
                documents=[Document(text=f"{line} {i}") for i in range(pairs)],
                indices=list(range(pairs)),
                failures=[
                    Failure(line=line + 1, index=pairs + i, code="bad", message="m")
                    for i in range(failures)
                ],
            )
        )
    return [piece for piece in found if piece.items] or draw(slices())


def items(found: list[Slice]) -> list[tuple[int, int | None]]:
    return [
        (piece.line, index)
        for piece in found
        for index in (*piece.indices, *(f.index for f in piece.failures))
    ]


@given(slices(), st.integers(0, 1000), st.data())
def test_halves_of_a_shard_hold_its_items_in_order(files, found, start, data):
    whole, end = items(found), start + len(items(found))
    file = shard_file(0, start, end, "attempt")
    files.write(shard_uri(files, "job", file), dump_slices(found))
    cuts = sorted(
        data.draw(
            st.lists(st.integers(start + 1, max(end - 1, start + 1)), unique=True, max_size=3)
        )
    )

    assert load_slices(files, "job", file, shard_name(start, end)) == found
    bounds = [start, *(c for c in cuts if c < end), end]
    parts = [load_slices(files, "job", file, shard_name(a, b)) for a, b in pairwise(bounds)]
    assert [item for part in parts for item in items(part)] == whole
    for part, (a, b) in zip(parts, pairwise(bounds), strict=True):
        assert len(items(part)) == b - a
        assert all(piece.items for piece in part)


@st.composite
def catalogs(draw) -> list[Piece]:
    """Images with a run of five queries each, and lines that name none."""
    found: list[Piece] = []
    for line in range(1, draw(st.integers(2, 5))):
        first = draw(st.integers(0, 4))
        last = draw(st.integers(first + 1, 5))
        document = Document(id=draw(st.none() | st.just(f"i{line}")), image=(f"s3://b/{line}",))
        bad = Slice(line=line, failures=[Failure(line=line, code="bad", message="m")])
        run = ImageRun(run=(first, last), line=line, document=document)
        found.append(draw(st.sampled_from([run, bad])))
    return found


@given(catalogs(), st.integers(0, 1000), st.data())
def test_ranges_of_a_catalogs_shard_hold_its_pairs_in_order(files, found, start, data):
    queries = [Document(id=f"q{n}", text=f"{n}\u2028") for n in range(5)]
    files.write(queries_uri(files, "job"), dump_queries(queries))
    load_queries.cache_clear()
    end = start + sum(piece.items for piece in found)
    file = shard_file(0, start, end, "attempt")
    files.write(shard_uri(files, "job", file), dump_slices(found))
    middle = data.draw(st.integers(start, end))

    whole = load_slices(files, "job", file, shard_name(start, end))

    halves = [
        load_slices(files, "job", file, shard_name(*half))
        for half in ((start, middle), (middle, end))
    ]
    assert [len(half) for half in halves] == [middle - start, end - middle]
    assert [*halves[0], *halves[1]] == whole
    pairs = [(p, n) for p in found if isinstance(p, ImageRun) for n in range(*p.run)]
    scored = [piece for piece in whole if piece.documents]
    for piece, (run, ordinal) in zip(scored, pairs, strict=True):
        assert (piece.line, piece.indices, piece.items) == (run.line, [ordinal], 1)
        assert (piece.id, piece.query.text) == (f"q{ordinal}", f"{ordinal}\u2028")
        assert piece.documents == [run.document]
        assert piece.metadata == {"image_id": run.document.id or run.document.image[0]}


def test_a_part_is_read_outcome_by_outcome(files):
    outcomes = [SliceOutcome(line=i, id=f"r{i}") for i in range(3)]
    files.write(part_uri(files, "job", 10, "x"), dump_part(outcomes, PROVENANCE))

    assert list(load_part(files, "job", 10, "x")) == [(o, PROVENANCE) for o in outcomes]


def test_files_of_a_job_stand_under_its_name(files, tmp_path):
    assert shard_uri(files, "j", "0-5-9-x") == f"file://{tmp_path}/jobs/j/shards/0-5-9-x"
    assert part_uri(files, "j", 5, "x") == f"file://{tmp_path}/jobs/j/parts/5-x"
    assert shard_uri(files, "j", "redis:j/f") == part_uri(files, "j", 5, "redis:j/f") == "redis:j/f"


def test_a_shard_file_that_is_gone_is_named(files):
    with pytest.raises(UsageError, match="jobs/j/shards/0-0-9-x does not exist"):
        load_slices(files, "j", "0-0-9-x", "0-9")


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_shards_name_is_its_range(start, end):
    assert shard_range(shard_name(start, end)) == (start, end)
