"""The size and crop of an image, and the blur. Arithmetic only: knows nothing of file formats.

The image is never stretched beyond rounding to multiples of 32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from rerankfleet.shared.content.images import (
    MAX_ASPECT,
    MAX_PIXELS,
    MIN_PIXELS,
    RATIOS,
    SIDE_PX,
    ImageSpec,
    round_side,
)
from rerankfleet.shared.errors import ItemError
from rerankfleet.workers.images.prepared import Pixels

Size = tuple[int, int]

#: The cost of losing pixels relative to stretching, where rounding cannot avoid both.
LOSS_WEIGHT = 0.25
#: The blur's outer taps, .043, in 256ths; the middle one is the rest: .914.
OUTER_TAP = 11
#: Rows blurred at once: they stay in a core's cache.
BLUR_ROWS = 32


@dataclass(frozen=True, slots=True)
class SizePlan:
    """How to prepare an image: crop to `box`, resample to `inner`, pad to `size`."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the source."""
    inner: Size
    """Width and height after resampling; equals `size` unless it is padded."""
    size: Size
    """Width and height that the model sees: multiples of 32."""
    cropped_share: float
    mode: Literal["crop", "fit", "pad", "reference"]


def plan_size(source_w: int, source_h: int, options: ImageSpec) -> SizePlan:
    """The final size and the crop of a source with these dimensions.

    An image smaller than its target keeps its own size, rounded: enlarging would only add tokens.
    Only one below `min_pixels`, by default the authors' 4096, is enlarged to about that. Raises
    ItemError for an image more than 200 times as long as wide, which the authors refuse too.
    """
    check_shape(source_w, source_h)
    whole = (0, 0, source_w, source_h)
    if options.size is None:
        size = smart_resize(source_w, source_h, options.max_pixels, options.min_pixels)
        return SizePlan(whole, size, size, 0.0, "reference")
    if options.resize_mode == "crop":
        box, lost = crop_box(source_w, source_h)
        if lost <= options.max_crop:
            size = _size_within(box[2] - box[0], box[3] - box[1], options.size, options)
            return SizePlan(box, size, size, lost, "crop")
    if options.pad_color is not None:
        inner, size = _size_padded(source_w, source_h, options.size, options)
        return SizePlan(whole, inner, size, 0.0, "pad" if inner != size else "fit")
    size = _size_within(source_w, source_h, options.size, options)
    return SizePlan(whole, size, size, 0.0, "fit")


def check_shape(width: int, height: int) -> None:
    """Raise ItemError for an image more than 200 times as long as wide."""
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ItemError(
            "unsupported_image",
            f"the image has {width:,} × {height:,} pixels: one side is more than {MAX_ASPECT} times"
            " the other",
            hint="cut it into parts",
        )


def crop_box(width: int, height: int) -> tuple[tuple[int, int, int, int], float]:
    """The centred box with the nearest of the ratios 4:3, 16:9 and 1:1 (rotated for a portrait),
    and the share of the area that it crops away."""
    box_w, box_h = max(
        (_inside(width, height, ratio) for ratio in RATIOS), key=lambda box: box[0] * box[1]
    )
    left, top = (width - box_w) // 2, (height - box_h) // 2
    lost = 1 - box_w * box_h / (width * height)
    return (left, top, left + box_w, top + box_h), lost


def _inside(width: int, height: int, ratio: tuple[int, int]) -> Size:
    """The largest box of a ratio inside the image, in the image's orientation."""
    across, down = ratio if width >= height else ratio[::-1]
    if width * down > height * across:
        return max(1, round(height * across / down)), height
    return width, max(1, round(width * down / across))


def _size_within(width: int, height: int, target: Size, options: ImageSpec) -> Size:
    """Multiples of 32 within the target's pixel count, close to the shape of width × height."""
    budget = math.prod(round_side(side) for side in target)
    if options.max_pixels is not None:
        budget = min(budget, options.max_pixels)
    area = min(math.prod(target), budget, max(width * height, options.min_pixels))
    scale = math.sqrt(area / (width * height))
    ideal_w, ideal_h = width * scale, height * scale

    def cost(size: Size) -> float:
        wider, higher = math.log(size[0] / ideal_w), math.log(size[1] / ideal_h)
        return abs(wider - higher) + LOSS_WEIGHT * abs(wider + higher)

    return min(_rounded(ideal_w, ideal_h, budget), key=cost)


def _rounded(width: float, height: float, budget: int) -> list[Size]:
    """Each side rounded down and up; where both exceed the budget, the longer one is shortened."""
    sizes = []
    for size in product(_neighbours(width), _neighbours(height)):
        short = min(size)
        long = min(max(size), budget // short // SIDE_PX * SIDE_PX)
        if long >= SIDE_PX:
            sizes.append((long, short) if size[0] >= size[1] else (short, long))
    return sizes


def _neighbours(side: float) -> Size:
    below = max(SIDE_PX, math.floor(side / SIDE_PX) * SIDE_PX)
    return below, max(SIDE_PX, math.ceil(side / SIDE_PX) * SIDE_PX)


def _size_padded(width: int, height: int, target: Size, options: ImageSpec) -> tuple[Size, Size]:
    """The image's size inside the padded frame, and the frame in the target's shape."""
    turned = target if (width >= height) == (target[0] >= target[1]) else target[::-1]
    scale = min(turned[0] / width, turned[1] / height, 1.0)
    grow = max(width * scale / turned[0], height * scale / turned[1])
    frame = _size_within(round(turned[0] * grow), round(turned[1] * grow), turned, options)
    scale = min(frame[0] / width, frame[1] / height)
    return (max(1, int(width * scale + 1e-9)), max(1, int(height * scale + 1e-9))), frame


def smart_resize(
    width: int, height: int, max_pixels: int | None = MAX_PIXELS, min_pixels: int = MIN_PIXELS
) -> Size:
    """The authors' rule: each side to a multiple of 32, by default 4096 to 1,843,200 pixels in all.

    Source: `smart_resize` of qwen-vl-utils with factor 32 and the reranker's pixel limits.
    """
    wide, high = round_side(width), round_side(height)
    if max_pixels is not None and wide * high > max_pixels:
        shrink = math.sqrt(width * height / max_pixels)
        wide, high = (
            max(SIDE_PX, math.floor(side / shrink / SIDE_PX) * SIDE_PX) for side in (width, height)
        )
    elif wide * high < min_pixels:
        grow = math.sqrt(min_pixels / (width * height))
        wide, high = (math.ceil(side * grow / SIDE_PX) * SIDE_PX for side in (width, height))
    return wide, high


def blur(pixels: Pixels) -> Pixels:
    """A Gaussian blur of σ 0.3: taps .043, .914, .043 along both axes, edges repeated.

    Integer arithmetic: within 1 level of the exact result.
    """
    height, width, channels = pixels.shape
    rows = np.empty((height, width * channels), np.uint8)
    flat = pixels.reshape(height, width * channels)
    padded = np.empty((BLUR_ROWS, (width + 2) * channels), np.uint8)
    for top in range(0, height, BLUR_ROWS):
        block = flat[top : top + BLUR_ROWS]
        line = padded[: len(block)]
        line[:, channels:-channels] = block
        line[:, :channels] = block[:, :channels]
        line[:, -channels:] = block[:, -channels:]
        _three_taps(
            line[:, : -2 * channels], block, line[:, 2 * channels :], rows[top : top + BLUR_ROWS]
        )
    above = np.concatenate((rows[:1], rows[:-1]))
    below = np.concatenate((rows[1:], rows[-1:]))
    out = np.empty_like(rows)
    for top in range(0, height, BLUR_ROWS):
        part = slice(top, top + BLUR_ROWS)
        _three_taps(above[part], rows[part], below[part], out[part])
    return out.reshape(height, width, channels)


def _three_taps(before: Pixels, middle: Pixels, after: Pixels, out: Pixels) -> None:
    """outer · before + (1 − 2 · outer) · middle + outer · after, rounded, into `out`."""
    total = np.add(before, after, dtype=np.uint16)
    total *= OUTER_TAP
    total += np.multiply(middle, 256 - 2 * OUTER_TAP, dtype=np.uint16)
    total += 128
    total >>= 8
    out[...] = total
