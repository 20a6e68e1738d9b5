"""Requests -> shards: every item in exactly one, in order, wherever the cutting is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.producer import shard_size as shard_sizes
from rerankfleet.producer.coordinator import cut as cutting
from rerankfleet.producer.coordinator.cut import Cut, cut
from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.shard_size import (
    ShardSize,
    costs,
    slice_tokens,
)
from rerankfleet.shared.content.content import Content, Document
from rerankfleet.shared.content.outcomes import Failure
from rerankfleet.shared.content.requests import ImageRun, Piece, Slice

Item = tuple[int, int | None]


def a_slice(line: int, lengths: Sequence[int], failures: int = 0) -> Slice:
    """A line's slice: documents of these lengths, then failures."""
    count = len(lengths)
    return Slice(
        line=line,
        query="query",
        documents=[Document(text="x" * length) for length in lengths],
        indices=list(range(count)),
        failures=[
            Failure(line=line, index=count + i, code="bad", message="m") for i in range(failures)
        ],
    )


@st.composite
def catalogs(draw) -> list[Piece]:
    """Images with all of the queries, and some lines that name none."""
    queries = draw(st.integers(1, 50))
    image = Document(image=("s3://b/a.jpg",))
    return [
        ImageRun(run=(0, queries), line=line, document=image) if good else a_slice(line, [], 1)
        for line, good in enumerate(draw(st.lists(st.booleans(), max_size=12)), 1)
    ]


@st.composite
def inputs(draw) -> list[Piece]:
    """Lines of a few or many documents, or of a catalog; in a retry, some have nothing to be
    scored."""
    if draw(st.booleans()):
        return draw(catalogs())
    lengths = st.lists(st.integers(0, 400), max_size=12)
    shapes = draw(st.lists(st.tuples(lengths, st.integers(0, 6)), max_size=12))
    return [a_slice(line, *shape) for line, shape in enumerate(shapes, 1)]


sizes = st.builds(ShardSize, tokens=st.floats(1, 2000), pairs=st.integers(1, 20))

START = Cursor()


def reads(lines: Sequence[Piece], cursor: Cursor = START) -> Iterator[Read]:
    """The lines from a cursor on; line n ends at byte 10 n."""
    for piece in lines[cursor.line :]:
        yield Read(piece, offset=10 * piece.line, previous=7 * piece.line)


def items(cuts: Sequence[Cut]) -> list[Item]:
    return [item for shard in cuts for item in all_items(shard.slices)]


def all_items(pieces: Sequence[Piece]) -> list[Item]:
    return [(piece.line, index) for piece in pieces for index in ordinals(piece)]


def ordinals(piece: Piece) -> list[int | None]:
    if isinstance(piece, ImageRun):
        return list(range(*piece.run))
    return [*piece.indices, *(f.index for f in piece.failures)]


@given(inputs(), sizes)
def test_every_item_is_in_exactly_one_shard_in_order(lines, size):
    cuts = list(cut(reads(lines), Cursor(), size))

    assert items(cuts) == all_items(lines)
    at = 0
    for shard in cuts:
        assert shard.start == at
        assert shard.end - shard.start == sum(piece.items for piece in shard.slices)
        assert shard.end - shard.start <= size.pairs
        assert all(piece.items for piece in shard.slices)
        at = shard.end
    assert cuts[-1].cursor == Cursor(
        offset=10 * len(lines), line=len(lines), item=at, previous=7 * len(lines)
    )


@given(inputs(), sizes, sizes, st.data())
def test_cutting_resumes_where_it_was_at_any_shard(lines, size, other, data):
    """Given a feeder that dies after some shards, and another with another rate."""
    cuts = list(cut(reads(lines), Cursor(), size))
    kept = cuts[: data.draw(st.integers(0, len(cuts)))]
    cursor = Cursor.parse(str(kept[-1].cursor)) if kept else Cursor()

    same = list(cut(reads(lines, cursor), cursor, size))
    changed = list(cut(reads(lines, cursor), cursor, other))

    assert items(kept) + items(same) == items(kept) + items(changed) == all_items(lines)
    if len(kept) < len(cuts):
        assert [c.slices for c in kept + same] == [c.slices for c in cuts]


@given(inputs(), sizes)
def test_every_shard_but_the_last_makes_progress(lines, size):
    cuts = list(cut(reads(lines), Cursor(), size))

    places = [(c.cursor.line, c.cursor.item) for c in cuts[:-1]]
    assert places == sorted(set(places))
    assert all(shard.slices for shard in cuts[:-1])


@given(inputs(), sizes)
def test_a_shard_costs_about_its_size_unless_one_pair_does_not_fit(lines, size):
    for shard in cut(reads(lines), Cursor(), size):
        tokens = sum(tokens_of(piece) for piece in shard.slices)
        last = tokens_of(shard.slices[-1]) if shard.slices else 0
        slack = cutting.SLIVER * size.tokens
        one = shard_sizes.REQUEST_TOKENS + shard_sizes.pair_tokens(Document(text="x" * 400)) + 10
        assert tokens <= size.tokens + slack + one or tokens == last


def tokens_of(piece: Piece) -> float:
    shared, pairs = costs(piece, ShardSize(0.0, 0))
    return shared + sum(pairs)


def test_a_request_that_nearly_fits_is_not_cut():
    line = a_slice(1, [35] * 10)
    tokens = slice_tokens(line)

    def shards(tokens: float) -> int:
        return sum(bool(c.slices) for c in cut(reads([line]), Cursor(), ShardSize(tokens, 100)))

    assert shards(tokens / 1.2) == 1
    assert shards(tokens / 1.8) > 1


def test_many_bad_documents_do_not_make_a_shard_each():
    """Given a request of which nothing can be scored, larger than a shard."""
    line = a_slice(1, [], failures=1000)

    cuts = [c for c in cut(reads([line]), Cursor(), ShardSize(512, 100)) if c.slices]

    assert [c.end - c.start for c in cuts] == [100] * 10


def test_lines_with_nothing_to_be_scored_still_move_the_cursor(monkeypatch):
    """Given a retry of a job in which only the last line failed."""
    monkeypatch.setattr(cutting, "LINES_PER_CUT", 10)
    lines = [a_slice(n, []) for n in range(1, 26)] + [a_slice(26, [5])]

    cuts = list(cut(reads(lines), Cursor(), ShardSize(512, 100)))

    assert [c.cursor.line for c in cuts] == [10, 20, 26]
    assert [len(c.slices) for c in cuts] == [0, 0, 1]


def test_images_close_a_shard_as_their_tokens_do():
    documents = [Document(image=("s3://b/a.jpg",))] * 12
    piece = Slice(line=1, query="q", documents=documents, indices=list(range(12)))
    size = ShardSize(5 * 1600.0, 100, per_image=1500.0)

    assert [c.end - c.start for c in cut(reads([piece]), Cursor(), size) if c.slices] == [5, 5, 2]


def test_a_cursor_within_an_image_of_a_folder_names_it():
    image = Document(image=("s3://b/a.jpg",))
    shard = [
        Read(ImageRun(run=(0, 3), line=n, document=image), key=key)
        for n, key in enumerate(["a", "b"], 1)
    ]

    cuts = list(cut(shard, Cursor(), ShardSize(10_000.0, 2)))

    places = [(c.cursor.line, c.cursor.skip, c.cursor.key) for c in cuts if c.slices]
    assert places == [(0, 2, "a"), (1, 1, "b"), (2, 0, "b")]


@given(st.integers(1, 12), st.integers(1, 30), sizes, st.data())
def test_a_folder_is_resumed_behind_the_image_that_was_begun(count, queries, size, data):
    """Given a feeder that dies after some shards, and another that lists from its cursor on."""
    names = [f"{n:02}" for n in range(count)]

    def folder(cursor: Cursor) -> Iterator[Read]:
        begun = [cursor.key] if cursor.skip else []
        listed = [*begun, *(name for name in names if name > cursor.key)]
        for line, name in enumerate(listed, cursor.line + 1):
            document = Document(image=(f"s3://b/{name}",))
            yield Read(ImageRun(run=(0, queries), line=line, document=document), key=name)

    cuts = list(cut(folder(START), START, size))
    kept = cuts[: data.draw(st.integers(0, len(cuts)))]
    cursor = Cursor.parse(str(kept[-1].cursor)) if kept else START
    rest = list(cut(folder(cursor), cursor, size))

    assert items(kept) + items(rest) == items(cuts)
    pieces = [piece for shard in (*kept, *rest) for piece in shard.slices]
    assert list(dict.fromkeys(p.document.image[0] for p in pieces)) == [
        f"s3://b/{n}" for n in names
    ]


def priced(monkeypatch) -> list[Document]:
    """The documents that are priced from now on, once for each time."""
    seen: list[Document] = []
    price = shard_sizes.pair_tokens

    def counted(document: Document, *args: Any) -> float:
        seen.append(document)
        return price(document, *args)

    monkeypatch.setattr(shard_sizes, "pair_tokens", counted)
    return seen


@pytest.mark.parametrize("count", [100, 200, 400])
def test_each_document_is_priced_once_and_copied_once(monkeypatch, count):
    """Given requests that are cut into a shard for each document."""
    copied: list[int] = []
    cut_slice = Slice.cut

    def counted(piece: Slice, first: int, last: int) -> Slice:
        copied.append(last - first)
        return cut_slice(piece, first, last)

    monkeypatch.setattr(Slice, "cut", counted)
    seen = priced(monkeypatch)
    line = a_slice(1, [40] * count)

    cuts = list(cut(reads([line]), Cursor(), ShardSize(1.0, 100)))

    assert len(cuts) >= count / 8
    assert len(seen) == count
    assert sum(copied) == count


def test_the_queries_of_a_catalog_are_priced_once_for_each_image(monkeypatch):
    """Given an image with so many queries that they make many shards."""
    prices: list[int] = []
    price = cutting.costs
    monkeypatch.setattr(
        cutting, "costs", lambda piece, size: prices.append(piece.items) or price(piece, size)
    )
    run = ImageRun(run=(0, 1000), line=1, document=Document(image=("s3://b/a.jpg",)))

    cuts = list(cut(reads([run]), Cursor(), ShardSize(1.0, 10)))

    assert len(cuts) > 100
    assert prices == [1000]


def test_a_long_query_is_not_repeated_for_each_document():
    """Given a query that is larger than a shard: its copies are no larger than the documents."""
    line = a_slice(1, [35] * 1000).model_copy(update={"query": Content(text="q" * 50_000)})

    shards = [c for c in cut(reads([line]), Cursor(), ShardSize(512.0, 4096)) if c.slices]

    copied = sum(len(piece.query.text or "") for c in shards for piece in c.slices)
    assert items(shards) == all_items([line])
    assert copied <= len(line.query.text or "") + 1000 * 3.5 * (12 + 10)
