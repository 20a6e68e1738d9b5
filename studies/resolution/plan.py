"""What the study varies, and the reference it compares with. Arithmetic and checks only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from rerankfleet.shared.content.images import ImageSpec, Interpolation
from rerankfleet.shared.errors import UsageError

Size = tuple[int, int]
"""Width and height in pixels of a landscape image; a portrait swaps them."""

SIZES: tuple[Size, ...] = (
    (320, 240),
    (640, 480),
    (800, 600),
    (1024, 768),
    (1280, 960),
    (1600, 1200),
    (2048, 1536),
)
REFERENCE: Size = (1024, 768)
REPEATS_MAX = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to prepare all images."""

    size: Size
    interpolation: Interpolation

    @property
    def options(self) -> ImageSpec:
        """As in the preset `general`, to this size and without the model's pixel cap."""
        return ImageSpec(target=self.size, interpolation=self.interpolation, max_pixels=None)


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes × interpolations × repeats. Raises UsageError for one that cannot be run."""

    sizes: tuple[Size, ...] = SIZES
    interpolations: tuple[Interpolation, ...] = ("bicubic",)
    repeats: int = 3
    reference_size: Size = REFERENCE
    seed: int = 0
    """Seed of the order in which pairs are packed."""

    def __post_init__(self) -> None:
        _refuse_twice("size", [size_name(size) for size in self.sizes])
        _refuse_twice("interpolation", list(self.interpolations))
        if not 1 <= self.repeats <= REPEATS_MAX:
            raise UsageError(
                f"{self.repeats} repeats are out of range", hint=f"use 1 to {REPEATS_MAX}"
            )
        if self.reference_size not in self.sizes:
            raise UsageError(
                f"the reference {size_name(self.reference_size)} is not among the sizes",
                hint="add it to --sizes, or name one of them with --reference",
            )
        if self.seed < 0:
            raise UsageError(f"the seed {self.seed} is negative", hint="use 0 or more")
        for cell in self.cells():
            _ = cell.options  # raises for a wrong size or interpolation

    def cells(self) -> Iterator[Cell]:
        """All of them, sizes from small to large."""
        for interpolation in self.interpolations:
            for size in sorted(self.sizes, key=pixels):
                yield Cell(size, interpolation)

    @property
    def reference(self) -> Cell:
        """The cell that all are compared with: the reference size in the first interpolation."""
        return Cell(self.reference_size, self.interpolations[0])


def pixels(size: Size) -> int:
    """Width × height."""
    return size[0] * size[1]


def size_name(size: Size) -> str:
    """As written in files: 1024x768."""
    return f"{size[0]}x{size[1]}"


def parse_size(text: str) -> Size:
    """Parse 1024x768 or 1024×768. Raises UsageError."""
    wide, _, high = text.strip().lower().replace("×", "x").partition("x")
    if not (wide.isdecimal() and high.isdecimal()):
        raise UsageError(f"{text!r} is not a size", hint="write width x height, such as 1024x768")
    return int(wide), int(high)


def parse_interpolations(text: str) -> tuple[Interpolation, ...]:
    """Comma-separated names, which the plan checks."""
    return tuple(cast(Interpolation, name.strip()) for name in text.split(","))


def _refuse_twice(what: str, names: list[str]) -> None:
    if not names:
        raise UsageError(f"there is no {what}", hint="name at least one")
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the {what} {name} stands twice", hint="name it once")
