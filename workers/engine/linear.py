"""Weight matrices, each in the form that its device multiplies fastest.

On a CPU with oneDNN an fp32 matrix is packed once into oneDNN's own layout: 1.15 × as fast as a
plain product for many rows, up to 1.8 × for few, with the activation fused
(docs/performance.md). Elsewhere the plain product is the fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

#: x [rows, inputs] -> [rows, outputs]
Linear = Callable[[Tensor], Tensor]
#: [rows, gate | up] -> silu(gate) · up; may overwrite its input.
Gate = Callable[[Tensor], Tensor]
Activation = Literal["", "silu", "gelu", "gelu_tanh"]

#: The number of rows that the packed layout is optimised for; any number works.
_PACKED_ROWS = 512
#: The names of activations in oneDNN's operator.
_POINTWISE = {
    "": ("none", ""),
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
}
_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda x: x,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
}


def linear(weight: Tensor, bias: Tensor | None = None, activation: Activation = "") -> Linear:
    """activation(x · weightᵀ + bias) for a weight [outputs, inputs]."""
    if _packs(weight):
        return _packed(weight, bias, activation)
    activate = _PLAIN[activation]
    return lambda x: activate(functional.linear(x, weight, bias))


def gated(gate_weight: Tensor, up_weight: Tensor, gate: Gate) -> Linear:
    """silu(x · gate_weightᵀ) · (x · up_weightᵀ); by `gate` where silu is not fused."""
    if _packs(gate_weight):
        activated, up = linear(gate_weight, activation="silu"), linear(up_weight)
        return lambda x: activated(x).mul_(up(x))
    both = torch.cat([gate_weight, up_weight])
    return lambda x: gate(functional.linear(x, both))


def _packs(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _packed(weight: Tensor, bias: Tensor | None, activation: Activation) -> Linear:
    """The product by the operator that torch's compiler uses for frozen weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_ROWS)
    product, (name, algorithm) = torch.ops.mkldnn._linear_pointwise, _POINTWISE[activation]
    return lambda x: product(x, packed, bias, name, [], algorithm)
