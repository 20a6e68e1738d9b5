"""Requests -> shards of about equal cost, by the estimates of `producer/shard_size.py`. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from rerankfleet.producer.inputs.cursor import Cursor, Read
from rerankfleet.producer.shard_size import ShardSize, costs
from rerankfleet.shared.content.requests import Piece

LINES_PER_CUT = 20_000
"""A shard is closed after this many lines, even when a retry has nothing in them to score: the
cursor moves, so that steps stay short."""
BYTES_PER_CUT = 64 << 20
"""Or after so many bytes of input."""
SLIVER = 0.25
"""A request is split only if more than this share of the shard is still free."""


Price = Callable[[Piece], tuple[float, list[float]]]
"""What `costs` gives: the tokens that a piece's pairs share, and those of each pair."""


def cut(
    reads: Iterable[Read], cursor: Cursor, size: ShardSize, price: Price | None = None
) -> Iterator[Cut]:
    """Cut requests into shards of about `size`, from `cursor` on. Each piece is priced once, by
    `price` or else by `costs`."""
    draft, begun_at = Draft(size, start=cursor.item), cursor.offset
    for count, read in enumerate(reads, 1):
        if read.piece is None:
            cursor = _passed(read, cursor)
            yield draft.close(cursor)
            draft, begun_at = Draft(size, start=cursor.item), cursor.offset
            continue
        shared, pairs = price(read.piece) if price else costs(read.piece, size)
        rest = _Rest(read.piece, shared, pairs, cursor.skip)
        while rest.items:
            taken = draft.take(rest)
            begun = read.key if rest.at else cursor.key  # nothing taken: it comes again
            cursor = replace(cursor, item=cursor.item + taken, skip=rest.at, key=begun)
            if rest.items:
                yield draft.close(cursor)
                draft = Draft(size, start=cursor.item)
        cursor = _behind(read, cursor)
        long = count % LINES_PER_CUT == 0 or cursor.offset - begun_at >= BYTES_PER_CUT
        if draft.full or long:
            yield draft.close(cursor)
            draft, begun_at = Draft(size, start=cursor.item), cursor.offset
    yield draft.close(cursor)


def _behind(read: Read, cursor: Cursor) -> Cursor:
    """The cursor behind a read all of whose items are cut; lines that were not read are blank."""
    blank = cursor.blank + read.line - cursor.line - 1
    return Cursor(read.offset, read.line, cursor.item, 0, read.previous, read.key, blank)


def _passed(read: Read, cursor: Cursor) -> Cursor:
    """The cursor behind a position up to which there was nothing."""
    blank = cursor.blank + read.line - cursor.line
    return replace(
        cursor,
        offset=read.offset,
        line=read.line,
        previous=read.previous,
        key=read.key,
        blank=blank,
    )


class _Rest:
    """What is still to be cut of a piece: its items from position `at` on, priced once."""

    def __init__(self, piece: Piece, shared: float, pairs: Sequence[float], at: int) -> None:
        self.shared, self.at = shared, at
        self._piece = piece
        self._up_to = list(accumulate(pairs, initial=0.0))  # the tokens of its first n pairs

    @property
    def items(self) -> int:
        """How many items are left."""
        return self._piece.items - self.at

    def tokens(self, count: int) -> float:
        """Estimated tokens of its next `count` items, with what they share; failures have none."""
        last = len(self._up_to) - 1
        begin, end = min(self.at, last), min(self.at + count, last)
        return self.shared + self._up_to[end] - self._up_to[begin]

    def fitting(self, tokens: float, most: int) -> int:
        """How many of its next items, `most` at most, have no more than so many tokens besides
        what they share; one at least."""
        last = len(self._up_to) - 1
        begin, end = min(self.at, last), min(self.at + most, last)
        count = bisect_right(self._up_to, self._up_to[begin] + tokens, begin, end + 1) - 1 - begin
        if begin + count == last:  # failures cost nothing
            count = min(self.items, most)
        return max(count, 1)

    def take(self, count: int) -> Piece:
        """Its next `count` items, which are left no more."""
        self.at += count
        return self._piece.cut(self.at - count, self.at)


@dataclass(frozen=True, slots=True)
class Cut:
    """A shard: its slices, the range of its items, and the cursor after it."""

    slices: list[Piece]
    start: int
    cursor: Cursor

    @property
    def end(self) -> int:
        """The index after its last item."""
        return self.cursor.item


class Draft:
    """A shard being filled."""

    def __init__(self, size: ShardSize, start: int) -> None:
        self._size = size
        self._start = start
        self._slices: list[Piece] = []
        self._tokens = 0.0
        self._items = 0

    @property
    def full(self) -> bool:
        """Whether the shard should be closed."""
        return self._tokens >= self._size.tokens or self._items >= self._size.pairs

    def take(self, rest: _Rest) -> int:
        """Add as much of a piece as fits. Returns how many items that was.

        A request that nearly fits is not split: its query would be computed twice. One that is
        split brings at least as many tokens of its own pairs as they share, even beyond the size:
        a long query is not repeated for each document. An empty draft always takes something, so
        cutting makes progress whatever the sizes are.
        """
        tokens_left = self._size.tokens - self._tokens
        pairs_left = self._size.pairs - self._items
        slack = SLIVER * self._size.tokens
        if rest.tokens(rest.items) <= tokens_left + slack and rest.items <= pairs_left:
            return self._add(rest, rest.items)
        if self._slices and tokens_left < slack:
            return 0
        room = max(tokens_left - rest.shared, rest.shared)
        return self._add(rest, rest.fitting(room, pairs_left))

    def _add(self, rest: _Rest, count: int) -> int:
        self._tokens += rest.tokens(count)
        self._slices.append(rest.take(count))
        self._items += count
        return count

    def close(self, cursor: Cursor) -> Cut:
        """The finished shard."""
        return Cut(self._slices, self._start, cursor)
