"""The decoder loop of Qwen3 over a pack: no padding, no cache object, no length × length mask.

The last layer computes keys and values of all rows, but everything else of each document's last
row only. There are no logits: a margin is one fp32 dot product with the difference of the head's
rows "yes" and "no".
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.engine.attention import Attention
from workers.engine.elementwise import Fp32, elementwise
from workers.engine.layout import Layout
from workers.engine.weights import Heads, Layer, take_layer, yes_minus_no
from workers.engine.workspace import Workspace

#: Rows whose MLP is computed at a time: on CPU what lies between its products stays in the cache.
MLP_ROWS = {"cpu": 512, "cuda": 1 << 16}


class Decoder:
    """The forward pass of one model. Not thread-safe: one pack at a time."""

    def __init__(self, model: Any, yes_id: int, no_id: int) -> None:
        """Takes the weights out of a Qwen3ForCausalLM, which is of no use afterwards."""
        config = model.config
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.eps = float(config.rms_norm_eps)
        self._direction = yes_minus_no(model, (yes_id, no_id))
        model.lm_head = None
        self.embedding: Tensor = model.model.embed_tokens.weight.detach()
        self._rotary = model.model.rotary_emb
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self.layers = [take_layer(module, self.heads) for module in model.model.layers]
        self.workspace = Workspace(self.device, self.dtype)
        self._table = torch.empty(0)
        self._elementwise = elementwise(self.dtype, self.device)
        self._mlp_rows = MLP_ROWS.get(self.device.type, 1 << 16)

    @property
    def kept_bytes_per_token(self) -> int:
        """Size of a kept token's keys and values."""
        values = len(self.layers) * 2 * self.heads.kv * self.heads.dim
        return values * int(self.dtype.itemsize)

    @property
    def scratch_bytes_per_token(self) -> int:
        """Roughly what each computed token of a pack takes beside the weights."""
        heads = self.heads
        values = 2 * self.embedding.shape[1] + (heads.per_row + 2 * heads.queries) * heads.dim
        tables = 3 * heads.queries + 4 * heads.kv
        return values * int(self.dtype.itemsize) + tables * 8

    def margins(self, layout: Layout, kept: Tensor, attention: Attention) -> Tensor:
        """Margins [documents] fp32. `kept` [layers, kept rows, 2 · kv heads · dim]."""
        x, table = self._start(layout)
        for layer, state in zip(self.layers[:-1], kept[:-1], strict=True):
            buffer = self._project(x, layer, state, table)
            x.addmm_(attention.all(buffer), layer.o.t())
            self._mlp(x, layer)
        last = torch.from_numpy(layout.last_rows).to(self.device)
        x = self._last_layer(x, last, kept[-1], table, attention).float()
        return torch.mv(Fp32().norm(x, None, self.eps, x), self._direction)

    def keep(self, layout: Layout, attention: Attention) -> Tensor:
        """Keys and values [layers, rows, 2 · kv heads · dim] of a part that others stand after."""
        x, table = self._start(layout)
        width = 2 * self.heads.kv * self.heads.dim
        state = torch.empty(len(self.layers), len(x), width, device=self.device, dtype=self.dtype)
        nothing = state.new_empty(0, width)
        for number, layer in enumerate(self.layers):
            buffer = self._project(x, layer, nothing, table)
            state[number] = buffer[:, -width:]
            if number + 1 < len(self.layers):
                x.addmm_(attention.all(buffer), layer.o.t())
                self._mlp(x, layer)
        return state

    def _start(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Embedded rows, and the rotation of each."""
        ids = torch.from_numpy(layout.ids).to(self.device)
        positions = torch.from_numpy(layout.positions).to(self.device)
        table = self._rotations(int(layout.positions.max()) + 1)[positions]
        x = self.workspace.take("residual", len(ids), self.embedding.shape[1])
        torch.index_select(self.embedding, 0, ids, out=x)
        return x, table[:, None, :]

    def _project(self, x: Tensor, layer: Layer, state: Tensor, table: Tensor) -> Tensor:
        """The layer's buffer: kept rows as given, then computed rows, normed and rotated."""
        heads = self.heads
        split = heads.queries * heads.dim
        buffer, rows = self._buffer(x, state)
        torch.mm(self._norm(x, layer.attention_gain), layer.qkv.t(), out=rows)
        self._rotate(rows[:, : split + heads.kv * heads.dim], layer.qk_gain, table)
        return buffer

    def _last_layer(
        self, x: Tensor, last: Tensor, state: Tensor, table: Tensor, attention: Attention
    ) -> Tensor:
        """Hidden states [documents, hidden] of the last rows after the last layer."""
        layer, heads = self.layers[-1], self.heads
        split = heads.queries * heads.dim
        buffer, rows = self._buffer(x, state)
        normed = self._norm(x, layer.attention_gain)
        torch.mm(normed, layer.qkv[split:].t(), out=rows[:, split:])
        keys = rows[:, split : split + heads.kv * heads.dim]
        self._rotate(keys, layer.qk_gain[heads.queries :], table)
        queries = torch.mm(normed[last], layer.qkv[:split].t())
        self._rotate(queries, layer.qk_gain[: heads.queries], table[last])
        x = x[last]
        x.addmm_(attention.last(buffer, queries), layer.o.t())
        self._mlp(x, layer)
        return x

    def _buffer(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's q, k and v of all rows, kept ones filled in, and its computed rows."""
        heads, kept = self.heads, len(state)
        buffer = self.workspace.take("buffer", kept + len(x), heads.per_row * heads.dim)
        buffer[:kept, heads.queries * heads.dim :] = state
        return buffer, buffer[kept:]

    def _mlp(self, x: Tensor, layer: Layer) -> None:
        for rows in torch.split(x, self._mlp_rows):
            gate_up = self.workspace.take("gate_up", len(rows), len(layer.gate_up))
            torch.mm(self._norm(rows, layer.mlp_gain), layer.gate_up.t(), out=gate_up)
            rows.addmm_(self._elementwise.gate(gate_up), layer.down.t())

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        out = self.workspace.take("normed", *x.shape)
        return self._elementwise.norm(x, gain, self.eps, out)

    def _rotate(self, heads: Tensor, gain: Tensor, table: Tensor) -> None:
        rows = heads.view(len(heads), -1, self.heads.dim)
        self._elementwise.rotate(rows, gain, table, self.eps)

    def _rotations(self, length: int) -> Tensor:
        """Rotations [at least `length`, dim / 2] as complex64, by position."""
        if len(self._table) < length:
            positions = torch.arange(max(length, 2 * len(self._table), 1024), device=self.device)
            cos, sin = self._rotary(self._direction, positions[None])
            half = self.heads.dim // 2
            self._table = torch.complex(cos[0, :, :half], sin[0, :, :half])
        return self._table
