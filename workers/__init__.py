"""The side that scores. `from workers import Reranker` is the engine in your own process, and
`prepare_image` gives what a model would see of a picture."""

from __future__ import annotations

from typing import Any

__all__ = ["Reranker", "prepare_image"]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and with `Reranker` torch, only then."""
    if name == "prepare_image":
        from workers.images.decode import prepare_image

        return prepare_image
    if name == "Reranker":
        from workers.reranker import Reranker

        return Reranker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
