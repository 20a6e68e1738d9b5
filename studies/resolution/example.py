"""Twelve drawn images with queries and categories, to try the study without photos.

What the queries describe is large in `shapes`, of several sizes in `words`, and small in `detail`,
so that resolution makes a difference.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rerankfleet.shared.errors import OutputExists

SIZE = 2048, 1536
SEED = 1
PAPER = "white"
COLOURS = {"red": "#d62828", "green": "#2a9d4a", "blue": "#1d4ed8", "yellow": "#f5c518"}
QUERIES = (
    "a red circle",
    "a blue square beside a green circle",
    "the word OPEN",
    "the word CLOSED",
    "many small yellow squares",
    "one red dot among blue dots",
)

Draw = ImageDraw.ImageDraw


def write_example(folder: Path) -> Path:
    """Draw the images into `folder`, with `images.csv` (image, category) and `queries.txt`.

    Returns the listing. Raises OutputExists when there is one already.
    """
    listing = folder / "images.csv"
    if listing.exists():
        raise OutputExists(f"{listing} exists already", hint="name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    with listing.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["image", "category"])
        for category, images in IMAGES.items():
            for number, paint in enumerate(images, 1):
                name = f"{category}-{number}.png"
                image = Image.new("RGB", SIZE, PAPER)
                paint(ImageDraw.Draw(image), random.Random(f"{SEED} {name}"))
                image.save(folder / name)
                rows.writerow([name, category])
    (folder / "queries.txt").write_text("\n".join(QUERIES) + "\n", "utf-8")
    return listing


Paint = Callable[[Draw, random.Random], None]


def _shapes(*shapes: tuple[str, str]) -> Paint:
    """(form, colour) side by side, large."""

    def paint(draw: Draw, rng: random.Random) -> None:
        step = SIZE[0] // len(shapes)
        for number, (form, colour) in enumerate(shapes):
            radius = rng.randint(220, 300)
            centre = step * number + step // 2, SIZE[1] // 2 + rng.randint(-200, 200)
            _form(draw, form, colour, centre, radius)

    return paint


def _words(*words: tuple[str, int]) -> Paint:
    """(word, height in pixels) one below the other."""

    def paint(draw: Draw, rng: random.Random) -> None:
        top = 160
        for word, height in words:
            left = rng.randint(100, 500)
            draw.text((left, top), word, "black", ImageFont.load_default(height))
            top += height + 120

    return paint


def _detail(form: str, colour: str, count: int, radius: int, odd: str | None = None) -> Paint:
    """Many small shapes of one colour, scattered; one of them in the odd colour."""

    def paint(draw: Draw, rng: random.Random) -> None:
        for number in range(count):
            centre = rng.randint(50, SIZE[0] - 50), rng.randint(50, SIZE[1] - 50)
            last = odd is not None and number == count - 1
            _form(draw, form, odd if last and odd else colour, centre, radius)

    return paint


def _form(draw: Draw, form: str, colour: str, centre: tuple[int, int], radius: int) -> None:
    x, y = centre
    box = (x - radius, y - radius, x + radius, y + radius)
    (draw.ellipse if form == "circle" else draw.rectangle)(box, COLOURS[colour])


IMAGES: dict[str, tuple[Paint, ...]] = {
    "shapes": (
        _shapes(("circle", "red")),
        _shapes(("square", "blue"), ("circle", "green")),
        _shapes(("square", "red"), ("circle", "yellow")),
        _shapes(("circle", "green"), ("square", "yellow"), ("circle", "blue")),
    ),
    "words": (
        _words(("OPEN", 300)),
        _words(("CLOSED", 90), ("from Monday to Friday", 60)),
        _words(("Please ring twice", 120), ("OPEN", 48)),
        _words(("No parking", 200), ("CLOSED", 36)),
    ),
    "detail": (
        _detail("square", "yellow", 300, 14),
        _detail("circle", "blue", 250, 12, odd="red"),
        _detail("circle", "blue", 250, 12),
        _detail("square", "green", 300, 8),
    ),
}
