"""The cost of requests in tokens, and the size of shards. Pure arithmetic.

The feeder has no tokenizer: the cost of text is estimated from characters, that of images from
their target resolution. A shard need not be exact, only short enough that losing one costs little,
and long enough that its bookkeeping is negligible.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rerankfleet.shared.content.content import Content, Document
from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.shared.content.requests import ImageRun, Piece, Slice

CHARACTERS_PER_TOKEN = 3.5
VISION_FACTOR = 2.0
"""A visual token costs the vision tower about as much as the decoder: four patches through a
quarter of the parameters."""
FRAMES_PER_IMAGE = 4
"""This many frames of a video cost one image: two share their tokens, and each is smaller."""
DATA_BYTES_PER_TOKEN = 32
"""data: URIs, and text beyond max_length, are charged by size, which bounds a shard file."""
PAIR_TOKENS = 12
"""Tokens of the suffix of every pair."""
REQUEST_TOKENS = 80
"""Tokens of the system turn and the default instruction."""
DEFAULT_TOKENS_PER_S = 4000.0
"""The assumed rate of a worker until one has measured its own."""


def image_tokens(images: ImageSpec) -> float:
    """Estimated cost of one image at its target resolution, in tokens of text."""
    return VISION_FACTOR * images.tokens_max


def content_tokens(content: Content, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens of a content with images of `per_image` tokens each, of whose text at most
    `text_max` tokens are read."""
    characters = len(content.text or "")
    tokens = min(characters / CHARACTERS_PER_TOKEN, text_max)
    tokens = max(tokens, characters / DATA_BYTES_PER_TOKEN)
    if content.plain:
        return tokens
    tokens += sum(max(per_image, len(uri) / DATA_BYTES_PER_TOKEN) for uri in content.image)
    frames = content.video.frames if content.video else ()
    per_frame = per_image / FRAMES_PER_IMAGE
    return tokens + sum(max(per_frame, len(uri) / DATA_BYTES_PER_TOKEN) for uri in frames)


def pair_tokens(document: Document, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens that one document adds."""
    own = content_tokens(document, per_image, text_max)
    return PAIR_TOKENS + own + _carried(document.metadata)


def _carried(metadata: Mapping[str, Any] | None) -> float:
    """Metadata is charged as if the model read it, which bounds the shard file."""
    return len(str(metadata)) / CHARACTERS_PER_TOKEN if metadata else 0.0


@dataclass(frozen=True, slots=True)
class ShardSize:
    """The limits of a shard, and the costs that count towards them."""

    tokens: float
    pairs: int
    per_image: float = 0.0
    """The cost of an image, in tokens."""
    per_query: float = 0.0
    """The cost of a query of a catalog, in tokens."""
    text_max: float = math.inf
    """The most tokens of a document's text."""


def slice_tokens(piece: Slice, per_image: float = 0.0, text_max: float = math.inf) -> float:
    """Estimated tokens of a slice."""
    base, pairs = costs(piece, ShardSize(0.0, 0, per_image, text_max=text_max))
    return base + sum(pairs)


def costs(piece: Piece, size: ShardSize) -> tuple[float, list[float]]:
    """Estimated tokens that the pairs of a piece share, and those of each pair to be scored.

    The queries of a catalog share their image's pass through the vision tower; the decoder reads
    it for each of them, since the query comes before it.
    """
    if isinstance(piece, ImageRun):
        once = content_tokens(piece.document, size.per_image)
        again = content_tokens(piece.document, size.per_image / VISION_FACTOR)
        return once - again, [PAIR_TOKENS + size.per_query + again] * piece.items
    query = content_tokens(piece.query, size.per_image)
    shared = REQUEST_TOKENS + query + _carried(piece.metadata)
    return shared, [pair_tokens(d, size.per_image, size.text_max) for d in piece.documents]


def shard_size(
    *,
    shard_s: float,
    tokens_per_s: float,
    pairs_max: int,
    input_tokens: float,
    workers: int,
    images: ImageSpec | None = None,
    per_query: float = 0.0,
    text_max: float | None = None,
) -> ShardSize:
    """The size of a job's shards: `shard_s` seconds of one worker's measured rate, but small
    enough that every worker of the fleet gets two of the whole input's `input_tokens`."""
    tokens = shard_s * (tokens_per_s or DEFAULT_TOKENS_PER_S)
    tokens = max(min(tokens, input_tokens / (2 * max(workers, 1))), 512.0)
    per_image = image_tokens(images or ImageSpec())
    return ShardSize(tokens, pairs_max, per_image, per_query, text_max or math.inf)
