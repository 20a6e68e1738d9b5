"""The decoder loop of Qwen3 over a pack: no padding, no cache object, no length × length mask.

The last layer computes keys and values of all rows, but everything else of each document's last
row only. There are no logits: a margin is one fp32 dot product with the difference of the head's
rows "yes" and "no".
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rerankfleet.workers.engine.attention import Attention
from rerankfleet.workers.engine.elementwise import Fp32, elementwise
from rerankfleet.workers.engine.layout import Layout, Rows
from rerankfleet.workers.engine.weights import Heads, Layer, take_layer, text_model, yes_minus_no
from rerankfleet.workers.engine.workspace import Workspace

#: Rows computed at a time outside attention: on a CPU, intermediate results stay in its cache.
ROWS_AT_A_TIME = {"cpu": 512, "cuda": 1 << 14}
#: Multiplications of half types that a data-centre GPU does while it moves a byte: about the same
#: from A100 to H200.
MULTIPLICATIONS_PER_BYTE = 100


class VisualFeatures:
    """The features of a layout's images, and the rows that they go to."""

    def __init__(self, layout: Layout, features: Tensor | None, hidden: int) -> None:
        """`features` as in `Decoder.margins`; None when there are no images."""
        self._features = () if features is None else torch.split(features, hidden, dim=1)
        rows = [np.arange(row, row + visual.tokens) for row, visual in layout.visuals]
        self._rows = torch.from_numpy(np.concatenate([*rows, np.zeros(0, np.int64)]))

    def put(self, x: Tensor) -> None:
        """Replace the embeddings of visual tokens in x [rows, hidden]."""
        if self._features:
            x.index_copy_(0, self._rows.to(x.device), self._features[0])

    def add(self, x: Tensor, layer: int) -> None:
        """Add the features for the outputs of the first layers (the model's "deepstack")."""
        if layer + 1 < len(self._features):
            x.index_add_(0, self._rows.to(x.device), self._features[layer + 1].to(x.device))


@dataclass(frozen=True, slots=True)
class Rotary:
    """The rotary embedding: a table of our own from the model's frequencies. How its module wants
    to be called differs between releases of transformers, these figures do not."""

    frequencies: Tensor
    """[dim / 2] fp32, radians a position"""
    scaling: float
    """of cosine and sine"""
    axes: Tensor
    """[dim / 2] the axis (time, height, width) of each frequency: interleaved in Qwen3-VL, time
    alone in a text model"""

    @classmethod
    def of(cls, module: Any, dim: int) -> Rotary:
        """Takes the figures of a model's rotary module."""
        frequencies = module.inv_freq.detach().float()
        axes = torch.zeros(dim // 2, dtype=torch.int64, device=frequencies.device)
        for axis in (1, 2):
            share = getattr(module, "mrope_section", (0, 0, 0))[axis]
            axes[axis : share * 3 : 3] = axis
        return cls(frequencies, float(module.attention_scaling), axes)

    def table(self, length: int, device: torch.device) -> Tensor:
        """Rotations [length, dim / 2] as complex64."""
        positions = torch.arange(length, device=device).float()
        angles = positions[:, None] * self.frequencies.to(device)
        return torch.complex(angles.cos() * self.scaling, angles.sin() * self.scaling)


class Decoder:
    """The forward pass of one model. Not thread-safe: one pack at a time."""

    def __init__(self, model: Any, yes_id: int, no_id: int | None) -> None:
        """Takes the weights out of a Qwen3 or Qwen3-VL model, which is unusable afterwards."""
        text = text_model(model)
        config = text.config
        self.heads = Heads(config.num_attention_heads, config.num_key_value_heads, config.head_dim)
        self._inner = int(config.intermediate_size)
        self.eps = float(config.rms_norm_eps)
        self._direction = yes_minus_no(model, yes_id, no_id)
        setattr(model, "score" if hasattr(model, "score") else "lm_head", None)
        self.embedding: Tensor = text.embed_tokens.weight.detach()
        self._rotary = Rotary.of(text.rotary_emb, self.heads.dim)
        self.device, self.dtype = self.embedding.device, self.embedding.dtype
        self._elementwise = elementwise(self.dtype, self.device)
        gate = self._elementwise.gate
        self.layers = [take_layer(module, self.heads, gate) for module in text.layers]
        self.devices = tuple(dict.fromkeys(layer.device for layer in self.layers))
        self.workspace = Workspace(self.dtype)
        self._table = torch.empty(0)
        self._rows = ROWS_AT_A_TIME.get(self.device.type, 1 << 14)

    @property
    def multiplications_per_token(self) -> int:
        """Multiplications of the linear layers per token: one token-equivalent."""
        hidden, heads = self.embedding.shape[1], self.heads
        attention = (2 * heads.queries + 2 * heads.kv) * heads.dim
        return len(self.layers) * hidden * (attention + 3 * self._inner)

    @property
    def state_bytes_per_token(self) -> int:
        """Memory of the keys and values of a kept token."""
        return len(self.layers) * 2 * self.heads.kv * self.heads.dim * int(self.dtype.itemsize)

    @property
    def gathered_price(self) -> float:
        """Token-equivalents of copying the keys and values of a token in all layers."""
        copied_bytes = 2 * self.state_bytes_per_token  # read and written
        return copied_bytes * MULTIPLICATIONS_PER_BYTE / self.multiplications_per_token

    @property
    def scratch_bytes_per_token(self) -> int:
        """Approximate memory of each computed token of a pack, besides the weights."""
        heads = self.heads
        values = self.embedding.shape[1] + (3 * heads.queries + 2 * heads.kv) * heads.dim
        tables = 3 * heads.queries + 4 * heads.kv
        return values * int(self.dtype.itemsize) + tables * 8

    def margins(
        self, layout: Layout, prefix: Tensor, attention: Attention, features: Tensor | None = None
    ) -> Tensor:
        """Margins [documents] fp32.

        prefix    [layers, prefix rows, 2 · kv heads · dim]
        features  [visual tokens, (1 + taps) · hidden] of the layout's images, in order
        """
        x = self.hidden(layout, prefix, attention, features)
        return torch.mv(Fp32().norm(x, None, self.eps, x), self._direction)

    def hidden(
        self, layout: Layout, prefix: Tensor, attention: Attention, features: Tensor | None = None
    ) -> Tensor:
        """Hidden states [documents, hidden] fp32 of the last tokens, before the final norm."""
        visual_features = VisualFeatures(layout, features, self.embedding.shape[1])
        x, table = self._start(layout, visual_features)
        for number, (layer, state) in enumerate(zip(self.layers[:-1], prefix[:-1], strict=True)):
            x, table = x.to(layer.device), table.to(layer.device)
            queries, kv = self._project(x, layer, state, table)
            self._finish(x, layer, attention.all(queries, kv))
            visual_features.add(x, number)
        return self._last_layer(x, layout.last_rows, prefix[-1], table, attention).float()

    def first(self, layers: int) -> Decoder:
        """A decoder of the first layers, which shares all memory with this one."""
        shallow = copy.copy(self)
        shallow.layers = self.layers[:layers]
        return shallow

    def compute_prefix(
        self, layout: Layout, attention: Attention, features: Tensor | None = None
    ) -> Tensor:
        """Keys and values [layers, rows, 2 · kv heads · dim] of a prefix."""
        visual_features = VisualFeatures(layout, features, self.embedding.shape[1])
        x, table = self._start(layout, visual_features)
        width = 2 * self.heads.kv * self.heads.dim
        state = torch.empty(len(self.layers), len(x), width, device=self.device, dtype=self.dtype)
        nothing = state.new_empty(0, width)
        for number, layer in enumerate(self.layers):
            x, table = x.to(layer.device), table.to(layer.device)
            queries, kv = self._project(x, layer, nothing, table)
            state[number] = kv
            if number + 1 < len(self.layers):
                self._finish(x, layer, attention.all(queries, kv))
                visual_features.add(x, number)
        return state

    def _start(self, layout: Layout, visual_features: VisualFeatures) -> tuple[Tensor, Tensor]:
        """Embedded rows, and the rotation of each."""
        ids = torch.from_numpy(layout.ids).to(self.device)
        positions = torch.from_numpy(layout.positions).to(self.device)
        table = self._rotations(int(layout.positions.max()) + 1)
        if layout.visuals:
            # each frequency belongs to one of the three axes
            rotations = table.gather(0, positions[:, self._rotary.axes])
        else:
            rotations = table[positions[:, 0]]
        x = self._take("residual", len(ids), self.embedding.shape[1], like=ids)
        torch.index_select(self.embedding, 0, ids, out=x)
        visual_features.put(x)
        return x, rotations[:, None, :]

    def _project(
        self, x: Tensor, layer: Layer, state: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Queries of the computed rows; keys and values of the prefix rows, then of these."""
        queries = self._take("q", len(x), self.heads.queries * self.heads.dim, like=x)
        kv, rows_kv = self._kv(x, state)
        for rows, q, own_kv, rotations in self._pieces(x, queries, rows_kv, table):
            normed = self._norm(rows, layer.attention_gain)
            q.copy_(layer.q(normed))
            own_kv.copy_(layer.kv(normed))
            self._rotate(q, layer.q_gain, rotations)
            self._rotate(self._keys(own_kv), layer.k_gain, rotations)
        return queries, kv

    def _last_layer(
        self, x: Tensor, last_rows: Rows, state: Tensor, table: Tensor, attention: Attention
    ) -> Tensor:
        """Hidden states [documents, hidden] of the last rows after the last layer."""
        layer = self.layers[-1]
        x, table = x.to(layer.device), table.to(layer.device)
        last = torch.from_numpy(last_rows).to(layer.device)
        kv, rows_kv = self._kv(x, state)
        for rows, own_kv, rotations in self._pieces(x, rows_kv, table):
            own_kv.copy_(layer.kv(self._norm(rows, layer.attention_gain)))
            self._rotate(self._keys(own_kv), layer.k_gain, rotations)
        x = x[last]
        queries = layer.q(self._norm(x, layer.attention_gain))
        self._rotate(queries, layer.q_gain, table[last])
        self._finish(x, layer, attention.last(queries, kv))
        return x

    def _kv(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all rows with those of the prefix filled in, and the view of the
        computed rows."""
        prefix = len(state)
        kv = self._take("kv", prefix + len(x), state.shape[1], like=x)
        kv[:prefix] = state
        return kv, kv[prefix:]

    def _keys(self, kv: Tensor) -> Tensor:
        return kv[:, : self.heads.kv * self.heads.dim]

    def _finish(self, x: Tensor, layer: Layer, attended: Tensor) -> None:
        """The rest of a layer after its attention, in place."""
        for rows, rows_attended in self._pieces(x, attended):
            rows.add_(layer.o(rows_attended))
            rows.add_(layer.down(layer.gated(self._norm(rows, layer.mlp_gain))))

    def _take(self, name: str, *shape: int, like: Tensor) -> Tensor:
        return self.workspace.take(name, *shape, device=like.device)

    def _pieces(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """The tensors in parallel, some rows at a time."""
        return zip(*(torch.split(t, self._rows) for t in tensors), strict=True)

    def _norm(self, x: Tensor, gain: Tensor | None) -> Tensor:
        out = self._take("normed", *x.shape, like=x)
        return self._elementwise.norm(x, gain, self.eps, out)

    def _rotate(self, heads: Tensor, gain: Tensor, table: Tensor) -> None:
        rows = heads.view(len(heads), -1, self.heads.dim)
        self._elementwise.rotate(rows, gain, table, self.eps)

    def _rotations(self, length: int) -> Tensor:
        """Rotations [at least `length`, dim / 2] as complex64, by position."""
        if len(self._table) < length:
            self._table = self._rotary.table(max(length, 2 * len(self._table), 1024), self.device)
        return self._table
