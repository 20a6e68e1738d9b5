"""The only place that knows torch: models, forward passes, device memory.

Importing the package loads no torch; `load_engine` does.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rerankfleet.workers.engine.failures import told
from rerankfleet.workers.engine.locate import resolve_model

if TYPE_CHECKING:
    from rerankfleet.workers.engine.engine import Engine

__all__ = ["load_engine", "resolve_model"]


ONEDNN_PRIMITIVES = "64"
"""How many compiled kernels oneDNN keeps on a CPU, unless ONEDNN_PRIMITIVE_CACHE_CAPACITY says
otherwise. It makes one for each shape of a matrix product, and packs have as many tokens as they
have: of its usual 1024 hardly any is used again after its pack, and they took 700 MB."""


def load_engine(model: str, **options: Any) -> Engine:
    """Load a Qwen3 reranker; see `rerankfleet.workers.engine.load.load` for the options.

    Loads in a short-lived thread: every thread that ever computed keeps a pool of OpenMP threads,
    and when there are more of those than cores, they sleep instead of spinning, which made the
    packs of the device thread 8 % slower. Raises what `load` does, OutOfDeviceMemory and
    DeviceBroken.
    """
    _prepare_environment()
    from rerankfleet.workers.engine.load import load

    with told(f"loading {model}"), ThreadPoolExecutor(1, "load") as thread:
        return thread.submit(load, model, **options).result()


def _prepare_environment() -> None:
    """What torch reads once, before CUDA starts; what was set already stays.

    Packs differ in size from one to the next: expandable segments keep the allocator's memory in
    one piece. Kernels are compiled in this process: its helpers would be one per core, each with
    torch in memory, for a handful of kernels.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", ONEDNN_PRIMITIVES)
