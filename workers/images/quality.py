"""The quality of an image, 0 to 1, by its sharpness and exposure. numpy only.

Measured at the prepared size, which is what the model sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rerankfleet.workers.images.prepared import Pixels

Grey = npt.NDArray[np.uint8]
Cells = npt.NDArray[np.bool_]

WINDOW_PX = 13
"""The window in which an edge is judged: one blurred by σ 3 just fits."""
CONTRAST_MIN = 14
"""Levels within a window; less is noise or the shading of surfaces."""
EVIDENCE_MIN = 0.002
"""Share of windows that must contain an edge for a direction to be judged."""
STEEPEST_SHARE = 0.3
"""Only the steepest edges count: a sharp object before a soft background is sharp."""

#: Steepest step over two pixels as a share of an edge's height -> sharpness. A step blurred by
#: σ has erf(1 / (σ √2)): σ 1 .68, σ 1.5 .50, σ 2 .38, σ 3 .26.
STEEPNESS, SHARPNESS = (0.15, 0.26, 0.36, 0.42, 0.56, 0.75), (0.0, 0.35, 0.58, 0.68, 0.85, 1.0)

WHITE, FULL = 250, 254
"""Level from which a pixel is white, and from which a channel is full."""
CLIPPED, EXPOSURE = (0.02, 0.1, 0.2, 0.4, 0.8), (1.0, 0.85, 0.68, 0.4, 0.0)
"""Share of clipped pixels -> exposure."""
BRIGHTEST = (15, 40, 70, 120)
"""Level that only 1 % of the pixels exceed, below which an image is under-exposed."""
INK = 128
"""A white cell with a pixel as dark as this is paper."""
PAPER_SHARE = 0.6
"""Share of the cells at the edges of white that must contain ink, for white to be paper."""
FLAT = 2
"""Levels by which a flat cell varies at most."""
CELL_PX = 8
BACKDROP_SHARE = 0.5
"""Share of the border that must be blank white, for the background to be white."""
JUDGED_MIN = 0.02
"""Share of cells that must remain for a judgement, once white and flat ones are excluded."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The two components, each 0 to 1."""

    sharpness: float
    exposure: float


def measure_quality(pixels: Pixels) -> Quality:
    """Sharpness and exposure of prepared pixels."""
    # an image to be padded has any size; repeating its last rows and columns adds no edges
    grow = [(0, max(32, -(-side // 8) * 8) - side) for side in pixels.shape[:2]]
    if any(more for _, more in grow):
        pixels = np.pad(pixels, (*grow, (0, 0)), mode="edge")
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    grey = _grey(planes)
    return Quality(sharpness(grey), exposure(planes, grey))


def _grey(planes: Pixels) -> Grey:
    """Luma of the planes red, green and blue, with weights in 256ths."""
    total = planes[0] * np.uint16(77)
    total += planes[1] * np.uint16(150)
    total += planes[2] * np.uint16(29)
    grey: Grey = (total >> 8).astype(np.uint8)
    return grey


# ---- sharpness ----------------------------------------------------------------------------------


def sharpness(grey: Grey) -> float:
    """0 to 1 by the width of edges; the lower of both directions, so that motion blur counts.

    An image without any edge has nothing that could be sharp: 0.
    """
    directions = [_edges(np.ascontiguousarray(turned)) for turned in (grey, grey.T)]
    strongest = np.concatenate([contrast for contrast, _ in directions])
    least = max(CONTRAST_MIN, 0.5 * float(np.percentile(strongest, 99)))
    steepness = []
    for contrast, steepest in directions:
        edges = contrast >= least
        if np.count_nonzero(edges) > EVIDENCE_MIN * edges.size:
            ratios = steepest[edges] / contrast[edges]
            steepness.append(float(np.quantile(ratios, 1 - STEEPEST_SHARE)))
    return float(np.interp(min(steepness), STEEPNESS, SHARPNESS)) if steepness else 0.0


def _edges(grey: Grey) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For windows along every fourth row: the contrast in it, and its steepest step over two
    pixels."""
    rows = grey[::4]
    before, after = rows[:, :-2], rows[:, 2:]
    step = np.maximum(before, after) - np.minimum(before, after)
    highest, lowest = _over_windows(rows, np.maximum), _over_windows(rows, np.minimum)
    contrast = (highest - lowest)[:, ::3]
    # a window of 13 pixels holds 11 steps
    steepest = _over_windows(step, np.maximum, WINDOW_PX - 2)[:, ::3]
    return contrast.ravel().astype(np.float32), steepest.ravel().astype(np.float32)


def _over_windows(
    rows: Grey, extreme: Callable[[Grey, Grey], Grey], length: int = WINDOW_PX
) -> Grey:
    """The extreme of each window of `length` pixels (8 to 16) along the rows, by doubling."""
    for reach in (1, 2, 4):
        rows = extreme(rows[:, :-reach], rows[:, reach:])
    rest = length - 8
    return extreme(rows[:, :-rest], rows[:, rest:])


# ---- exposure -----------------------------------------------------------------------------------


def exposure(planes: Pixels, grey: Grey) -> float:
    """0 to 1: falls with the share of clipped pixels, and when no tone is bright.

    White is not over-exposed where it is a background (products, drawings) or paper (with ink on
    it). A blank sheet has no tones at all: 0.
    """
    lowest, highest = _per_cell(grey, np.minimum), _per_cell(grey, np.maximum)
    if (lowest >= WHITE).all():
        return 0.0
    white = _backdrop(lowest >= WHITE) | _paper(lowest, highest)
    excused = _grown(_grown(white)) | _coloured(planes)
    return min(_over(planes, excused), _under(grey))


def _per_cell(levels: Grey, extreme: np.ufunc) -> Grey:
    """The extreme of each cell of 8 × 8 pixels."""
    height, width = levels.shape
    rows = extreme.reduce(levels.reshape(height // CELL_PX, CELL_PX, width), 1)
    cells: Grey = extreme.reduce(rows.reshape(height // CELL_PX, width // CELL_PX, CELL_PX), 2)
    return cells


def _backdrop(blank: Cells) -> Cells:
    """The blank white cells, if the background is white; otherwise none."""
    border = np.concatenate((blank[0], blank[-1], blank[1:-1, 0], blank[1:-1, -1]))
    return blank if border.mean() >= BACKDROP_SHARE else np.zeros_like(blank)


def _coloured(planes: Pixels) -> Cells:
    """The flat cells of any colour but white, with their neighbours: drawn, not over-exposed."""
    lows, highs = (np.stack([_per_cell(p, e) for p in planes]) for e in (np.minimum, np.maximum))
    return _grown(((highs - lows).max(0) <= FLAT) & (lows.min(0) < WHITE))


def _paper(lowest: Grey, highest: Grey) -> Cells:
    """The cells with ink on white, if most of the white is bordered by ink; otherwise none."""
    ends = (highest >= WHITE) & (lowest < WHITE)
    inked: Cells = ends & (lowest <= INK)
    most = np.count_nonzero(inked) >= PAPER_SHARE * np.count_nonzero(ends)
    return inked if most else np.zeros_like(inked)


def _grown(cells: Cells) -> Cells:
    """The cells and all their neighbours."""
    padded = np.pad(cells, 1)
    across = padded[:, :-2] | padded[:, 1:-1] | padded[:, 2:]
    grown: Cells = across[:-2] | across[1:-1] | across[2:]
    return grown


def _over(planes: Pixels, excused: Cells) -> float:
    """Falls with the share of pixels with a full channel, in the cells that are not excused."""
    judged = ~excused
    if judged.mean() < JUDGED_MIN:
        return 1.0
    full = np.maximum(np.maximum(planes[0], planes[1]), planes[2]) >= FULL
    rows = np.add.reduceat(full, np.arange(0, full.shape[0], CELL_PX), 0, dtype=np.uint8)
    clipped = np.add.reduceat(rows, np.arange(0, full.shape[1], CELL_PX), 1, dtype=np.uint8)
    share = float(clipped[judged].mean()) / CELL_PX**2
    return float(np.interp(share, CLIPPED, EXPOSURE))


def _under(grey: Grey) -> float:
    """Falls when even the brightest tones are dark."""
    brightest = float(np.percentile(grey[::4, ::4], 99))
    return float(np.interp(brightest, BRIGHTEST, (0.0, 0.4, 0.68, 1.0)))
