"""The side that scores. `from workers import Reranker` is the engine in your own process."""

from __future__ import annotations

from typing import Any

__all__ = ["Reranker"]


def __getattr__(name: str) -> Any:
    """Load `Reranker`, and with it torch, only when it is asked for."""
    if name == "Reranker":
        from workers.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
