"""What a decoder layer does beside matrix products: norm, rotation, gated activation.

Two forms of each. In fp32 in place, with the complex product for rotations: few passes over
memory. In bf16 and fp16 out of place, computed in fp32 and rounded once: `torch.compile` fuses
these on CUDA.

A head's dimensions stand in pairs (i, i + half) side by side; the weights are permuted so.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, gain: Tensor | None, eps: float, out: Tensor | None = None) -> Tensor:
    """x / rms(x) · gain over the last dimension; `gain` None when a weight has taken it in."""
    if x.dtype == torch.float32:
        inverse = _inverse_rms(x, eps)
        y = torch.mul(x, inverse, out=out)
        return y if gain is None else y.mul_(gain)
    wide = x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return y if gain is None else gain * y


def norm_and_rotate(heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> None:
    """Per-head RMS norm, then the rotary embedding, in place.

    heads [rows, heads, dim]; gain [heads, dim] fp32; table [rows, 1, dim / 2] complex64.
    """
    if heads.dtype == torch.float32:
        heads.mul_(_inverse_rms(heads, eps)).mul_(gain)
        torch.view_as_complex(heads.unflatten(-1, (-1, 2))).mul_(table)
        return
    heads.copy_(_norm_and_rotate(heads, gain, torch.view_as_real(table), eps))


def _norm_and_rotate(heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> Tensor:
    wide = heads.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain
    pairs = wide.unflatten(-1, (-1, 2))
    a, b = pairs.unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) · up for [rows, 2 · width]; gives [rows, width], in fp32 in the gate's place."""
    gates, up = gate_up.chunk(2, -1)
    if gate_up.dtype == torch.float32:
        return torch.nn.functional.silu(gates, inplace=True).mul_(up)
    return torch.nn.functional.silu(gates) * up


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
