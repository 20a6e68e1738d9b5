"""The options of images, as `rerank submit` and `rerank score` both take them."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.models import QualityAction
from shared.pictures import PRESETS, ResizeMode

ImagePresetOption = Annotated[
    str,
    typer.Option(metavar="NAME", help=f"target resolution of images: {', '.join(PRESETS)}"),
]
ResizeModeOption = Annotated[
    ResizeMode, typer.Option(help="crop to the nearest usual shape, or fit the whole picture")
]
MaxCropOption = Annotated[
    float, typer.Option(help="share of a picture that crop may lose; beyond it becomes fit")
]
QualityThresholdOption = Annotated[
    float, typer.Option(help="quality, 0 to 1, below which --quality-action acts")
]
QualityActionOption = Annotated[
    QualityAction,
    typer.Option(help="what happens to poor images: nothing, a rejection, or a lower margin"),
]
ExplainOption = Annotated[
    bool,
    typer.Option(
        "--explain", help="add visual match, text alignment and consistency; up to 5 × the work"
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace an output that exists")]
MaxErrorRateOption = Annotated[
    float, typer.Option(help="share of images that cannot be fetched at which the job is paused")
]
