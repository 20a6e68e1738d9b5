"""The interface of the attention kernels, and the choice of one. No silent fallback: a kernel that
was named and cannot run is an error.

matmul  batched matrix products over groups of similar shapes   fp32; fastest on CPUs
sdpa    the same groups by scaled_dot_product_attention         all types; on CUDA for fp32, Turing
flash   flash-attn's varlen kernel                              CUDA, bf16 and fp16
varlen  torch's varlen kernel, from torch 2.11 on               CUDA, bf16 and fp16
flex    FlexAttention                                           all types; slow except on CUDA
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.engine.compiler import NO_COMPILER, has_compiler
from rerankfleet.workers.engine.layout import Layout
from rerankfleet.workers.engine.weights import Heads
from rerankfleet.workers.engine.workspace import Workspace

ATTENTIONS = ("matmul", "sdpa", "flash", "varlen", "flex")
#: Those that copy the keys of a prefix for each document behind it. So do the groups, at a price
#: that is part of what was measured on CPUs.
GATHERING = ("flash", "varlen")
#: The first compute capability with bf16, and with kernels for it.
AMPERE = (8, 0)
#: Preferred order for half types on CUDA.
_CUDA_HALF = ("flash", "varlen", "flex", "sdpa")


class Attention(Protocol):
    """Attention over one pack; q, k and v are rotated and scaled.

    kv [prefix rows, then computed rows; 2 · kv heads · dim]: keys of all heads, then values.
    """

    def all(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Outputs of all computed rows; queries and outputs are [rows, query heads · dim]."""

    def last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """Outputs of each document's last row; both [documents, query heads · dim]."""


#: Creates the attention of a pack on one device from its layout.
AttentionFactory = Callable[[Layout, Heads, Workspace, torch.device], Attention]


class PerDeviceAttention:
    """The attention of a model whose layers are on several devices."""

    def __init__(self, by_device: Mapping[torch.device, Attention]) -> None:
        self._by_device = by_device

    def all(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `Attention`."""
        return self._by_device[kv.device].all(queries, kv)

    def last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `Attention`."""
        return self._by_device[kv.device].last(queries, kv)


def choose_attention(
    name: str, device: torch.device, dtype: torch.dtype
) -> tuple[str, AttentionFactory]:
    """The kernel of that name, or with "auto" the fastest that runs here, and its name.

    Raises ModelRefused for a kernel that is unknown or cannot run here.
    """
    if name == "auto":
        name = _best(device, dtype)
    elif name not in ATTENTIONS:
        raise ModelRefused(f"attention {name!r} is unknown", hint=f"auto, {', '.join(ATTENTIONS)}")
    elif reason := unavailable(name, device, dtype):
        raise ModelRefused(f"attention {name!r} {reason}", hint="use attention=auto")
    return name, _factory(name)


def unavailable(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The reason why a kernel cannot run here; empty when it can."""
    if name == "matmul" and dtype != torch.float32:
        return "computes in fp32 only"
    if name not in ("flash", "varlen", "flex") or (name == "flex" and device.type != "cuda"):
        return ""
    if name != "flex" and (device.type != "cuda" or dtype == torch.float32):
        return "runs on CUDA in bf16 or fp16 only"
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < AMPERE:
        return "needs a GPU of compute capability 8.0"
    if name == "flex":
        return "" if has_compiler() else f"needs to be compiled, and {NO_COMPILER}"
    try:
        _factory(name)
    except (ImportError, OSError) as error:  # OSError: built against another torch or CUDA
        return f"is not available ({error})"
    return ""


def _best(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return "matmul" if dtype == torch.float32 else "sdpa"
    if dtype == torch.float32:
        return "sdpa"
    return next(name for name in _CUDA_HALF if not unavailable(name, device, dtype))


def _factory(name: str) -> AttentionFactory:
    if name in ("matmul", "sdpa"):
        from rerankfleet.workers.engine.grouped import GroupedAttention

        return lambda layout, heads, space, device: GroupedAttention(
            layout, heads, space, device, sdpa=name == "sdpa"
        )
    if name == "flex":
        from rerankfleet.workers.engine.flex import FlexAttention

        return lambda layout, heads, space, device: FlexAttention(layout, heads, device)
    from rerankfleet.workers.engine.varlen import VarlenAttention, flash_kernel, torch_kernel

    kernel = flash_kernel() if name == "flash" else torch_kernel()
    return lambda layout, heads, space, device: VarlenAttention(layout, heads, device, kernel)
