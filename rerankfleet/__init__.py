"""Rerank millions of (query, document) pairs with Qwen3 rerankers over a fleet of workers.

    from rerankfleet import Client                     # submit jobs, read results; no torch
    from rerankfleet import Reranker, prepare_image    # the engine in your own process

Each name is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client
    from rerankfleet.workers.images.decode import prepare_image
    from rerankfleet.workers.reranker import Reranker

__all__ = ["Client", "Reranker", "__version__", "prepare_image"]

try:
    __version__ = version("rerankfleet")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0+source"

_HOMES = {
    "Client": "rerankfleet.producer.client",
    "Reranker": "rerankfleet.workers.reranker",
    "prepare_image": "rerankfleet.workers.images.decode",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its home, and with `Reranker` torch, only when asked for it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
