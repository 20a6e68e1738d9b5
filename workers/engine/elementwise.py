"""The operations of a decoder layer besides matrix products: norm, rotation, gated activation.

A head's dimensions are in pairs (i, i + half) side by side; the weights are permuted accordingly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import silu

from rerankfleet.workers.engine.compiler import NO_COMPILER, REMEDY, has_compiler
from rerankfleet.workers.engine.failures import first_line, is_lost, is_out_of_memory

log = logging.getLogger(__name__)


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
    return _compiled(dtype, device) if device.type == "cuda" else Half(compiled=False)


def _compiled(dtype: torch.dtype, device: torch.device) -> Half:
    """The compiled operations, tried once; uncompiled with a warning where that fails: right, but
    slower."""
    why = ""
    if not has_compiler():
        why = f"{NO_COMPILER}: {REMEDY}"
    else:
        half = Half(compiled=True)
        try:
            _try(half, dtype, device)
            return half
        except Exception as error:
            if is_out_of_memory(error) or is_lost(error):
                raise
            why = first_line(error)
    log.warning("operations between matrix products are not compiled, and slower: %s", why)
    return Half(compiled=False)


def _try(half: Half, dtype: torch.dtype, device: torch.device) -> None:
    x = torch.ones(4, 2, 16, device=device, dtype=dtype)
    half.rotate(x, x[0, 0].float(), torch.ones(4, 1, 8, device=device).to(torch.complex64), 1e-6)
    half.norm(half.gate(x.flatten(1)), None, 1e-6, x)


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
