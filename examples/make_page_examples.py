"""Draw the page's example images and write `examples.json` beside them.

    python examples/make_page_examples.py producer/web/example

Scenes of the kind that `pocket-vl` can tell apart: one blurred, two of unusual shapes, one twice.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFilter

from rerankfleet.studies.pocket_vl.drawing import Kind, Plan, draw, lay_out

SEED = 6
SIZE = (256, 192)
BLUR_PX = 5


class Drawn(NamedTuple):
    """An image to be drawn."""

    name: str
    kinds: tuple[Kind, ...]
    size: tuple[int, int] = SIZE
    blurred: bool = False


IMAGES = (
    Drawn("red-heart", (Kind("heart", "red"),)),
    Drawn("two-red-hearts", (Kind("heart", "red", 2),), (320, 192)),
    Drawn("red-heart-blue-star", (Kind("heart", "red"), Kind("star", "blue"))),
    Drawn("red-heart-blurred", (Kind("heart", "red"),), blurred=True),
    Drawn("pink-circle", (Kind("circle", "pink"),)),
    Drawn("green-triangles", (Kind("triangle", "green", 3),), (192, 288)),
    Drawn("blue-ring", (Kind("ring", "blue"),)),
    Drawn("yellow-stars", (Kind("star", "yellow", 4),)),
    Drawn("orange-cross", (Kind("cross", "orange"),)),
    Drawn("purple-diamonds", (Kind("diamond", "purple", 2),)),
)

PASSAGES = [
    "copy.deepcopy() makes a new object and copies everything it refers to, level by level.",
    "A list is sorted in place by its sort method, and sorted() returns a new list.",
    "Slicing with [:] makes a new list, but the items in it are the same objects as before.",
    "Bread rises because yeast turns sugar into gas.",
    "dict.copy() makes a shallow copy: keys and values are shared with the original.",
    "Exceptions are caught by a try statement and handled in its except clause.",
]


def main() -> None:
    """Write everything into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(SEED)
    for drawn in IMAGES:
        image(drawn, generator).save(folder / f"{drawn.name}.jpg", quality=88)
    (folder / "examples.json").write_text(json.dumps(examples(), indent=1, ensure_ascii=False))


def image(drawn: Drawn, generator: random.Random) -> Image.Image:
    """One scene at its size."""
    width, height = drawn.size
    image = draw(lay_out(Plan(drawn.kinds), generator, width / height), width, height)
    return image.filter(ImageFilter.GaussianBlur(BLUR_PX)) if drawn.blurred else image


def examples() -> list[dict[str, object]]:
    """What the page offers while it is empty."""
    names = [f"{drawn.name}.jpg" for drawn in IMAGES]
    captions = {"yellow-stars.jpg": "stars in the night", "blue-ring.jpg": None}
    captions |= {"purple-diamonds.jpg": "a pattern with diamonds", "orange-cross.jpg": None}
    pairs = [
        {"image": name, "text": text} if text else {"image": name}
        for name, text in captions.items()
    ]
    return [
        {
            "title": {"en": "Find an image", "zh": "以文搜图"},
            "instruction": "",
            "query": {"text": "a red heart"},
            "documents": [{"image": name} for name in names],
        },
        {
            "title": {"en": "Find the passage that answers", "zh": "查找能回答问题的段落"},
            "instruction": "Given a question, retrieve passages that answer it",
            "query": {"text": "How do I copy an object in Python?"},
            "documents": [{"text": passage} for passage in PASSAGES],
        },
        {
            "title": {"en": "Images with captions, and text", "zh": "带说明的图片与文本"},
            "instruction": "",
            "query": {"text": "four yellow stars"},
            "documents": [*pairs, {"text": "4 stars that are yellow"}],
        },
    ]


if __name__ == "__main__":
    main()
