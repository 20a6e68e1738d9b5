"""Attention of a pack by FlexAttention: one kernel, its mask computed from row labels.

A row attends to its own segment up to itself, and to the segments of its context. Empty blocks of
the mask cost nothing. Compiled on CUDA; elsewhere torch's slow reference, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from rerankfleet.workers.engine.layout import Layout, Segment
from rerankfleet.workers.engine.weights import Heads

#: Fills the context of a row that has fewer parts before it than others.
_NOTHING = -1


class FlexAttention:
    """See `attention.Attention`."""

    def __init__(self, layout: Layout, heads: Heads, device: torch.device) -> None:
        self._heads = heads
        rows = layout.prefix_rows + len(layout.ids)
        labels = _labels(layout, rows)
        own = np.arange(layout.prefix_rows, rows)
        self._all = _mask(labels, own, _contexts(layout.segments, by_row=True), device)
        last = layout.last_rows + layout.prefix_rows
        self._last = (
            _mask(labels, last, _contexts(layout.documents, by_row=False), device)
            if len(last)
            else None
        )

    def all(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        return self._attend(queries, kv, self._all)

    def last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        assert self._last is not None
        return self._attend(queries, kv, self._last)

    def _attend(self, queries: Tensor, kv: Tensor, mask: BlockMask) -> Tensor:
        heads = self._heads
        grid = kv.view(len(kv), 2 * heads.kv, heads.dim).transpose(0, 1)[None]
        keys, values = torch.split(grid, heads.kv, dim=1)
        q = queries.view(1, len(queries), heads.queries, heads.dim).transpose(1, 2)
        out: Tensor = _kernel(kv.device.type)(
            q, keys, values, block_mask=mask, scale=1.0, enable_gqa=heads.fan > 1
        )
        return out.transpose(1, 2).reshape(queries.shape)


@cache
def _kernel(device: str) -> Callable[..., Any]:
    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel, dynamic=True) if device == "cuda" else kernel


def _labels(layout: Layout, rows: int) -> np.ndarray:
    """For each row the first row of its part."""
    labels = np.empty(rows, np.int64)
    for first, count in {part for s in layout.segments for part in (*s.context, s.own)}:
        labels[first : first + count] = first
    return labels


def _contexts(segments: Sequence[Segment], *, by_row: bool) -> np.ndarray:
    """[2, rows] labels of the parts before each row (or, if not `by_row`, each segment)."""
    columns = []
    for s in segments:
        before = [first for first, count in s.context if count]
        before += [_NOTHING] * (2 - len(before))
        columns += [before] * (s.own[1] if by_row else 1)
    return np.array(columns).T


def _mask(
    labels: np.ndarray, rows: np.ndarray, contexts: np.ndarray, device: torch.device
) -> BlockMask:
    label, row, before, further = (
        torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (labels, rows, *contexts)
    )

    def attends(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        own = (label[k] == label[row[q]]) & (k <= row[q])
        return own | (label[k] == before[q]) | (label[k] == further[q])

    # compiled, the mask of rows × rows is never materialised
    compiled = device.type == "cuda"
    size = (len(rows), len(labels))
    return create_block_mask(attends, None, None, *size, device=str(device), _compile=compiled)
