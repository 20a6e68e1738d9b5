"""What an image is brought to before a model sees it: presets and options, as data.

A token of Qwen3-VL is 32 × 32 pixels, so every side ends as a multiple of 32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Literal, get_args

from rerankfleet.shared.errors import InvalidOption

SIDE_PX = 32
"""Side of the square of pixels that becomes one token."""
MIN_PIXELS = 4_096
"""The authors' least size of an image: 4 tokens. A smaller one is enlarged to it."""
MAX_PIXELS = 1_843_200
"""The authors' largest: 1800 tokens."""
FRAMES_MAX = 64
"""The authors' most frames of a video."""
FRAME_PIXELS_MAX = 768 * SIDE_PX**2
"""The authors' largest frame."""
VIDEO_PIXELS = 7_680 * SIDE_PX**2
"""The authors' most pixels of all frames together."""
FRAMES_PER_S = 2.0
"""How many frames stand for a second when nobody says."""
MAX_ASPECT = 200
"""Longer side over shorter side; the authors refuse more."""

ResizeMode = Literal["crop", "fit"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

PRESET = "general"
RESIZE_MODE: ResizeMode = "crop"
MAX_CROP = 0.15
"""What is done to images unless something else is asked for."""

RATIOS = ((4, 3), (16, 9), (1, 1))
"""What `crop` cuts to, as width : height of a landscape; a portrait uses them turned."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named target. None: the authors' own pixel budget."""

    target: tuple[int, int] | None
    """Width and height in pixels, for a landscape; a portrait uses it turned."""
    about: str


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "general": Preset((1024, 768), "most images"),
        "product": Preset((1280, 960), "products and identity papers"),
        "art": Preset((800, 600), "paintings and drawings"),
        "art-detail": Preset((1600, 1200), "paintings and drawings whose detail counts"),
        "document": Preset((1280, 960), "pages with text; keep text areas at 64 × 64 pixels"),
        "reference": Preset(None, "the model authors' own sizes, without crop and blur"),
    }
)


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """How images are prepared. Raises UsageError naming the option that is wrong.

    `reference` is the authors' procedure as a whole: it ignores `blur` and takes no other option
    but `min_pixels` and `max_pixels`, which is less for a frame of a video.
    """

    preset: str = PRESET
    resize_mode: ResizeMode = RESIZE_MODE
    max_crop: float = MAX_CROP
    """A crop that would lose a larger share of the image becomes `fit`."""
    pad_color: tuple[int, int, int] | None = None
    """`fit` pads to the target's shape with this colour; None: no padding."""
    interpolation: Interpolation = "bicubic"
    blur: bool = True
    """A Gaussian blur of σ 0.3 after resizing."""
    min_pixels: int = MIN_PIXELS
    """An image with fewer is enlarged to about so many."""
    max_pixels: int | None = MAX_PIXELS
    """The model's pixel budget; None lifts it, which only a study should do."""
    target: tuple[int, int] | None = None
    """Width and height in pixels instead of the preset's."""

    def __post_init__(self) -> None:
        _one_of("preset", self.preset, tuple(PRESETS))
        _one_of("resize_mode", self.resize_mode, get_args(ResizeMode))
        _one_of("interpolation", self.interpolation, get_args(Interpolation))
        _within("max_crop", self.max_crop, 0, 1)
        if self.max_pixels is not None:
            _within("max_pixels", self.max_pixels, MIN_PIXELS, 1 << 30)
        for side in self.target or ():
            _within("target", side, SIDE_PX, 1 << 15)
        _within("min_pixels", self.min_pixels, MIN_PIXELS, max(MIN_PIXELS, self._pixels))
        for level in self.pad_color or ():
            _within("pad_color", level, 0, 255)
        if self.is_reference:
            self._refuse_changes()

    def _refuse_changes(self) -> None:
        for option in fields(self):
            changed = getattr(self, option.name) != option.default
            if changed and option.name not in ("preset", "blur", "min_pixels", "max_pixels"):
                raise InvalidOption(
                    option.name,
                    f"{option.name} cannot be changed with the preset 'reference'",
                    hint="leave it out, or choose another preset",
                )

    @property
    def is_reference(self) -> bool:
        """Whether the authors' procedure is asked for."""
        return self.preset == "reference"

    @property
    def blurs(self) -> bool:
        """Whether the image is blurred in the end."""
        return self.blur and not self.is_reference

    @property
    def size(self) -> tuple[int, int] | None:
        """The target, width and height in pixels; None in the `reference` preset."""
        return self.target or PRESETS[self.preset].target

    @property
    def tokens_max(self) -> int:
        """Tokens of the largest image that these options give: what a shard is cut by."""
        return self._pixels // SIDE_PX**2

    @property
    def _pixels(self) -> int:
        """Pixels of the largest image that these options give."""
        if self.size is None:
            return self.max_pixels or MAX_PIXELS
        width, height = (round_side(side) for side in self.size)
        return min(width * height, self.max_pixels or width * height)

    def key(self) -> str:
        """The options as a short stable word, for cache keys and provenance."""
        if self.size is None:
            budget = "" if self.max_pixels == MAX_PIXELS else f":{self.max_pixels or 0}"
            return self.preset + budget + self._least
        width, height = self.size
        parts = [self.preset, f"{width}x{height}", self.resize_mode]
        if self.resize_mode == "crop":
            parts.append(short_number(self.max_crop))
        if self.pad_color is not None:
            parts.append("pad" + "".join(f"{level:02x}" for level in self.pad_color))
        parts += [self.interpolation, "blur" if self.blur else "sharp", f"{self.max_pixels or 0}"]
        return ":".join(parts) + self._least

    @property
    def _least(self) -> str:
        return "" if self.min_pixels == MIN_PIXELS else f":from{self.min_pixels}"


def short_number(value: float) -> str:
    """A number without needless digits, but with every one that counts."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def target_within(preset: str, pixels: int) -> tuple[int, int] | None:
    """A preset's target in its own shape, with so many pixels; None for the authors' procedure,
    which has no target. Raises InvalidOption for a preset that is not known."""
    _one_of("preset", preset, tuple(PRESETS))
    target = PRESETS[preset].target
    if target is None:
        return None
    scale = math.sqrt(pixels / math.prod(target))
    width, height = (max(SIDE_PX, int(side * scale)) for side in target)
    return width, height


def round_side(side_px: float) -> int:
    """The nearest multiple of 32, at least 32."""
    return max(SIDE_PX, round(side_px / SIDE_PX) * SIDE_PX)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        known = f"use one of {', '.join(allowed)}"
        raise InvalidOption(name, f"{name} {value!r} is not known", hint=known)


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        allowed = f"use {low:.10g} to {high:.10g}"
        raise InvalidOption(name, f"{name} {value:.10g} is out of range", hint=allowed)
