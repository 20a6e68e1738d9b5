"""What workers count for Prometheus: names, labels, buckets, and how counts travel.

A worker counts from its start, and sends all counts with its heartbeat as one small JSON text. The
gateway exports them under the worker's name, so that the counts of a worker that is gone end, and
none ever decreases. All values of each label are listed here; others are not exported.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from rerankfleet.shared.job_spec import Priority

STAGE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WAIT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60, 300, 1800)
IMAGE_BYTES = tuple(4**power << 10 for power in range(1, 8))
"""4 KiB to 16 MiB."""
IMAGE_PIXELS = tuple(4**power << 10 for power in range(3, 9))
"""256 × 256 to 8192 × 8192."""
PRIORITIES = tuple(priority.value for priority in Priority)

Labels = tuple[str, ...]
"""The values of a family's labels, in its order."""
Value = float | list[float]
"""A number; for a histogram the count of each bucket, of all above the last one, and the sum."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric of a worker. A counter's name is written without the `_total` of its samples."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Mapping[str, Labels] = field(default_factory=dict, hash=False)
    """Each label and the values that it may have."""
    buckets: tuple[float, ...] = ()
    """Upper ends of a histogram's buckets."""

    @property
    def all_labels(self) -> list[Labels]:
        """Every combination of its labels' values."""
        return list(itertools.product(*self.labels.values()))

    def fits(self, labels: Labels, value: Value) -> bool:
        """Whether these make a valid sample."""
        if isinstance(value, list):
            valid = len(value) == len(self.buckets) + 2 and self.kind == "histogram"
        else:
            valid = self.kind != "histogram"
        named = len(labels) == len(self.labels)
        return valid and named and all(map(_is_in, labels, self.labels.values()))


def _is_in(value: str, values: Labels) -> bool:
    return value in values


PAIRS = Family(
    "rerank_pairs",
    "counter",
    "Pairs with an outcome, each by the commit that counted",
    {
        "modality": ("text", "image", "video", "unknown"),
        "outcome": ("ok", "error", "rejected"),
    },
)
BAD_LINES = Family(
    "rerank_bad_lines",
    "counter",
    "Lines of input that could not be read, each by the commit that counted",
)
TOKENS = Family(
    "rerank_tokens",
    "counter",
    "Tokens computed; `shared` ones were not, since pairs share them",
    {"kind": ("text", "image", "video", "shared")},
)
QUEUE_WAIT = Family(
    "rerank_queue_wait_seconds",
    "histogram",
    "From when a shard was due until a worker claimed it",
    {"priority": PRIORITIES},
    WAIT_S,
)
BATCH_SPLITS = Family(
    "rerank_batch_splits",
    "counter",
    "Packs and shards that were halved: they did not fit, failed or killed their worker",
    {"reason": ("oom", "poison")},
)
RETRIES = Family(
    "rerank_retries",
    "counter",
    "Operations that were retried",
    {"reason": ("fetch", "pack_failed", "worker_died", "storage", "redis")},
)
STAGES = Family(
    "rerank_stage_duration_seconds",
    "histogram",
    "Time of one step of a stage",
    {
        "stage": (
            "load",
            "fetch",
            "decode",
            "resize",
            "quality",
            "tokenize",
            "forward",
            "store",
        )
    },
    STAGE_S,
)
SOURCE_BYTES = Family(
    "rerank_image_bytes", "histogram", "Size of fetched images", buckets=IMAGE_BYTES
)
PIXELS = Family(
    "rerank_image_pixels",
    "histogram",
    "Pixels of an image: the original, and what the model reads",
    {"when": ("orig", "used")},
    IMAGE_PIXELS,
)
IMAGES_REJECTED = Family(
    "rerank_images_rejected",
    "counter",
    "Images that could not be fetched or used",
    {
        "reason": (
            "refused_source",
            "not_found",
            "unreadable",
            "fetch_failed",
            "timeout",
            "too_large",
            "invalid_image",
            "unsupported_image",
            "image_too_large",
            "decode_timeout",
            "too_many_pixels",
            "decode_crashed",
            "low_quality",
        )
    },
)
CACHE_LOOKUPS = Family(
    "rerank_cache_lookups",
    "counter",
    "Lookups in the caches of a worker",
    {"cache": ("prefix", "vision", "picture"), "result": ("hit", "miss")},
)
GPU_MEMORY = Family(
    "rerank_gpu_memory_bytes",
    "gauge",
    "Memory of the worker's GPU; of several, of the fullest one",
    {"kind": ("used", "reserved", "peak", "free", "total")},
)
LOAD_SECONDS = Family(
    "rerank_model_load_seconds",
    "gauge",
    "How long the worker loaded its model, self-test included",
)

FAMILIES = (
    PAIRS,
    BAD_LINES,
    TOKENS,
    QUEUE_WAIT,
    BATCH_SPLITS,
    RETRIES,
    STAGES,
    SOURCE_BYTES,
    PIXELS,
    IMAGES_REJECTED,
    CACHE_LOOKUPS,
    GPU_MEMORY,
    LOAD_SECONDS,
)
"""All that a worker sends."""

Counts = Mapping[str, Mapping[Labels, Value]]
"""Samples by their family's name, then by their labels."""

_TEXT = TypeAdapter(dict[str, dict[str, FiniteFloat | list[FiniteFloat]]])


def dump_counts(counts: Counts) -> str:
    """The text that `load_counts` reads: {family: {"label,label": value}}."""
    families = {
        name: {",".join(labels): value for labels, value in samples.items()}
        for name, samples in counts.items()
    }
    return json.dumps(families, separators=(",", ":"))


def load_counts(text: str | None) -> Counts:
    """What a worker sent, without what this version does not know. Never raises."""
    try:
        families = _TEXT.validate_json(text or "{}")
    except ValidationError:
        return {}
    return {family.name: _samples(family, families.get(family.name, {})) for family in FAMILIES}


def _samples(family: Family, values: Mapping[str, Value]) -> dict[Labels, Value]:
    samples = {tuple(key.split(",")) if key else (): value for key, value in values.items()}
    return {labels: value for labels, value in samples.items() if family.fits(labels, value)}
