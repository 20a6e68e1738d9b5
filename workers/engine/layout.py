"""A pack as index tables: which rows are computed, and which rows each of them reads.

    rows          prefixes | queries | documents           every layer's k and v, one row a token
    segment       a query or a document: its own rows, and the rows before them that it attends to
    group         segments of similar lengths, padded to one shape: one batched matrix product
    block         some of the group's rows as queries; long documents have several

The tables are the same for all layers. Padding exists in the attention of a group only, never in
the linear layers. Numpy only; knows nothing of weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rerankfleet.workers.batching.packing import Pack
from rerankfleet.workers.prompting.tokens import Tokens, Visual

Rows = NDArray[np.int64]

#: Most attention scores of a block: they should stay in the CPU's cache. Measured.
SCORES_MAX = 1 << 20
#: Most and fewest rows of one block of a long document; fewer the more keys they attend to.
BLOCK_ROWS = (256, 32)
#: Most attention scores of a long document's block.
BLOCK_SCORES_MAX = 1 << 22
#: A segment shorter than this share of its group's longest starts a new group.
_SIMILAR = 0.8


@dataclass(frozen=True, slots=True)
class Segment:
    """A query or document: its rows are own[0]..own[0]+own[1]-1; context are (first, count)."""

    own: tuple[int, int]
    context: tuple[tuple[int, int], ...]

    @property
    def context_length(self) -> int:
        """How many rows it attends to besides its own."""
        return sum(count for _, count in self.context)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that are queries together, [members, rows], and the keys that they attend to.

    The first `reach` keys of the group are read; `mask` [members or 1, rows, width], unless it is
    None, is added to the last `width` of their scores.
    """

    rows: Rows
    reach: int
    mask: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Group:
    """Segments whose attention is one batched product: `keys` [members, context + own]."""

    keys: Rows
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The tables of one pack."""

    ids: NDArray[np.int64]
    """[computed rows] token ids; token i is at row `prefix_rows` + i."""
    positions: NDArray[np.int64]
    """[computed rows, 3] time, height, width; equal except for visual tokens"""
    prefix_rows: int
    segments: tuple[Segment, ...]
    documents: tuple[Segment, ...]
    """The segments that are scored, in the order of the pack."""
    visuals: tuple[tuple[int, Visual], ...] = ()
    """(computed row of its first token, image)"""

    @property
    def last_rows(self) -> Rows:
        """[documents] the computed row of each document's last token."""
        rows = [s.own[0] + s.own[1] - 1 - self.prefix_rows for s in self.documents]
        return np.array(rows, np.int64)


def lay_out(pack: Pack) -> Layout:
    """The rows of a pack: prefixes first (cached, not computed), then queries, then documents."""
    rows = _Rows(sum(len(part.tokens) for part in pack.parts))
    prefix_row = 0
    queries: list[Segment] = []
    waiting: list[tuple[tuple[tuple[int, int], ...], int, Tokens]] = []
    for part in pack.parts:
        prefix = (prefix_row, len(part.tokens))
        prefix_row += len(part.tokens)
        for query in part.queries:
            own = rows.add(query.tokens, part.tokens.span)
            if own[1]:
                queries.append(Segment(own, (prefix,)))
            position = part.tokens.span + query.tokens.span
            waiting += [((prefix, own), position, document) for document in query.documents]
    documents = tuple(
        Segment(rows.add(tokens, position), context) for context, position, tokens in waiting
    )
    return rows.layout((*queries, *documents), documents)


def lay_out_prefix(tokens: Tokens) -> Layout:
    """A prefix on its own: nothing before it, nothing scored."""
    rows = _Rows(0)
    return rows.layout((Segment(rows.add(tokens, 0), ()),), ())


class _Rows:
    """Collects the computed rows, one part after another."""

    def __init__(self, prefix_rows: int) -> None:
        self._prefix_rows = self._next = prefix_rows
        self._ids: list[NDArray[np.int32]] = []
        self._positions: list[Rows] = []
        self._visuals: list[tuple[int, Visual]] = []

    def add(self, tokens: Tokens, position: int) -> tuple[int, int]:
        """Add a part whose first token is at `position`. Returns its first row and their number."""
        first = self._next
        self._ids.append(tokens.array())
        self._positions.append(tokens.positions(position))
        self._visuals += [(first - self._prefix_rows + at, visual) for at, visual in tokens.visuals]
        self._next += len(tokens)
        return first, len(tokens)

    def layout(self, segments: tuple[Segment, ...], documents: tuple[Segment, ...]) -> Layout:
        """The finished tables."""
        return Layout(
            np.concatenate(self._ids).astype(np.int64),
            np.concatenate(self._positions),
            self._prefix_rows,
            segments,
            documents,
            tuple(self._visuals),
        )


def group(segments: Sequence[Segment], heads: int, *, last_only: bool = False) -> list[Group]:
    """Segments in groups of similar shape; with `last_only` only their last rows are queries."""
    order = sorted(segments, key=lambda s: (s.own[1] + s.context_length, s.own[1]), reverse=True)
    groups: list[Group] = []
    at = 0
    while at < len(order):
        members = _take_similar(order, at, heads, last_only)
        groups.append(_group(members, heads, last_only))
        at += len(members)
    return groups


def _take_similar(order: list[Segment], at: int, heads: int, last_only: bool) -> list[Segment]:
    first = order[at]
    own = context = 0
    taken: list[Segment] = []
    for segment in order[at:]:
        own, context = max(own, segment.own[1]), max(context, segment.context_length)
        rows = 1 if last_only else own
        if taken and (
            segment.own[1] < _SIMILAR * own
            or first.own[1] < _SIMILAR * own
            or segment.context_length < _SIMILAR * context - 8
            or (len(taken) + 1) * heads * rows * (own + context) > SCORES_MAX
        ):
            break
        taken.append(segment)
    return taken


def _group(members: list[Segment], heads: int, last_only: bool) -> Group:
    own = max(s.own[1] for s in members)
    context = max(s.context_length for s in members)
    keys = np.zeros((len(members), context + own), np.int64)
    for line, s in zip(keys, members, strict=True):
        at = 0
        for first, count in s.context:
            line[at : at + count] = np.arange(first, first + count)
            at += count
        line[context:] = _rows(s, own)
    if last_only:
        rows = np.array([[s.own[0] + s.own[1] - 1] for s in members])
        return Group(keys, (Block(rows, context + own, _last_mask(members, own, context)),))
    rows = np.stack([_rows(s, own) for s in members])
    most, least = BLOCK_ROWS
    if len(members) > 1 or own <= most:
        return Group(keys, (Block(rows, context + own, _mask(members, own, context)),))
    height = min(most, max(least, BLOCK_SCORES_MAX // (heads * (context + own))))
    edges = [*range(0, own, height), own]
    return Group(
        keys,
        tuple(Block(rows[:, a:b], context + b, _causal(b - a)[None]) for a, b in pairwise(edges)),
    )


def _rows(segment: Segment, length: int) -> Rows:
    """Its own rows, the last one repeated up to `length`: causal rows never attend to these."""
    first, count = segment.own
    return first + np.minimum(np.arange(length), count - 1)


def _causal(length: int) -> NDArray[np.float32]:
    return np.triu(np.full((length, length), -np.inf, np.float32), 1)


def _mask(members: list[Segment], own: int, context: int) -> NDArray[np.float32]:
    """Own keys up to each row; no padding between a shorter context and its document."""
    causal = _causal(own)[None]
    if all(s.context_length == context for s in members):
        return causal
    padding = _context_mask(members, context)[:, None, :].repeat(own, axis=1)
    return np.concatenate([padding, causal.repeat(len(members), axis=0)], axis=2)


def _last_mask(members: list[Segment], own: int, context: int) -> NDArray[np.float32] | None:
    lengths = np.array([s.own[1] for s in members])
    if (lengths == own).all() and all(s.context_length == context for s in members):
        return None
    beyond = np.where(np.arange(own) < lengths[:, None], np.float32(0), np.float32(-np.inf))
    return np.concatenate([_context_mask(members, context), beyond], axis=1)[:, None, :]


def _context_mask(members: list[Segment], context: int) -> NDArray[np.float32]:
    lengths = np.array([s.context_length for s in members])
    inside = np.arange(context) < lengths[:, None]
    return np.where(inside, np.float32(0), np.float32(-np.inf))
