"""Every (image, query) in every cell, scored in this process -> rows of Parquet.

A cell's images are prepared and scored a block at a time, so that neither all images nor all
features are in memory at once. In each repeat the order of images and the pairs of a block are
shuffled, so that pairs have other neighbours in their packs; differences of their margins
are noise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.content.images import SIDE_PX
from rerankfleet.shared.errors import ItemError, OutOfDeviceMemory, UsageError
from rerankfleet.shared.storage.local_files import publish_file
from rerankfleet.studies.resolution.inputs import Held
from rerankfleet.studies.resolution.plan import Cell, Plan, size_name
from rerankfleet.workers.batching.packing import Limit, Pack, document_cost, query_cost
from rerankfleet.workers.engine.engine import Engine
from rerankfleet.workers.images.decode import prepare_image
from rerankfleet.workers.images.prepared import PreparedImage
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import Tokens, Visual

#: Visual tokens of the images in memory at once: 38 MB of pixels, and about 400 MB of
#: features in the largest model, which the engine keeps until the block is done.
BLOCK_TOKENS = 12_288
#: Tokens of a pair: the length that the models are made for.
MAX_LENGTH = 32_768

SCHEMA = pa.schema(
    [
        ("image", pa.dictionary(pa.int32(), pa.string())),
        ("category", pa.dictionary(pa.int32(), pa.string())),
        ("query", pa.dictionary(pa.int32(), pa.string())),
        ("size", pa.dictionary(pa.int32(), pa.string())),
        ("interpolation", pa.dictionary(pa.int32(), pa.string())),
        ("repeat", pa.int32()),
        ("margin", pa.float64()),
        ("score", pa.float64()),
        ("visual_tokens", pa.int32()),
        ("used_width", pa.int32()),
        ("used_height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("seconds", pa.float64()),
    ]
)

Progress = Callable[[Cell, int, float], None]
"""Called with (cell, repeat, images per second) when all images are scored in it."""


@dataclass(frozen=True, slots=True)
class Scored:
    """An (image, query) as it was scored."""

    image: Held
    query: str
    margin: float
    prepared: PreparedImage
    seconds: float
    """Its share of the time: preparing the image, over queries; scoring the pack, over pairs."""


@dataclass(frozen=True, slots=True)
class _Pair:
    image: Held
    query: str
    prepared: PreparedImage
    prompt: Prompt
    prepare_s: float


class Run:
    """Scores a study's pairs with one engine."""

    def __init__(
        self,
        engine: Engine,
        limit: Limit,
        plan: Plan,
        queries: Sequence[str],
        instruction: str | None = None,
    ) -> None:
        self._engine, self._limit, self._plan = engine, limit, plan
        self._queries, self._instruction = queries, instruction

    def write(self, images: Sequence[Held], path: Path, on_cell: Progress) -> None:
        """Write all rows into a Parquet file at `path`, which appears when all are written.

        Raises UsageError when a pair cannot be scored at a size at all.
        """
        self._try_each(images[0])
        with publish_file(path) as out, parquet.ParquetWriter(out, SCHEMA) as writer:
            for repeat in range(self._plan.repeats):
                for number, cell in enumerate(self._plan.cells()):
                    rng = np.random.default_rng([self._plan.seed, repeat, number])
                    seconds = 0.0
                    for scored in self._cell(images, cell, rng):
                        writer.write_batch(_rows(scored, cell, repeat))
                        seconds += sum(pair.seconds for pair in scored)
                    on_cell(cell, repeat, len(images) / seconds)

    def _try_each(self, image: Held) -> None:
        """Score one pair of each cell: impossible sizes fail early, and first-time costs of the
        device are not timed."""
        for cell in self._plan.cells():
            prompts = [pair.prompt for pair in self._pairs(image, cell)]
            try:
                self._engine.score(Pack.of(prompts[:1])[0])
            except OutOfDeviceMemory as error:
                raise UsageError(
                    f"an image of {size_name(cell.size)} does not fit into the device's memory",
                    hint="leave that size out with --sizes",
                ) from error

    def _cell(
        self, images: Sequence[Held], cell: Cell, rng: np.random.Generator
    ) -> Iterator[list[Scored]]:
        """The pairs of one cell, block by block."""
        block: list[_Pair] = []
        tokens = 0
        for at in rng.permutation(len(images)):
            pairs = self._pairs(images[at], cell)
            if block and tokens + pairs[0].prepared.tokens > BLOCK_TOKENS:
                yield self._score(block, rng)
                block, tokens = [], 0
            block += pairs
            tokens += pairs[0].prepared.tokens
        yield self._score(block, rng)

    def _pairs(self, image: Held, cell: Cell) -> list[_Pair]:
        """An image with each query, prepared."""
        start_s = time.perf_counter()
        prepared = prepare_image(image.path, cell.options)
        side = Side(images=(Visual(prepared.key, (prepared.pixels,)),))
        requests = [
            PromptRequest(Side(query), [side], self._instruction) for query in self._queries
        ]
        encoded = self._engine.prompter.encode_all(requests, max_length=MAX_LENGTH)
        each_s = (time.perf_counter() - start_s) / len(requests)
        return [
            _Pair(image, query, prepared, _whole(prompt, cell), each_s)
            for query, (prompt,) in zip(self._queries, encoded, strict=True)
        ]

    def _score(self, block: Sequence[_Pair], rng: np.random.Generator) -> list[Scored]:
        """Score a block's pairs in mixed packs; the tower encodes each image again."""
        self._engine.feature_cache.clear()
        mixed = [block[at] for at in rng.permutation(len(block))]
        scored: list[Scored] = []
        for pack in _packs(mixed, self._limit):
            start_s = time.perf_counter()
            margins = self._margins([pair.prompt for pair in pack])
            each_s = (time.perf_counter() - start_s) / len(pack)
            scored += [
                Scored(p.image, p.query, float(margin), p.prepared, p.prepare_s + each_s)
                for p, margin in zip(pack, margins, strict=True)
            ]
        return scored

    def _margins(self, prompts: Sequence[Prompt]) -> NDArray[np.float64]:
        """Margins in the order of the prompts; in halves when memory does not suffice."""
        pack, order = Pack.of(prompts)
        try:
            scored = self._engine.score(pack)
        except OutOfDeviceMemory:
            if len(prompts) == 1:
                raise
            self._engine.free()
            middle = len(prompts) // 2
            halves = [self._margins(prompts[:middle]), self._margins(prompts[middle:])]
            return np.concatenate(halves)
        margins = np.empty(len(prompts))
        margins[order] = scored
        return margins


def _whole(prompt: Prompt | ItemError, cell: Cell) -> Prompt:
    """A prompt that is not truncated: a truncated one would change the study."""
    if isinstance(prompt, ItemError):
        raise UsageError(f"a query cannot be used: {prompt.message}", hint=prompt.hint)
    if prompt.truncated_tokens:
        raise UsageError(
            f"a query and an image of {size_name(cell.size)} are longer than the model's "
            f"{MAX_LENGTH:,} tokens",
            hint=f"use a smaller size: a token is {SIDE_PX} × {SIDE_PX} pixels",
        )
    return prompt


def _packs(pairs: Sequence[_Pair], limit: Limit) -> Iterator[list[_Pair]]:
    """Pairs in order, as many per pack as the limit permits."""
    pack: list[_Pair] = []
    queries: set[Tokens] = set()
    spent = 0.0
    for pair in pairs:
        prompt = pair.prompt
        price = document_cost(prompt) + (0 if prompt.query in queries else query_cost(prompt))
        full = spent + price > limit.tokens or len(pack) == limit.pairs
        if pack and full:
            yield pack
            pack, queries = [], set()
            spent, price = 0.0, document_cost(prompt) + query_cost(prompt)
        pack.append(pair)
        queries.add(prompt.query)
        spent += price
    yield pack


def _rows(scored: Sequence[Scored], cell: Cell, repeat: int) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        "image": [pair.image.name for pair in scored],
        "category": [pair.image.category for pair in scored],
        "query": [pair.query for pair in scored],
        "size": [size_name(cell.size)] * len(scored),
        "interpolation": [cell.interpolation] * len(scored),
        "repeat": [repeat] * len(scored),
        "margin": [pair.margin for pair in scored],
        "score": [relevance_score(pair.margin) for pair in scored],
        "visual_tokens": [pair.prepared.tokens for pair in scored],
        "used_width": [pair.prepared.size[0] for pair in scored],
        "used_height": [pair.prepared.size[1] for pair in scored],
        "original_width": [pair.prepared.original[0] for pair in scored],
        "original_height": [pair.prepared.original[1] for pair in scored],
        "seconds": [pair.seconds for pair in scored],
    }
    return pa.RecordBatch.from_pydict(columns, schema=SCHEMA)
