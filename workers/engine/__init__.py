"""The only place that knows torch: models, forward passes, device memory.

Importing the package loads no torch; `load_engine` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workers.engine.locate import resolve_model

if TYPE_CHECKING:
    from workers.engine.engine import Engine

__all__ = ["load_engine", "resolve_model"]


def load_engine(model: str, **options: Any) -> Engine:
    """Load a Qwen3 reranker; see `workers.engine.load.load` for the options."""
    from workers.engine.load import load

    return load(model, **options)
