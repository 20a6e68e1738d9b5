"""Attention of a pack over its layout, by batched matrix products or by SDPA.

A document attends to its prefix, its query and, causally, to itself. Segments of similar shape
are gathered into one padded batch; long documents are computed in blocks of rows, so that memory
grows with their length rather than its square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rerankfleet.workers.engine.layout import Block, Group, Layout, Rows, group
from rerankfleet.workers.engine.weights import Heads
from rerankfleet.workers.engine.workspace import Workspace


@dataclass(frozen=True, slots=True)
class _Block:
    queries: Tensor  # [members · kv · fan · rows] head index
    rows: int
    reach: int
    mask: Tensor | None  # [members or 1, 1, 1, rows, width]


@dataclass(frozen=True, slots=True)
class _Group:
    members: int
    keys: Tensor  # [members · kv · span] head index
    values: Tensor
    blocks: tuple[_Block, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    groups: tuple[_Group, ...]
    order: Tensor  # [rows · query heads] the place of each output among all blocks'


class GroupedAttention:
    """Groups of segments as batched products: on CPUs, and where no varlen kernel runs."""

    def __init__(
        self, layout: Layout, heads: Heads, workspace: Workspace, device: torch.device, sdpa: bool
    ) -> None:
        self._heads, self._workspace, self._sdpa = heads, workspace, sdpa
        self._device = device
        number = np.arange(-layout.prefix_rows, len(layout.ids))  # of the queries, by row
        self._all = self._plan(group(layout.segments, heads.queries), number)
        last_number = np.zeros(len(number), np.int64)
        last_number[layout.last_rows + layout.prefix_rows] = np.arange(len(layout.documents))
        last = group(layout.documents, heads.queries, last_only=True)
        self._last = self._plan(last, last_number)

    def all(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        return self._attend(self._all, queries, kv)

    def last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        return self._attend(self._last, queries, kv)

    def _attend(self, plan: _Plan, queries: Tensor, kv: Tensor) -> Tensor:
        dim = self._heads.dim
        queries, kv = queries.view(-1, dim), kv.view(-1, dim)
        count = sum(b.queries.numel() for g in plan.groups for b in g.blocks)
        gathered = self._take("outputs", count, dim)
        at = 0
        for g in plan.groups:
            keys = self._gather("keys", kv, g.keys, g.members)
            values = self._gather("values", kv, g.values, g.members)
            for block in g.blocks:
                out = gathered[at : at + block.queries.numel()]
                at += block.queries.numel()
                q = self._gather("queries", queries, block.queries, g.members)
                reach = block.reach
                self._block(q, keys[:, :reach], values[:, :reach], block, g.members, out)
        result = self._take("attended", plan.order.numel(), dim)
        torch.index_select(gathered, 0, plan.order, out=result)
        return result.view(-1, self._heads.queries * dim)

    def _gather(self, name: str, source: Tensor, index: Tensor, members: int) -> Tensor:
        """[members · kv, rows, dim]"""
        out = self._take(name, index.numel(), self._heads.dim)
        torch.index_select(source, 0, index, out=out)
        return out.view(members * self._heads.kv, -1, self._heads.dim)

    def _block(
        self, q: Tensor, k: Tensor, v: Tensor, block: _Block, members: int, out: Tensor
    ) -> None:
        if self._sdpa:
            out.copy_(self._block_sdpa(q, k, v, block, members).reshape(out.shape))
            return
        scores = self._take("scores", q.shape[0], q.shape[1], k.shape[1])
        torch.bmm(q, k.transpose(1, 2), out=scores)
        if block.mask is not None:
            grid = scores.view(members, self._heads.kv, self._heads.fan, block.rows, -1)
            grid[..., -block.mask.shape[-1] :].add_(block.mask)
        torch.softmax(scores, -1, out=scores)
        torch.bmm(scores, v, out=out.view(q.shape))

    def _block_sdpa(self, q: Tensor, k: Tensor, v: Tensor, block: _Block, members: int) -> Tensor:
        heads = self._heads
        mask = None
        if block.mask is not None:
            free = k.shape[1] - block.mask.shape[-1]
            mask = functional.pad(block.mask[:, 0], (free, 0)).to(q.dtype)
        return functional.scaled_dot_product_attention(
            q.view(members, heads.queries, block.rows, heads.dim),
            k.view(members, heads.kv, -1, heads.dim),
            v.view(members, heads.kv, -1, heads.dim),
            attn_mask=mask,
            scale=1.0,
            enable_gqa=heads.fan > 1,
        )

    def _plan(self, groups: Sequence[Group], number: Rows) -> _Plan:
        """The tables of some groups; `number` is the index of the query of each row."""
        tables = tuple(self._tables(g, number) for g in groups)
        return _Plan(tables, self._inverse(groups, number))

    def _tables(self, g: Group, number: Rows) -> _Group:
        kv = np.arange(self._heads.kv)[:, None]
        base = g.keys[:, None, :] * (2 * self._heads.kv) + kv
        blocks = tuple(self._block_tables(b, number) for b in g.blocks)
        return _Group(len(g.keys), self._put(base), self._put(base + self._heads.kv), blocks)

    def _block_tables(self, block: Block, number: Rows) -> _Block:
        head = np.arange(self._heads.queries).reshape(self._heads.kv, self._heads.fan, 1)
        index = number[block.rows][:, None, None, :] * self._heads.queries + head
        mask = None
        if block.mask is not None:
            mask = torch.from_numpy(block.mask[:, None, None]).to(self._device)
        return _Block(self._put(index), block.rows.shape[1], block.reach, mask)

    def _inverse(self, groups: Sequence[Group], number: Rows) -> Tensor:
        """For each query and head, the place of its output among all blocks'."""
        heads = self._heads.queries
        where = np.empty((number.max(initial=-1) + 1, heads), np.int64)
        at = 0
        for block in (b for g in groups for b in g.blocks):
            members, width = block.rows.shape
            size = members * heads * width
            place = np.arange(at, at + size).reshape(members, heads, width).swapaxes(1, 2)
            own = np.ones(block.rows.shape, bool)  # a row, not a padding repeat of the one before
            own[:, 1:] = block.rows[:, 1:] != block.rows[:, :-1]
            where[number[block.rows[own]]] = place[own]
            at += size
        return self._put(where)

    def _take(self, name: str, *shape: int) -> Tensor:
        return self._workspace.take(name, *shape, device=self._device)

    def _put(self, index: Rows) -> Tensor:
        return torch.from_numpy(index.reshape(-1)).to(self._device)
