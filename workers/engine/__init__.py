"""The only place that knows torch: models, forward passes, device memory.

Importing the package loads no torch; `load_engine` does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rerankfleet.workers.engine.locate import resolve_model

if TYPE_CHECKING:
    from rerankfleet.workers.engine.engine import Engine

__all__ = ["load_engine", "resolve_model"]


def load_engine(model: str, **options: Any) -> Engine:
    """Load a Qwen3 reranker; see `rerankfleet.workers.engine.load.load` for the options.

    Works in a thread that ends with it: every thread that once computed keeps a pool of OpenMP
    threads, and with more of them than cores these sleep instead of spinning, which made the
    device thread's packs 8 % slower.
    """
    from rerankfleet.workers.engine.load import load

    with ThreadPoolExecutor(1, "load") as thread:
        return thread.submit(load, model, **options).result()
