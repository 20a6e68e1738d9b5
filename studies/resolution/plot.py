"""The table's curves: margin with its interval, rank stability and speed over the size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rerankfleet.studies.resolution.table import ALL, LEVEL, Line

PANEL_INCHES = 4.6, 3.8
#: Offset of the categories, whose intervals would overlap otherwise.
ASIDE = 0.06
TITLES = (f"mean margin, {LEVEL:.0%} interval", "rank stability: Kendall's τ-b", "images/s")


def draw_plot(lines: Sequence[Line], path: Path) -> None:
    """A PNG: a row per interpolation, a curve per category. Needs no display."""
    interpolations = list(dict.fromkeys(line.interpolation for line in lines))
    width, height = PANEL_INCHES
    figure = Figure((width * len(TITLES), height * len(interpolations)), layout="constrained")
    panels = figure.subplots(len(interpolations), len(TITLES), squeeze=False, sharey="col")
    for row, interpolation in zip(panels, interpolations, strict=True):
        _draw_row(row, [line for line in lines if line.interpolation == interpolation])
    panels[0][0].legend(fontsize="small")
    figure.savefig(path, format="png", dpi=110)


def _draw_row(panels: Sequence[Axes], lines: Sequence[Line]) -> None:
    sizes = list(dict.fromkeys(line.size for line in lines))
    categories = list(dict.fromkeys(line.category for line in lines))
    for number, category in enumerate(categories):
        curve = [line for line in lines if line.category == category]
        x = np.arange(len(sizes)) + ASIDE * (number - (len(categories) - 1) / 2)
        style: dict[str, Any] = {
            "label": category,
            "marker": "o",
            "markersize": 3,
            "linewidth": 1.2,
        }
        if category == ALL:
            style |= {"color": "black", "linewidth": 2.2}
        panels[0].errorbar(x, [line.margin for line in curve], _arms(curve), capsize=2, **style)
        panels[1].plot(x, [_or_nan(line.tau_b) for line in curve], **style)
        panels[2].plot(x, [line.images_per_s for line in curve], **style)
    panels[1].set_ylim(top=1.03)
    panels[2].set_ylim(bottom=0)
    for panel, title in zip(panels, TITLES, strict=True):
        panel.set_title(f"{title} · {lines[0].interpolation}", fontsize="medium")
        panel.set_xticks(range(len(sizes)), [size.replace("x", "×") for size in sizes], rotation=30)
        panel.grid(alpha=0.3)


def _arms(curve: Sequence[Line]) -> list[list[float]]:
    """Lengths of the intervals below and above."""
    return [
        [line.margin - _or_nan(line.margin_low) for line in curve],
        [_or_nan(line.margin_high) - line.margin for line in curve],
    ]


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value
