"""Attention of a pack by one variable-length kernel: flash-attn's or torch's own. CUDA only.

Each segment is a sequence whose keys are its context and itself; queries are its last rows, so
the causal mask is aligned at the bottom right, as in both kernels.

Keys are gathered for that: a prefix is copied for each document behind it. So that memory does not
grow with the pack, sequences are computed some at a time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from rerankfleet.workers.engine.layout import Layout, Segment
from rerankfleet.workers.engine.weights import Heads

#: q [rows, heads, dim], k and v [keys, kv heads, dim], starts of q and of k, longest q and k.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]


#: Key rows gathered at a time, unless a single sequence has more.
GATHERED_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class _Sequences:
    """Key rows of some segments one after another, and where each begins."""

    rows: int
    """of their queries"""
    keys: Tensor
    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int


class VarlenAttention:
    """See `attention.Attention`."""

    def __init__(self, layout: Layout, heads: Heads, device: torch.device, kernel: Kernel) -> None:
        self._heads, self._kernel = heads, kernel
        own = [s.own[1] for s in layout.segments]
        self._all = _in_pieces(layout.segments, own, device)
        self._last = _in_pieces(layout.documents, [1] * len(layout.documents), device)

    def all(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        return self._attend(queries, kv, self._all)

    def last(self, queries: Tensor, kv: Tensor) -> Tensor:
        """See `attention.Attention`."""
        return self._attend(queries, kv, self._last)

    def _attend(self, queries: Tensor, kv: Tensor, pieces: Sequence[_Sequences]) -> Tensor:
        parts = torch.split(queries, [piece.rows for piece in pieces])
        outputs = [self._piece(q, kv, piece) for q, piece in zip(parts, pieces, strict=True)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _piece(self, queries: Tensor, kv: Tensor, s: _Sequences) -> Tensor:
        heads = self._heads
        gathered = kv.index_select(0, s.keys).view(len(s.keys), 2, heads.kv, heads.dim)
        keys, values = gathered.unbind(1)
        q = queries.view(len(queries), heads.queries, heads.dim)
        out = self._kernel(
            q, keys, values, s.query_starts, s.key_starts, s.longest_query, s.longest_key
        )
        return out.reshape(queries.shape)


def _in_pieces(
    segments: Sequence[Segment], rows: Sequence[int], device: torch.device
) -> list[_Sequences]:
    """The segments in order, in pieces of at most GATHERED_ROWS keys."""
    pieces: list[_Sequences] = []
    first = gathered = 0
    for at, segment in enumerate(segments):
        span = segment.context_length + segment.own[1]
        if at > first and gathered + span > GATHERED_ROWS:
            pieces.append(_sequences(segments[first:at], rows[first:at], device))
            first, gathered = at, 0
        gathered += span
    return [*pieces, _sequences(segments[first:], rows[first:], device)]


def _sequences(
    segments: Sequence[Segment], rows: Sequence[int], device: torch.device
) -> _Sequences:
    if not segments:
        empty = torch.zeros(1, dtype=torch.int32, device=device)
        return _Sequences(0, empty[:0].long(), empty, empty, 0, 0)
    keys = np.concatenate(
        [np.arange(first, first + n) for s in segments for first, n in (*s.context, s.own)]
    )
    spans = [s.context_length + s.own[1] for s in segments]
    return _Sequences(
        sum(rows),
        torch.from_numpy(keys).to(device),
        _starts(rows, device),
        _starts(spans, device),
        max(rows),
        max(spans),
    )


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)


def flash_kernel() -> Kernel:
    """flash-attn's kernel; raises ImportError when it is not installed."""
    from flash_attn import flash_attn_varlen_func

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor, k_starts: Tensor, q_max: int, k_max: int
    ) -> Tensor:
        out: Tensor = flash_attn_varlen_func(
            q, k, v, q_starts, k_starts, q_max, k_max, softmax_scale=1.0, causal=True
        )
        return out

    return kernel


def torch_kernel() -> Kernel:
    """torch's kernel; raises ImportError when this torch has none that can be used."""
    from torch.nn.attention.varlen import varlen_attn

    return adapt(varlen_attn, torch.__version__, rocm=torch.version.hip is not None)


def adapt(varlen_attn: Callable[..., Any], version: str, *, rocm: bool) -> Kernel:
    """The kernel of any torch, as its signature allows. What it lacks is decided here, once.

    Raises ImportError for one that cannot leave scores unscaled: its own scale of 1 / sqrt(dim)
    could only be undone by rounding the queries again.
    """
    accepts = inspect.signature(varlen_attn).parameters
    if not {"scale", "window_size"} <= accepts.keys():
        raise ImportError(f"that of torch {version} takes no scale: from torch 2.11 on it does")
    options: dict[str, Any] = {"scale": 1.0, "window_size": (-1, 0)}
    # One split: with more, the order of summation would depend on the load of the device. torch
    # 2.12 takes the option and raises unless FlashAttention 3 is installed.
    if "num_splits" in accepts and not rocm and TorchVersion(version) >= TorchVersion("2.13"):
        options["num_splits"] = 1
    shares_heads = "enable_gqa" in accepts

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor, k_starts: Tensor, q_max: int, k_max: int
    ) -> Tensor:
        fan = q.shape[1] // k.shape[1]
        sharing = {}
        if fan > 1 and shares_heads:
            sharing["enable_gqa"] = True
        elif fan > 1:
            k, v = (t.repeat_interleave(fan, 1) for t in (k, v))
        out = varlen_attn(q, k, v, q_starts, k_starts, q_max, k_max, **options, **sharing)
        assert isinstance(out, Tensor)
        return out

    return kernel
