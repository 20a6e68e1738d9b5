"""The weights of a loaded transformers model, in the form that the decoder loop uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rerankfleet.workers.engine.linear import Gate, Linear, gated, linear


@dataclass(frozen=True, slots=True)
class Heads:
    """The head layout of a model."""

    queries: int
    kv: int
    dim: int

    @property
    def fan(self) -> int:
        """Query heads that share a key head."""
        return self.queries // self.kv


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer.

    The heads of q and k are in pairs (see `elementwise`). A norm's gain of None is folded into the
    matrices that follow it.
    """

    q: Linear
    kv: Linear
    o: Linear
    gated: Linear
    """gate and up projections with the activation"""
    down: Linear
    q_gain: Tensor
    """[dim] fp32, including the scale of the attention"""
    k_gain: Tensor
    """[dim] fp32"""
    attention_gain: Tensor | None
    mlp_gain: Tensor | None
    device: torch.device


@torch.no_grad()
def take_layer(module: Any, heads: Heads, gate: Gate) -> Layer:
    """Take one decoder layer's weights out of it, so that they are in memory only once."""
    attention, mlp = module.self_attn, module.mlp
    attention_gain = module.input_layernorm.weight.detach()
    mlp_gain = module.post_attention_layernorm.weight.detach()
    # In half types a gain folded into a matrix would be rounded with it, unlike in the reference.
    fold = attention_gain.dtype == torch.float32

    def after(gain: Tensor, weight: Tensor) -> Tensor:
        return weight * gain if fold else weight

    q = paired(_take(attention.q_proj), heads.dim)
    k = paired(_take(attention.k_proj), heads.dim)
    kv = torch.cat([k, _take(attention.v_proj)])
    return Layer(
        q=linear(after(attention_gain, q)),
        kv=linear(after(attention_gain, kv)),
        o=linear(_take(attention.o_proj)),
        gated=gated(
            after(mlp_gain, _take(mlp.gate_proj)), after(mlp_gain, _take(mlp.up_proj)), gate
        ),
        down=linear(_take(mlp.down_proj)),
        q_gain=paired(attention.q_norm.weight.float(), heads.dim) * heads.dim**-0.5,
        k_gain=paired(attention.k_norm.weight.float(), heads.dim),
        attention_gain=None if fold else attention_gain,
        mlp_gain=None if fold else mlp_gain,
        device=mlp_gain.device,
    )


def _take(module: nn.Linear) -> Tensor:
    """The weight of a module, which is removed from it."""
    weight = module.weight.detach()
    module.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)
    return weight


def paired(weight: Tensor, dim: int) -> Tensor:
    """The first dimension, head by head, from halves (a…, b…) to pairs (a, b, a, b, …)."""
    halves = weight.view(-1, 2, dim // 2, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def text_model(model: Any) -> Any:
    """The decoder of a loaded model: all of a text model, the language model of a VL model."""
    return getattr(model.model, "language_model", model.model)


def head_of(model: Any) -> Tensor:
    """The weight of a model's head: a row for each token, or for each label of a classifier."""
    head: Tensor = (model.score if hasattr(model, "score") else model.lm_head).weight
    return head.detach()


def yes_minus_no(model: Any, yes_id: int, no_id: int | None) -> Tensor:
    """The fp32 direction whose dot product with a normed hidden state is the margin.

    The final norm's gain is included. A tied head shares the embedding's matrix; a classifier with
    one label has no row for "no".
    """
    head = head_of(model)
    gain: Tensor = text_model(model).norm.weight.float()
    direction: Tensor = head[yes_id].to(gain)
    if no_id is not None:
        direction = direction - head[no_id].to(gain)
    scaled: Tensor = direction * gain
    return scaled
