"""Weight matrices, each in the form that its device multiplies best.

On a CPU with oneDNN an fp32 matrix is packed once into oneDNN's own layout: against a plain
product 1.15 × as fast for many rows, up to 1.8 × for few, and the activation comes with it
(docs/performance.md). Elsewhere the plain product is the best there is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

#: x [rows, inputs] -> [rows, outputs]
Linear = Callable[[Tensor], Tensor]
#: [rows, gate | up] -> silu(gate) · up; may overwrite its input.
Gate = Callable[[Tensor], Tensor]

#: The rows that the packed layout is chosen for; all numbers of rows work.
_PACKED_ROWS = 512


def linear(weight: Tensor) -> Linear:
    """x · weightᵀ for a weight [outputs, inputs]."""
    if _packs(weight):
        return _packed(weight, "none")
    return lambda x: functional.linear(x, weight)


def gated(gate_weight: Tensor, up_weight: Tensor, gate: Gate) -> Linear:
    """silu(x · gate_weightᵀ) · (x · up_weightᵀ); by `gate` where the product brings no silu."""
    if _packs(gate_weight):
        activated, up = _packed(gate_weight, "swish"), _packed(up_weight, "none")
        return lambda x: activated(x).mul_(up(x))
    both = torch.cat([gate_weight, up_weight])
    return lambda x: gate(functional.linear(x, both))


def _packs(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _packed(weight: Tensor, activation: str) -> Linear:
    """The product by the operator that torch's own compiler uses for frozen weights."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACKED_ROWS)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, None, activation, [], "")
