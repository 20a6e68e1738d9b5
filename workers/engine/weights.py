"""The weights of a loaded transformers model, fused as the decoder loop wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Heads:
    """The head layout of a model. A buffer row holds queries, keys and values of all heads."""

    queries: int
    kv: int
    dim: int

    @property
    def fan(self) -> int:
        """Query heads that share a key head."""
        return self.queries // self.kv

    @property
    def per_row(self) -> int:
        """Heads in a buffer row."""
        return self.queries + 2 * self.kv


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer.

    The heads of q and k are in pairs (see `elementwise`). Where a norm's gain is None, it is in
    the matrix behind it.
    """

    qkv: Tensor
    o: Tensor
    gate_up: Tensor
    down: Tensor
    qk_gain: Tensor
    """[query heads + kv heads, dim] fp32; the queries' with the attention's scale in it"""
    attention_gain: Tensor | None
    mlp_gain: Tensor | None


@torch.no_grad()
def take_layer(module: Any, heads: Heads) -> Layer:
    """Fuse one decoder layer's weights and free what was fused, so that memory holds them once."""
    attention, mlp = module.self_attn, module.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    attention_gain = module.input_layernorm.weight.detach()
    mlp_gain = module.post_attention_layernorm.weight.detach()
    qkv = torch.cat([_paired(q.weight, heads.dim), _paired(k.weight, heads.dim), v.weight])
    _free(q, k, v)
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    _free(mlp.gate_proj, mlp.up_proj)
    # In half types a gain inside a matrix would be rounded with it, other than in the reference.
    fold = qkv.dtype == torch.float32
    if fold:
        qkv.mul_(attention_gain)
        gate_up.mul_(mlp_gain)
    q_gain = _paired(attention.q_norm.weight.float(), heads.dim) * heads.dim**-0.5
    k_gain = _paired(attention.k_norm.weight.float(), heads.dim)
    return Layer(
        qkv=qkv,
        o=attention.o_proj.weight.detach(),
        gate_up=gate_up,
        down=mlp.down_proj.weight.detach(),
        qk_gain=torch.cat([q_gain.expand(heads.queries, -1), k_gain.expand(heads.kv, -1)]),
        attention_gain=None if fold else attention_gain,
        mlp_gain=None if fold else mlp_gain,
    )


def _paired(weight: Tensor, dim: int) -> Tensor:
    """The first dimension, head by head, from halves (a…, b…) to pairs (a, b, a, b, …)."""
    halves = weight.view(-1, 2, dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _free(*linears: nn.Linear) -> None:
    for linear in linears:
        linear.weight = nn.Parameter(linear.weight.new_empty(0), requires_grad=False)


def yes_minus_no(model: Any, ids: Sequence[int]) -> Tensor:
    """The fp32 direction whose dot product with a normed hidden state is the margin.

    The final norm's gain is in it. Tied heads share the embedding's matrix.
    """
    head = model.get_output_embeddings().weight
    yes, no = (head[i].float() for i in ids)
    direction: Tensor = (yes - no) * model.model.norm.weight.float()
    return direction
