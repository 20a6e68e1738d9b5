"""The vision tower of Qwen3-VL: pixels -> features, one row per visual token.

A loop of our own over the loaded modules: patches are cut here and embedded by a matrix product
(a still image's two temporal slices are equal, so their weights are added once), images of
any size follow each other without padding, and attention runs image by image.

Features are [tokens, (1 + taps) · hidden]: the part that replaces the token's embedding, then those
that are added after the first decoder layers (the model's "deepstack").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rerankfleet.workers.engine.linear import Activation, Linear, linear
from rerankfleet.workers.engine.weights import paired
from rerankfleet.workers.prompting.tokens import PATCH_PX, Visual

#: Most patches of one pass, unless a single image has more.
PATCHES_AT_A_TIME = {"cpu": 1 << 12, "cuda": 1 << 15}
#: Rows of the MLP at a time: on a CPU, intermediate results stay in its cache.
_ROWS = {"cpu": 512, "cuda": 1 << 15}
_EPS = 1e-6
_MERGE = 2  # patches of a token, each way


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, module: Any) -> _Norm:
        return cls(module.weight.detach(), module.bias.detach())

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, _EPS)


@dataclass(frozen=True, slots=True)
class _Block:
    norm1: _Norm
    qk: Linear
    v: Linear
    out: Linear
    norm2: _Norm
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class _Merger:
    """Four patches -> one token of the language model."""

    norm: _Norm
    after_merge: bool
    """Whether the norm is over the merged row instead of each patch."""
    fc1: Linear
    fc2: Linear

    @classmethod
    def of(cls, module: Any) -> _Merger:
        fc1, fc2 = module.linear_fc1, module.linear_fc2
        return cls(
            _Norm.of(module.norm),
            bool(module.use_postshuffle_norm),
            linear(fc1.weight.detach(), fc1.bias.detach(), "gelu"),
            linear(fc2.weight.detach(), fc2.bias.detach()),
        )

    def __call__(self, x: Tensor) -> Tensor:
        merged = (len(x) // _MERGE**2, x.shape[1] * _MERGE**2)
        x = self.norm(x.view(merged)) if self.after_merge else self.norm(x).view(merged)
        return self.fc2(self.fc1(x))


class Tower:
    """The vision tower of one model. Not thread-safe."""

    def __init__(self, visual: Any) -> None:
        """Takes the weights of a Qwen3VLVisionModel.

        Raises ValueError for one that is not supported.
        """
        config = visual.config
        if (config.patch_size, config.spatial_merge_size, config.temporal_patch_size) != (16, 2, 2):
            raise ValueError("patches other than 2 × 16 × 16 pixels, merged 2 × 2")
        self.heads = int(config.num_heads)
        weight = visual.patch_embed.proj.weight.detach()
        self.device, self.dtype = weight.device, weight.dtype
        self._patch_bias = visual.patch_embed.proj.bias.detach().float()
        # [hidden, channel, time, y, x] -> by time [hidden, y · x · channel], as pixels lie
        by_time = weight.float().permute(2, 0, 3, 4, 1).flatten(2)
        self._patch_weights = (by_time[0].contiguous(), by_time[1].contiguous())
        self._still_weight = by_time.sum(0)
        self._positions = visual.pos_embed.weight.detach()
        self._side = int(config.num_position_embeddings**0.5)
        self._frequencies = visual.rotary_pos_emb.inv_freq.detach().float().to(self.device)
        activation = _activation(str(config.hidden_act))
        self._blocks = [_take_block(block, self.heads, activation) for block in visual.blocks]
        self._merger = _Merger.of(visual.merger)
        mergers = map(_Merger.of, visual.deepstack_merger_list)
        self._taps = dict(zip(config.deepstack_visual_indexes, mergers, strict=True))
        self._hidden, self._inner = int(config.hidden_size), int(config.intermediate_size)
        self._out = int(config.out_hidden_size)
        self._grid = lru_cache(8)(self._grid_tables)
        self._rows = _ROWS[self.device.type]

    @property
    def taps(self) -> int:
        """How many decoder layers have features added to their output."""
        return len(self._taps)

    def multiplications(self, tokens: int) -> int:
        """Multiplications for an image of this many tokens: linear layers, attention, mergers."""
        patches, hidden = _MERGE**2 * tokens, self._hidden
        of_patch = 4 * hidden**2 + 2 * hidden * self._inner + 2 * patches * hidden
        merged = _MERGE**2 * hidden
        of_token = (1 + self.taps) * (merged**2 + merged * self._out)
        return len(self._blocks) * patches * of_patch + tokens * of_token

    def features(self, visuals: Sequence[Visual]) -> list[Tensor]:
        """Features [tokens, (1 + taps) · hidden] of each image."""
        most = PATCHES_AT_A_TIME[self.device.type]
        features: list[Tensor] = []
        batch: list[Visual] = []
        for visual in visuals:
            if batch and _patches([*batch, visual]) > most:
                features += self._pass(batch)
                batch = []
            batch.append(visual)
        return features + self._pass(batch) if batch else features

    def free(self) -> None:
        """Free the tables of grids."""
        self._grid.cache_clear()

    def _pass(self, visuals: Sequence[Visual]) -> list[Tensor]:
        tables = [self._grid(visual.grid) for visual in visuals]
        x = torch.cat([self._embed(v) for v in visuals])
        x += torch.cat([positions for positions, _ in tables])
        rotations = torch.cat([rotation for _, rotation in tables])[:, None]
        sizes = [_MERGE**2 * visual.tokens for visual in visuals]
        taps = []
        for number, block in enumerate(self._blocks):
            self._attend(x, block, rotations, sizes)
            for rows in torch.split(x, self._rows):
                rows += block.down(block.up(block.norm2(rows)))
            if number in self._taps:
                taps.append(self._taps[number](x))
        features = torch.cat([self._merger(x), *taps], dim=1)
        # copies, since a view would hold the features of the whole pass in memory
        return [t.clone() for t in torch.split(features, [visual.tokens for visual in visuals])]

    def _embed(self, visual: Visual) -> Tensor:
        """Embedded patches [patches, hidden] in the order of merging: token by token."""
        frames = [
            torch.from_numpy(cut_patches(frame)).to(self.device).float().div_(127.5).sub_(1)
            for frame in visual.frames
        ]
        weights = (self._still_weight,) if len(frames) == 1 else self._patch_weights
        parts = [functional.linear(f, w) for f, w in zip(frames, weights, strict=True)]
        embedded: Tensor = sum(parts[1:], parts[0]) + self._patch_bias
        return embedded.to(self.dtype)

    def _attend(self, x: Tensor, block: _Block, rotations: Tensor, sizes: list[int]) -> None:
        """Add a block's attention to x [patches, hidden], in place."""
        normed = block.norm1(x)
        qk = block.qk(normed).float().view(len(x), 2 * self.heads, -1, 2)
        torch.view_as_complex(qk).mul_(rotations)
        qk = qk.to(x.dtype).view(len(x), 2, self.heads, -1)
        v = block.v(normed).view(len(x), self.heads, -1)
        pieces = zip(torch.split(qk, sizes), torch.split(v, sizes), strict=True)
        attended = [_attention(*(t.transpose(0, 1) for t in (*q.unbind(1), v))) for q, v in pieces]
        x += block.out(torch.cat(attended))

    def _grid_tables(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Position embeddings [patches, hidden] of a grid of tokens, and the rotation of each
        patch [patches, head dim / 2] as complex64."""
        rows, columns = _patch_places(grid)
        across, down = (_MERGE * n for n in grid[::-1])
        embedded = self._between(rows * (self._side - 1) / max(down - 1, 1), columns, across)
        places = torch.from_numpy(np.stack([rows, columns])).to(self.device)
        angles = (places[..., None] * self._frequencies).transpose(0, 1).flatten(1)
        return embedded.to(self.dtype), torch.polar(torch.ones_like(angles), angles)

    def _between(self, y: NDArray[np.float64], columns: NDArray[np.int64], across: int) -> Tensor:
        """The learned square of positions, bilinearly interpolated at (y, x), corners aligned."""
        x = columns * (self._side - 1) / max(across - 1, 1)
        total = torch.zeros(len(x), self._positions.shape[1], device=self.device)
        for corner_y, share_y in _neighbours(y, self._side):
            for corner_x, share_x in _neighbours(x, self._side):
                index = torch.from_numpy(corner_y * self._side + corner_x).to(self.device)
                share = torch.from_numpy((share_y * share_x).astype(np.float32)).to(self.device)
                total += self._positions[index].float() * share[:, None]
        return total


def cut_patches(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[height, width, 3] -> [patches, 16 · 16 · 3], the four patches of a token adjacent."""
    height, width, _ = frame.shape
    rows, columns = height // PATCH_PX // _MERGE, width // PATCH_PX // _MERGE
    blocks = frame.reshape(rows, _MERGE, PATCH_PX, columns, _MERGE, PATCH_PX, 3)
    return blocks.transpose(0, 3, 1, 4, 2, 5, 6).reshape(rows * columns * _MERGE**2, -1)


def _patches(visuals: Sequence[Visual]) -> int:
    return sum(_MERGE**2 * visual.tokens for visual in visuals)


def _patch_places(grid: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of each patch, in the order of `cut_patches`."""
    shape = (grid[0], grid[1], _MERGE, _MERGE)
    token_row, token_column, row, column = np.indices(shape).reshape(4, -1)
    return token_row * _MERGE + row, token_column * _MERGE + column


def _neighbours(
    at: NDArray[np.float64], side: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.float64]], ...]:
    """The two integers around each position, and the weight of each."""
    below = np.floor(at).astype(np.int64)
    return (below, 1 - (at - below)), (np.minimum(below + 1, side - 1), at - below)


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Full attention; [heads, patches, dim] -> [patches, heads · dim]."""
    out = functional.scaled_dot_product_attention(q[None], k[None], v[None])[0]
    return out.transpose(0, 1).flatten(1)


def _take_block(block: Any, heads: int, activation: Activation) -> _Block:
    qkv, out, mlp = block.attn.qkv, block.attn.proj, block.mlp
    q, k, v = (
        (w.detach(), b.detach())
        for w, b in zip(qkv.weight.chunk(3), qkv.bias.chunk(3), strict=True)
    )
    dim = len(qkv.bias) // 3 // heads
    qk_weight, qk_bias = (
        torch.cat([paired(a, dim), paired(b, dim)]) for a, b in zip(q, k, strict=True)
    )
    return _Block(
        _Norm.of(block.norm1),
        linear(qk_weight, qk_bias),
        linear(v[0].clone(), v[1].clone()),
        linear(out.weight.detach(), out.bias.detach()),
        _Norm.of(block.norm2),
        linear(mlp.linear_fc1.weight.detach(), mlp.linear_fc1.bias.detach(), activation),
        linear(mlp.linear_fc2.weight.detach(), mlp.linear_fc2.bias.detach()),
    )


def _activation(name: str) -> Activation:
    if name not in ("gelu_pytorch_tanh", "gelu"):
        raise ValueError(f"a vision tower with the activation {name}")
    return "gelu_tanh" if name == "gelu_pytorch_tanh" else "gelu"
