"""Requests -> shards: how much work one shard holds. Pure arithmetic.

The feeder has no tokenizer, so cost is estimated from characters, and of images from their target
resolution; a shard need not be exact, only short enough that a lost one costs little and long
enough that its bookkeeping is nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from shared.models import Content, Document, ImageRun, Piece, Slice
from shared.pictures import PictureOptions

CHARACTERS_PER_TOKEN = 3.5
VISION_FACTOR = 2.0
"""A visual token costs the tower about what it then costs the decoder: four patches through a
quarter of its parameters."""
FRAMES_PER_IMAGE = 4
"""So many frames of a video cost one image: two share their tokens, and each is smaller."""
DATA_BYTES_PER_TOKEN = 32
"""A shard file carries data: URIs and text that is cut off, so they cost by their size when that is
more: it bounds it."""
PAIR_TOKENS = 12
"""The suffix of every pair."""
REQUEST_TOKENS = 80
"""The system turn and the default instruction."""
DEFAULT_TOKENS_PER_S = 4000.0
"""What a worker is thought to do until one has measured itself."""
LINES_PER_CUT = 20_000
"""A shard is closed after this many lines, even when a retry found nothing in them to score: the
cursor moves, and so the step that reads them can be short."""
SLIVER = 0.25
"""A request is cut when what is left of the shard's room is more than this share of it."""


def image_tokens(pictures: PictureOptions) -> float:
    """Estimated cost of one image at its target resolution, in tokens of text."""
    return VISION_FACTOR * pictures.tokens_max


def content_tokens(content: Content, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens of a content, whose images cost `per_image` each, and of whose text at most
    `text_max` tokens are read."""
    characters = len(content.text or "")
    tokens = min(characters / CHARACTERS_PER_TOKEN, text_max)
    tokens = max(tokens, characters / DATA_BYTES_PER_TOKEN)
    if content.plain:
        return tokens
    tokens += sum(max(per_image, len(uri) / DATA_BYTES_PER_TOKEN) for uri in content.image)
    frames = content.video.frames if content.video else ()
    per_frame = per_image / FRAMES_PER_IMAGE
    return tokens + sum(max(per_frame, len(uri) / DATA_BYTES_PER_TOKEN) for uri in frames)


def pair_tokens(document: Document, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens that one document adds."""
    own = content_tokens(document, per_image, text_max)
    return PAIR_TOKENS + own + _carried(document.metadata)


def _carried(metadata: Mapping[str, Any] | None) -> float:
    """What a shard file carries of it costs as if it were read: that bounds the file."""
    return len(str(metadata)) / CHARACTERS_PER_TOKEN if metadata else 0.0


@dataclass(frozen=True, slots=True)
class ShardSize:
    """What closes a shard."""

    tokens: float
    pairs: int
    per_image: float = 0.0
    """What an image costs, in tokens."""
    per_query: float = 0.0
    """What a query of a catalog costs, in tokens."""
    text_max: float = math.inf
    """Tokens of a document's text at the most."""


def slice_tokens(piece: Slice, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens of a slice."""
    base, pairs = costs(piece, ShardSize(0.0, 0, per_image, text_max=text_max))
    return base + sum(pairs)


def costs(piece: Piece, size: ShardSize) -> tuple[float, list[float]]:
    """Estimated tokens of what the pairs of a piece share, and of each pair that is to be scored.

    The queries of a catalog share their image's way through the tower; the decoder reads it for
    each, since the query stands before it.
    """
    if isinstance(piece, ImageRun):
        once = content_tokens(piece.document, size.per_image)
        again = content_tokens(piece.document, size.per_image / VISION_FACTOR)
        return once - again, [PAIR_TOKENS + size.per_query + again] * piece.items
    query = content_tokens(piece.query, size.per_image)
    shared = REQUEST_TOKENS + query + _carried(piece.metadata)
    return shared, [pair_tokens(d, size.per_image, size.text_max) for d in piece.documents]


def shard_size(
    *,
    shard_s: float,
    tokens_per_s: float,
    pairs_max: int,
    input_tokens: float,
    workers: int,
    pictures: PictureOptions | None = None,
    per_query: float = 0.0,
    text_max: float | None = None,
) -> ShardSize:
    """The size of a job's shards: `shard_s` seconds of one worker's measured rate, but small
    enough that every worker of the fleet gets two of the whole input's `input_tokens`."""
    tokens = shard_s * (tokens_per_s or DEFAULT_TOKENS_PER_S)
    tokens = max(min(tokens, input_tokens / (2 * max(workers, 1))), 512.0)
    per_image = image_tokens(pictures or PictureOptions())
    return ShardSize(tokens, pairs_max, per_image, per_query, text_max or math.inf)


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a job's cutting stands: what lets it resume where it was.

    `offset` is the byte at which line `line + 1` begins, of which `skip` items are cut already;
    `item` is the next ordinal of the cut order. `previous` is the byte offset in the previous
    round's output, which a retry reads beside the input. In a folder, `key` is the image read last,
    which is the one begun when some of its items are cut.
    """

    offset: int = 0
    line: int = 0
    item: int = 0
    skip: int = 0
    previous: int = 0
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str(cursor)` wrote; the empty text is the beginning."""
        return cls(**json.loads(text)) if text else cls()

    def __str__(self) -> str:
        if self == Cursor():
            return ""
        return json.dumps(asdict(self), separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Read:
    """One line of input, or one image of a folder, and the places behind it."""

    piece: Piece
    offset: int = 0
    previous: int = 0
    key: str = ""


def cut(reads: Iterable[Read], cursor: Cursor, size: ShardSize) -> Iterator[Cut]:
    """Cut requests into shards of about `size`, from where `cursor` stands."""
    draft = Draft(size, start=cursor.item)
    for count, read in enumerate(reads, 1):
        skip, items = cursor.skip, read.piece.items
        while skip < items:
            taken = draft.take(read.piece.cut(skip, items))
            skip += taken
            begun = read.key if skip else cursor.key  # none of it taken: it is still to come
            cursor = replace(cursor, item=cursor.item + taken, skip=skip, key=begun)
            if skip < items:
                yield draft.close(cursor)
                draft = Draft(size, start=cursor.item)
        cursor = Cursor(read.offset, read.piece.line, cursor.item, 0, read.previous, read.key)
        if draft.full or count % LINES_PER_CUT == 0:
            yield draft.close(cursor)
            draft = Draft(size, start=cursor.item)
    yield draft.close(cursor)


@dataclass(frozen=True, slots=True)
class Cut:
    """A shard: its slices, the range of its items, and the cursor behind it."""

    slices: list[Piece]
    start: int
    cursor: Cursor

    @property
    def end(self) -> int:
        """One past its last item."""
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
        """Whether nothing more is worth adding."""
        return self._tokens >= self._size.tokens or self._items >= self._size.pairs

    def take(self, piece: Piece) -> int:
        """Add as much of a piece as fits, and say how many items that was.

        A request that nearly fits is not cut: its query would be computed twice. An empty draft
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
