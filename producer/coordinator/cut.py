"""Requests -> shards of about equal cost, by the estimates of `producer/shard_size.py`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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


def cut(reads: Iterable[Read], cursor: Cursor, size: ShardSize) -> Iterator[Cut]:
    """Cut requests into shards of about `size`, from `cursor` on."""
    draft, begun_at = Draft(size, start=cursor.item), cursor.offset
    for count, read in enumerate(reads, 1):
        if read.piece is None:
            cursor = _passed(read, cursor)
            yield draft.close(cursor)
            draft, begun_at = Draft(size, start=cursor.item), cursor.offset
            continue
        skip, items = cursor.skip, read.piece.items
        while skip < items:
            taken = draft.take(read.piece.cut(skip, items))
            skip += taken
            begun = read.key if skip else cursor.key  # nothing taken: it comes again
            cursor = replace(cursor, item=cursor.item + taken, skip=skip, key=begun)
            if skip < items:
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

    def take(self, piece: Piece) -> int:
        """Add as much of a piece as fits. Returns how many items that was.

        A request that nearly fits is not split: its query would be computed twice. An empty draft
        always takes something, so cutting makes progress whatever the sizes are.
        """
        tokens_left = self._size.tokens - self._tokens
        pairs_left = self._size.pairs - self._items
        shared, pairs = costs(piece, self._size)
        cost = shared + sum(pairs)
        slack = SLIVER * self._size.tokens
        if cost <= tokens_left + slack and piece.items <= pairs_left:
            return self._add(piece, cost)
        if self._slices and tokens_left < slack:
            return 0
        count, cost = 0, shared
        for tokens in pairs[:pairs_left]:
            if cost + tokens > tokens_left and count:
                break
            cost += tokens
            count += 1
        if count == len(pairs):  # failures cost nothing
            count = min(piece.items, pairs_left)
        return self._add(piece.cut(0, max(count, 1)), cost)

    def _add(self, piece: Piece, tokens: float) -> int:
        self._slices.append(piece)
        self._tokens += tokens
        self._items += piece.items
        return piece.items

    def close(self, cursor: Cursor) -> Cut:
        """The finished shard."""
        return Cut(self._slices, self._start, cursor)
