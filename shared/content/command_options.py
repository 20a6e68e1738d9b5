"""The options that `rerank submit` and `rerank score` both take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rerankfleet.shared.content.images import (
    FRAMES_MAX,
    MAX_PIXELS,
    MIN_PIXELS,
    PRESETS,
    VIDEO_PIXELS,
    ResizeMode,
)
from rerankfleet.shared.content.options import QualityAction
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.profiles import PROFILES

ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"values for the options that are not given: {', '.join(PROFILES)}, or one of your "
        "own; `rerank profiles` shows them",
    ),
]
InstructionOption = Annotated[
    str | None, typer.Option(help="the task, for requests that bring none; English is best")
]
InstructionForOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LANG=TEXT", help="the task for queries in a language: de=…; may be repeated"
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        help="divides margins before the sigmoid, 0.1 to 2; an order never changes",
        show_default="1.0",
    ),
]
TopPOption = Annotated[
    float | None,
    typer.Option(
        help="scores whose likelier answer reaches it become 0 or 1; 1 is off", show_default="1.0"
    ),
]
AdaptiveTemperatureOption = Annotated[
    bool | None,
    typer.Option(
        "--adaptive-temperature/--fixed-temperature",
        help="whether these scores may change the temperature of the profile's later jobs",
        show_default="fixed",
    ),
]
MaxLengthOption = Annotated[
    int | None, typer.Option(help="tokens of a pair; its body is cut", show_default="8192")
]
MaxTokensPerDocOption = Annotated[
    int | None,
    typer.Option(
        help="tokens of a document's text; what is beyond is cut, images never are",
        show_default="no limit",
    ),
]
ImagePresetOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"target resolution of images: {', '.join(PRESETS)}",
        show_default="general",
    ),
]
ResizeModeOption = Annotated[
    ResizeMode, typer.Option(help="crop to the nearest usual shape, or fit the whole image")
]
MaxCropOption = Annotated[
    float, typer.Option(help="share of an image that crop may lose; beyond it becomes fit")
]
MinPixelsOption = Annotated[
    int | None,
    typer.Option(
        help="an image with fewer is enlarged to about so many", show_default=f"{MIN_PIXELS}"
    ),
]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        help=f"pixels of an image instead of its preset's, at most {MAX_PIXELS}",
        show_default="the preset's",
    ),
]
VideoFpsOption = Annotated[
    float | None,
    typer.Option(help="frames that stand for a second in videos that do not say", show_default="2"),
]
VideoMaxFramesOption = Annotated[
    int | None,
    typer.Option(help="frames read of a video, spread evenly", show_default=f"{FRAMES_MAX}"),
]
VideoTotalPixelsOption = Annotated[
    int | None,
    typer.Option(help="pixels of all frames of a video", show_default=f"{VIDEO_PIXELS}"),
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


def by_language(given: Sequence[str] | None) -> dict[str, str] | None:
    """What --instruction-for was given, as a mapping; None when it was not."""
    found = {}
    for one in given or ():
        code, equals, text = one.partition("=")
        if not equals:
            raise UsageError(
                f"--instruction-for {one!r} names no language",
                hint='write --instruction-for de="…"',
            )
        found[code.strip()] = text.strip()
    return found or None
