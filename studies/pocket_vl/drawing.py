"""Drawn scenes: coloured shapes and a printed word on a plain background.

A `Plan` says what a scene shows, a `Scene` also where, and `draw` makes the image at any size.
Lengths are in units of the image's short side, so that a scene is the same at every resolution.
Independent of captions, tokens and models.
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Rgb = tuple[int, int, int]
Box = tuple[float, float, float, float]
Place = Literal["left", "right", "top", "bottom"]

COLOURS: dict[str, Rgb] = {
    "red": (214, 32, 34),
    "orange": (250, 138, 20),
    "yellow": (246, 220, 32),
    "green": (36, 150, 60),
    "blue": (30, 80, 214),
    "purple": (126, 44, 168),
    "pink": (250, 142, 190),
    "brown": (120, 72, 34),
    "black": (22, 22, 22),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
WORDS = (
    *("SALE", "OPEN", "STOP", "TAXI", "HOTEL", "CAFE", "EXIT", "MILK", "BREAD", "FISH"),
    *("BOOK", "MUSIC", "PARK", "BANK", "SHOP", "NEWS", "ZOO", "BUS", "TEA", "ICE"),
)
LETTERS = "".join(sorted(set("".join(WORDS))))
PLACES: tuple[Place, ...] = ("left", "right", "top", "bottom")
MAX_COUNT = 4
# A thing is on the left if its centre lies within this share of the width, and so on.
PLACE_SHARE = 0.4
MIN_CONTRAST = 95
# Images are drawn larger and scaled down for smooth edges.
OVERSAMPLED_SIDE_PX, OVERSAMPLING = 1600, 3


@dataclass(frozen=True, slots=True)
class Kind:
    """Things that look alike: how many of them, and where if that matters."""

    shape: str
    colour: str
    count: int = 1
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a scene shows."""

    kinds: tuple[Kind, ...]
    word: str | None = None


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: centre, radius, and turn in degrees."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    turn: float
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class Sign:
    """A printed word: centre, height of its letters, and ink."""

    word: str
    x: float
    y: float
    height: float
    rgb: Rgb


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that `draw` needs except the size; `aspect` is width over height."""

    aspect: float
    background: tuple[Rgb, Rgb]
    things: tuple[Thing, ...]
    signs: tuple[Sign, ...] = ()

    @property
    def width(self) -> float:
        """In short sides."""
        return max(1.0, self.aspect)

    @property
    def height(self) -> float:
        """In short sides."""
        return max(1.0, 1 / self.aspect)

    def is_at(self, thing: Thing, place: Place) -> bool:
        """Whether the thing's centre lies clearly on that side."""
        share = thing.x / self.width if place in ("left", "right") else thing.y / self.height
        return share <= PLACE_SHARE if place in ("left", "top") else share >= 1 - PLACE_SHARE


def lay_out(
    plan: Plan, generator: random.Random, aspect: float, background: Rgb | None = None
) -> Scene:
    """Place everything without overlaps, in colours that contrast with the background."""
    back = background or random_background(generator, plan)
    shade = generator.uniform(0.93, 1.07)
    other = _clipped(tuple(round(c * shade) for c in back))
    empty = Scene(aspect, (back, other), ())
    total = sum(kind.count for kind in plan.kinds)
    largest = {0: 0.3, 1: 0.32, 2: 0.26, 3: 0.21, 4: 0.19}.get(total, 0.17)
    while True:
        scene = _try_layout(plan, generator, empty, largest)
        if scene is not None:
            return scene
        largest = max(0.08, largest * 0.93)


def _try_layout(plan: Plan, generator: random.Random, empty: Scene, largest: float) -> Scene | None:
    taken: list[Box] = []
    signs: tuple[Sign, ...] = ()
    if plan.word is not None:
        signs = (_random_sign(plan.word, generator, empty, larger=not plan.kinds),)
        taken.append(sign_box(signs[0]))
    things: list[Thing] = []
    for kind in plan.kinds:
        for _ in range(kind.count):
            thing = _random_thing(kind, generator, empty, largest, taken)
            if thing is None:
                return None
            things.append(thing)
            taken.append(thing_box(thing))
    generator.shuffle(things)
    return replace(empty, things=tuple(things), signs=signs)


def lay_out_page(generator: random.Random, aspect: float) -> Scene:
    """A page of words to learn reading from: those placed in a dozen attempts."""
    page = lay_out(Plan(()), generator, aspect)
    signs: list[Sign] = []
    for _ in range(12):
        sign = _random_sign(generator.choice(WORDS), generator, page, larger=False)
        if not any(_overlap(sign_box(sign), sign_box(other)) for other in signs):
            signs.append(sign)
    return replace(page, signs=tuple(signs))


def _random_thing(
    kind: Kind, generator: random.Random, scene: Scene, largest: float, taken: list[Box]
) -> Thing | None:
    """A thing in a free spot, or None after a few dozen attempts."""
    for _ in range(40):
        radius = generator.uniform(max(0.09, 0.55 * largest), max(0.1, largest))
        edge = radius + 0.02
        thing = Thing(
            kind.shape,
            kind.colour,
            generator.uniform(edge, scene.width - edge),
            generator.uniform(edge, scene.height - edge),
            radius,
            generator.uniform(-12, 12),
            _jittered(COLOURS[kind.colour], generator),
        )
        fits = kind.place is None or scene.is_at(thing, kind.place)
        if fits and not any(_overlap(thing_box(thing), box) for box in taken):
            return thing
    return None


def _random_sign(word: str, generator: random.Random, scene: Scene, larger: bool) -> Sign:
    height = generator.uniform(0.14, 0.3 if larger else 0.22)
    half_height, half_width = 0.6 * height, 0.5 * _text_width(word) * height
    limit = scene.width / 2 - 0.03
    if half_width > limit:
        height, half_height, half_width = (
            value * limit / half_width for value in (height, half_height, half_width)
        )
    inks = [rgb for rgb in COLOURS.values() if _contrast(rgb, scene.background[0]) > 170]
    return Sign(
        word,
        generator.uniform(half_width + 0.02, scene.width - half_width - 0.02),
        generator.uniform(half_height + 0.02, scene.height - half_height - 0.02),
        height,
        _jittered(generator.choice(inks), generator),
    )


def random_background(generator: random.Random, plan: Plan) -> Rgb:
    """A pale, middle or dark colour that contrasts with every thing of the plan."""
    while True:
        light = generator.choice((generator.uniform(0.86, 1.0), generator.uniform(0.1, 0.8)))
        channels = colorsys.hsv_to_rgb(generator.random(), generator.uniform(0, 0.22), light)
        rgb = _clipped(tuple(round(255 * c) for c in channels))
        if all(_contrast(COLOURS[kind.colour], rgb) > MIN_CONTRAST for kind in plan.kinds):
            return rgb


def _contrast(one: Rgb, other: Rgb) -> float:
    return math.dist(one, other)


def _jittered(rgb: Rgb, generator: random.Random) -> Rgb:
    return _clipped(tuple(c + generator.randint(-10, 10) for c in rgb))


def _clipped(rgb: tuple[int, ...]) -> Rgb:
    red, green, blue = (min(255, max(0, c)) for c in rgb)
    return red, green, blue


def thing_box(thing: Thing) -> Box:
    """Left, top, right, bottom."""
    r = thing.radius
    return thing.x - r, thing.y - r, thing.x + r, thing.y + r


def sign_box(sign: Sign) -> Box:
    """Left, top, right, bottom."""
    half = 0.5 * _text_width(sign.word) * sign.height
    tall = 0.5 * sign.height
    return sign.x - half, sign.y - tall, sign.x + half, sign.y + tall


def letter_boxes(sign: Sign) -> list[tuple[str, Box]]:
    """Each letter of the word with its left, top, right, bottom."""
    left, top, _, bottom = sign_box(sign)
    ends = [left + sign.height * _text_width(sign.word[:n]) for n in range(len(sign.word) + 1)]
    return [(letter, (ends[i], top, ends[i + 1], bottom)) for i, letter in enumerate(sign.word)]


def _overlap(one: Box, other: Box, gap: float = 0.015) -> bool:
    return (
        one[0] < other[2] + gap
        and other[0] < one[2] + gap
        and one[1] < other[3] + gap
        and other[1] < one[3] + gap
    )


def draw(scene: Scene, width_px: int, height_px: int) -> Image.Image:
    """The image as RGB. A size of another aspect stretches distances but not the things."""
    by = max(1, min(OVERSAMPLING, OVERSAMPLED_SIDE_PX // max(width_px, height_px)))
    size = (width_px * by, height_px * by)
    unit = min(size)
    across, down = size[0] / scene.width, size[1] / scene.height
    image = _background(scene.background, size)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        centre = thing.x * across, thing.y * down
        _OUTLINES[thing.shape](pen, centre, thing.radius * unit, thing.turn, thing.rgb)
    for sign in scene.signs:
        _print(pen, sign, across, down, unit)
    return image.reduce(by) if by > 1 else image


def _background(ends: tuple[Rgb, Rgb], size: tuple[int, int]) -> Image.Image:
    """One colour fading into the other from top to bottom."""
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), ends[0])
    strip.putpixel((0, 1), ends[1])
    return strip.resize(size, Image.Resampling.BILINEAR)


def _print(pen: ImageDraw.ImageDraw, sign: Sign, across: float, down: float, unit: float) -> None:
    """Capitals are about 0.73 of a font's size high."""
    font = _font(max(4, round(sign.height * unit / 0.73)))
    pen.text((sign.x * across, sign.y * down), sign.word, fill=sign.rgb, font=font, anchor="mm")


@lru_cache(maxsize=64)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@lru_cache(maxsize=256)
def _text_width(word: str) -> float:
    """In heights of its capitals."""
    return _font(100).getlength(word) / 73


Pen = ImageDraw.ImageDraw
Point = tuple[float, float]


def _circle(pen: Pen, centre: Point, radius: float, turn: float, rgb: Rgb) -> None:
    pen.circle(centre, radius, fill=rgb)


def _ring(pen: Pen, centre: Point, radius: float, turn: float, rgb: Rgb) -> None:
    pen.circle(centre, radius, outline=rgb, width=max(1, round(0.36 * radius)))


def _polygon(corners: list[Point]) -> Callable[[Pen, Point, float, float, Rgb], None]:
    """A shape from its corners in radii, x to the right and y down."""

    def fill(pen: Pen, centre: Point, radius: float, turn: float, rgb: Rgb) -> None:
        cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
        pen.polygon(
            [
                (centre[0] + radius * (x * cos - y * sin), centre[1] + radius * (x * sin + y * cos))
                for x, y in corners
            ],
            fill=rgb,
        )

    return fill


def _around(count: int, radii: tuple[float, ...]) -> list[Point]:
    """Corners on circles, the first one above the centre."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return [
        (radii[i % len(radii)] * math.sin(a), -radii[i % len(radii)] * math.cos(a))
        for i, a in enumerate(angles)
    ]


def _heart_corners() -> list[Point]:
    """The well-known curve x = 16 sin³ t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    corners = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        corners.append((x / 17, -(y + 2.5) / 17))
    return corners


# Arms of the cross: half their width, and their length.
_T, _A = 0.29, 0.94
_OUTLINES: dict[str, Callable[[Pen, Point, float, float, Rgb], None]] = {
    "circle": _circle,
    "ring": _ring,
    "square": _polygon([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)]),
    "triangle": _polygon([(0, -0.95), (0.85, 0.65), (-0.85, 0.65)]),
    "star": _polygon(_around(10, (1.0, 0.42))),
    "diamond": _polygon([(0, -1), (0.72, 0), (0, 1), (-0.72, 0)]),
    "heart": _polygon(_heart_corners()),
    "cross": _polygon(
        [
            *((-_T, -_A), (_T, -_A), (_T, -_T), (_A, -_T), (_A, _T), (_T, _T)),
            *((_T, _A), (-_T, _A), (-_T, _T), (-_A, _T), (-_A, -_T), (-_T, -_T)),
        ]
    ),
}
