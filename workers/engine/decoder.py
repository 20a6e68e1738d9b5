"""The decoder loop of Qwen3 over a pack: no padding, no cache object, no length × length mask.

Takes the weights of a loaded transformers model and fuses them: q, k and v into one matrix, gate
and up into another; in fp32 the norms' gains into the matrix behind them. The last layer computes
keys and values of all rows but everything else of each document's last row only. There are no
logits: a margin is one fp32 dot product with the difference of the rows "yes" and "no".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workers.engine.attention import Attention, Heads
from workers.engine.elementwise import gate, norm_and_rotate, rms_norm
from workers.engine.layout import Layout
from workers.engine.workspace import Workspace

#: Rows whose MLP is computed at a time: what lies between its products stays in the cache.
MLP_ROWS = {"cpu": 512, "cuda": 1 << 16}


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer, as the loop wants them."""

    qkv: Tensor
    o: Tensor
    gate_up: Tensor
    down: Tensor
    qk_gain: Tensor
    """[query heads + kv heads, dim] fp32; the queries' with the attention's scale in it"""
    attention_gain: Tensor | None
    mlp_gain: Tensor | None


class Decoder:
    """The forward pass of one model. Not thread-safe: one pack at a time."""

    def __init__(self, model: Any, yes_id: int, no_id: int) -> None:
        """Takes the weights out of a Qwen3ForCausalLM, which is of no use afterwards."""
        config = model.config
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self.eps = float(config.rms_norm_eps)
        head = model.get_output_embeddings().weight
        direction = head[yes_id].float() - head[no_id].float()
        self._direction = direction * model.model.norm.weight.float()
        self._embedding = model.model.embed_tokens.weight.detach()
        self._rotary = model.model.rotary_emb
        self._table = torch.empty(0)
        self.device, self.dtype = self._embedding.device, self._embedding.dtype
        model.lm_head = None
        self.layers = [self._take_layer(module) for module in model.model.layers]
        self.workspace = Workspace(self.device, self.dtype)
        self._mlp_rows = MLP_ROWS.get(self.device.type, 1 << 16)

    @property
    def kept_bytes_per_token(self) -> int:
        """Size of a kept token's keys and values."""
        return len(self.layers) * 2 * self.heads.kv * self.heads.dim * self.dtype.itemsize

    def margins(self, layout: Layout, kept: Tensor, attention: Attention) -> Tensor:
        """Margins [documents] fp32. `kept` [layers, kept rows, 2 · kv heads · dim]."""
        x, table = self._start(layout)
        for layer, state in zip(self.layers[:-1], kept[:-1], strict=True):
            buffer = self._project(x, layer, state, table)
            x.addmm_(attention.all(buffer), layer.o.t())
            self._mlp(x, layer)
        last = torch.from_numpy(layout.last_rows).to(self.device)
        x = self._last_layer(x, last, kept[-1], table, attention)
        return rms_norm(x.float(), None, self.eps) @ self._direction

    def keep(self, layout: Layout, attention: Attention) -> Tensor:
        """Keys and values [layers, rows, 2 · kv heads · dim] of a part that others stand after."""
        x, table = self._start(layout)
        width = 2 * self.heads.kv * self.heads.dim
        state = torch.empty(len(self.layers), len(x), width, device=self.device, dtype=self.dtype)
        empty = state.new_empty(0, width)
        for number, layer in enumerate(self.layers):
            buffer = self._project(x, layer, empty, table)
            state[number] = buffer[:, -width:]
            if number + 1 < len(self.layers):
                x.addmm_(attention.all(buffer), layer.o.t())
                self._mlp(x, layer)
        return state

    def _start(self, layout: Layout) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(layout.ids).to(self.device)
        positions = torch.from_numpy(layout.positions)
        table = self._rotations(int(layout.positions.max()) + 1)[positions.to(self.device)]
        x = self.workspace.take("residual", len(ids), self._embedding.shape[1])
        torch.index_select(self._embedding, 0, ids, out=x)
        return x, table[:, None, :]

    def _project(self, x: Tensor, layer: Layer, state: Tensor, table: Tensor) -> Tensor:
        """The layer's buffer: kept rows as given, then computed rows, normed and rotated."""
        heads, kept = self.heads, len(state)
        buffer = self.workspace.take("buffer", kept + len(x), heads.per_row * heads.dim)
        buffer[:kept, heads.queries * heads.dim :] = state
        rows = buffer[kept:]
        torch.mm(self._norm(x, layer.attention_gain), layer.qkv.t(), out=rows)
        rotated = heads.queries + heads.kv
        norm_and_rotate(
            rows[:, : rotated * heads.dim].unflatten(1, (rotated, heads.dim)),
            layer.qk_gain, table, self.eps,
        )  # fmt: skip
        return buffer

    def _last_layer(
        self, x: Tensor, last: Tensor, state: Tensor, table: Tensor, attention: Attention
    ) -> Tensor:
        layer, heads, kept = self.layers[-1], self.heads, len(state)
        split = heads.queries * heads.dim
        h = self._norm(x, layer.attention_gain)
        buffer = self.workspace.take("buffer", kept + len(x), heads.per_row * heads.dim)
        buffer[:kept, split:] = state
        rows = buffer[kept:, split:]
        torch.mm(h, layer.qkv[split:].t(), out=rows)
        keys = rows[:, : heads.kv * heads.dim].unflatten(1, (heads.kv, heads.dim))
        norm_and_rotate(keys, layer.qk_gain[heads.queries :], table, self.eps)
        queries = torch.mm(h[last], layer.qkv[:split].t())
        norm_and_rotate(
            queries.unflatten(1, (heads.queries, heads.dim)),
            layer.qk_gain[: heads.queries], table[last], self.eps,
        )  # fmt: skip
        x = x[last]
        x.addmm_(attention.last(buffer, queries), layer.o.t())
        self._mlp(x, layer)
        return x

    def _mlp(self, x: Tensor, layer: Layer) -> None:
        for rows in x.split(self._mlp_rows):
            gate_up = self.workspace.take("gate_up", len(rows), len(layer.gate_up))
            torch.mm(self._norm(rows, layer.mlp_gain), layer.gate_up.t(), out=gate_up)
            rows.addmm_(gate(gate_up), layer.down.t())

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        return rms_norm(x, gain, self.eps, self.workspace.take("normed", *x.shape))

    def _rotations(self, length: int) -> Tensor:
        """Rotations [at least `length`, dim / 2] as complex64, by position."""
        if len(self._table) < length:
            positions = torch.arange(max(length, 2 * len(self._table), 1024), device=self.device)
            like = torch.empty(0, device=self.device, dtype=torch.float32)
            cos, sin = self._rotary(like, positions[None])
            half = self.heads.dim // 2
            self._table = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
        return self._table

    def _take_layer(self, module: Any) -> Layer:
        attention, mlp = module.self_attn, module.mlp
        fold = self.dtype == torch.float32
        before, after = module.input_layernorm.weight, module.post_attention_layernorm.weight
        q_gain = _side_by_side(attention.q_norm.weight.float()) * self.heads.dim**-0.5
        k_gain = _side_by_side(attention.k_norm.weight.float())
        counts = (self.heads.queries, self.heads.kv)
        layer = Layer(
            qkv=_fuse(
                [attention.q_proj, attention.k_proj, attention.v_proj],
                before if fold else None,
                self._permute,
            ),
            o=attention.o_proj.weight.detach(),
            gate_up=_fuse([mlp.gate_proj, mlp.up_proj], after if fold else None),
            down=mlp.down_proj.weight.detach(),
            qk_gain=torch.cat(
                [g.expand(n, -1) for g, n in zip((q_gain, k_gain), counts, strict=True)]
            ).contiguous(),
            attention_gain=None if fold else before.detach(),
            mlp_gain=None if fold else after.detach(),
        )
        return layer

    def _permute(self, number: int, weight: Tensor) -> Tensor:
        """Rows of q (0) and k (1) so that the halves of a head stand in pairs."""
        if number == 2:
            return weight
        return (
            _side_by_side(weight.unflatten(0, (-1, self.heads.dim)).transpose(1, 2))
            .transpose(1, 2)
            .flatten(0, 1)
        )


def _side_by_side(x: Tensor) -> Tensor:
    """The last dimension from halves (a…, b…) to pairs (a, b, a, b, …)."""
    return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


@torch.no_grad()
def _fuse(
    linears: list[nn.Linear],
    gain: Tensor | None,
    change: Callable[[int, Tensor], Tensor] = lambda _, weight: weight,
) -> Tensor:
    """One matrix of several linear layers of the same input, freed as they are taken in."""
    fused = torch.cat([change(i, linear.weight) for i, linear in enumerate(linears)])
    if gain is not None:
        fused.mul_(gain)
    for linear in linears:
        linear.weight = nn.Parameter(fused.new_empty(0), requires_grad=False)
    return fused
