"""The multimodal reranker's template as token ids, patches, and three-axis positions.

A side of a pair is a list of texts and images; an image is represented by its size in patches.
A pair is encoded as a whole, as in the authors' processor; only the ids that all rows of a batch
begin with are split off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

DEFAULT_INSTRUCTION = "Given a search query, retrieve relevant candidates that answer the query."
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
PATCH_PX, TEMPORAL_PATCH, MERGE = 16, 2, 2
CELL_PX = PATCH_PX * MERGE


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image's place in its batch, and its patches down and across."""

    index: int
    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        """One for each square of merged patches."""
        return self.rows * self.columns // MERGE**2


Side = Sequence[str | PreparedImage]


class Prompt:
    """Encodes pairs; control tokens come from the template alone, never from a user's text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        twin = json.loads(tokenizer.to_str()) | {"added_tokens": []}
        self.plain = Tokenizer.from_str(json.dumps(twin))
        self.prefix = tokenizer.encode(PREFIX).ids
        self.suffix = tokenizer.encode(SUFFIX).ids
        self.yes, self.no = token_id(tokenizer, "yes"), token_id(tokenizer, "no")
        self.start, self.end = token_id(tokenizer, VISION_START), token_id(tokenizer, VISION_END)
        self.pad = token_id(tokenizer, IMAGE_PAD)

    def encode(
        self, query: Side, document: Side, instruction: str = DEFAULT_INSTRUCTION
    ) -> tuple[list[int], list[PreparedImage]]:
        """(ids, the images in their order) of one pair."""
        parts: list[str | PreparedImage] = [f"<Instruct>: {instruction}<Query>:"]
        for side, after in ((query, "\n<Document>:"), (document, "")):
            parts += [*_images_first(side), after]
        ids = list(self.prefix)
        for is_text, run in groupby(parts, key=lambda part: isinstance(part, str)):
            if is_text:
                ids += self.plain.encode("".join(str(text) for text in run)).ids
                continue
            for image in run:
                assert isinstance(image, PreparedImage)
                ids += [self.start, *[self.pad] * image.tokens, self.end]
        return ids + self.suffix, [part for part in parts if isinstance(part, PreparedImage)]


def token_id(tokenizer: Tokenizer, text: str) -> int:
    """The id of one token; raises ValueError if the vocabulary lacks it."""
    token_id = tokenizer.token_to_id(text)
    if token_id is None:
        raise ValueError(f"the vocabulary must hold {text!r} as one token")
    return token_id


def _images_first(side: Side) -> list[str | PreparedImage]:
    """Images, then texts; an empty side is NULL."""
    return sorted(side, key=lambda part: isinstance(part, str)) or ["NULL"]


def positions(ids: Sequence[int], pad: int, images: Sequence[PreparedImage]) -> NDArray[np.int64]:
    """(3, ids): text counts on all three axes alike; an image's tokens share their time and count
    down and across; what follows it goes on after its longer side."""
    waiting = iter(images)
    pieces: list[NDArray[np.int64]] = []
    place = 0
    for is_image, run in groupby(ids, key=lambda token: token == pad):
        size = len(list(run))
        if not is_image:
            pieces.append(np.tile(np.arange(size), (3, 1)) + place)
            place += size
            continue
        image = next(waiting)
        down, across = image.rows // MERGE, image.columns // MERGE
        y, x = np.divmod(np.arange(size), across)
        pieces.append(np.stack([np.zeros_like(y), y, x]) + place)
        place += max(down, across)
    return np.concatenate(pieces, axis=1)


def patches(image: Image.Image) -> NDArray[np.float32]:
    """(patches, 3·2·16·16) of an RGB image whose sides are multiples of 32 pixels.

    Values are (level / 255 - 0.5) / 0.5. The four patches of a merged square follow each other;
    within a patch: channel, time (the still image twice), row, column.
    """
    width, height = image.size
    if width % CELL_PX or height % CELL_PX:
        raise ValueError(f"{width}x{height} px: both sides must be multiples of {CELL_PX}")
    levels = np.asarray(image.convert("RGB"), dtype=np.float32)
    pixels = (levels / 255 - 0.5) / 0.5
    cut = pixels.reshape(
        height // CELL_PX, MERGE, PATCH_PX, width // CELL_PX, MERGE, PATCH_PX, 3
    ).transpose(0, 3, 1, 4, 6, 2, 5)
    flat = cut.reshape(-1, 3, 1, PATCH_PX * PATCH_PX)
    twice = np.repeat(flat, TEMPORAL_PATCH, axis=2).reshape(len(flat), -1)
    return twice.astype(np.float32, copy=False)
