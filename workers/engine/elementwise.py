"""The operations of a decoder layer besides matrix products: norm, rotation, gated activation.

A head's dimensions are in pairs (i, i + half) side by side; the weights are permuted accordingly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu


class Elementwise(Protocol):
    """The three operations, as implemented for a number type and device."""

    def norm(self, x: Tensor, gain: Tensor | None, eps: float, out: Tensor) -> Tensor:
        """x / rms(x) · gain over the last dimension; `out` may hold the result."""

    def rotate(self, heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> None:
        """Norm of each head, then the rotary embedding, in place.

        heads [rows, heads, dim]; gain [dim] fp32; table [rows, 1, dim / 2] complex64.
        """

    def gate(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up for [rows, 2 · width]; returns [rows, width]; may overwrite its input."""


class Fp32:
    """In place, with rotations as complex products: the fewest passes over memory."""

    def norm(self, x: Tensor, gain: Tensor | None, eps: float, out: Tensor) -> Tensor:
        torch.mul(x, _inverse_rms(x, eps), out=out)
        return out if gain is None else out.mul_(gain)

    def rotate(self, heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> None:
        heads.mul_(_inverse_rms(heads, eps)).mul_(gain)
        torch.view_as_complex(_pairs(heads)).mul_(table)

    def gate(self, gate_up: Tensor) -> Tensor:
        gates, up = gate_up.chunk(2, -1)
        return silu(gates, inplace=True).mul_(up)


class Half:
    """bf16 and fp16: computed in fp32 and rounded once; one fused kernel per operation when
    compiled."""

    def __init__(self, *, compiled: bool) -> None:
        self._norm = _compile(_half_norm, compiled)
        self._rotate = _compile(_half_rotate, compiled)
        self._gate = _compile(_half_gate, compiled)

    def norm(self, x: Tensor, gain: Tensor | None, eps: float, out: Tensor) -> Tensor:
        return self._norm(x, gain, eps)

    def rotate(self, heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> None:
        heads.copy_(self._rotate(heads, gain, torch.view_as_real(table), eps))

    def gate(self, gate_up: Tensor) -> Tensor:
        return self._gate(gate_up)


def elementwise(dtype: torch.dtype, device: torch.device) -> Elementwise:
    """The implementation for a number type and device."""
    if dtype == torch.float32:
        return Fp32()
    return Half(compiled=device.type == "cuda")


def _half_norm(x: Tensor, gain: Tensor | None, eps: float) -> Tensor:
    wide = x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return y if gain is None else gain * y


def _half_rotate(heads: Tensor, gain: Tensor, table: Tensor, eps: float) -> Tensor:
    wide = heads.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * gain
    a, b = _pairs(wide).unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(heads.dtype)


def _half_gate(gate_up: Tensor) -> Tensor:
    gates, up = gate_up.chunk(2, -1)
    return silu(gates) * up


def _compile(function: Callable[..., Tensor], compiled: bool) -> Callable[..., Tensor]:
    return torch.compile(function, dynamic=True) if compiled else function


def _pairs(heads: Tensor) -> Tensor:
    return heads.view(*heads.shape[:-1], -1, 2)


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
