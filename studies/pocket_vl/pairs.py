"""Batches of balanced pairs with all labels that the losses need.

A group is two scenes that differ in one thing of a topic, and a claim that holds in the one and not
in the other, for each: four pairs, two of them right. So neither a query nor an image alone
predicts the label. A side may also be words about the scene, both, or another drawing of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerankfleet.studies.pocket_vl.captions import (
    TOPICS,
    Claim,
    Topic,
    change,
    claim_about,
    describe,
    note,
    phrase,
    random_plan,
)
from rerankfleet.studies.pocket_vl.drawing import (
    COLOURS,
    LETTERS,
    MAX_COUNT,
    SHAPES,
    WORDS,
    Box,
    Plan,
    Scene,
    lay_out,
    lay_out_page,
    letter_boxes,
    random_background,
    sign_box,
    thing_box,
)
from rerankfleet.studies.pocket_vl.prompt import (
    CELL_PX,
    DEFAULT_INSTRUCTION,
    PATCH_PX,
    PreparedImage,
    Side,
)

Floats = NDArray[np.float32]

INSTRUCTIONS = (
    "Given a text query, retrieve the image that matches it.",
    "Find the image that the query describes.",
    "Retrieve images or text relevant to the user's query.",
    "Given a search query, find the matching product.",
)
Way = Literal["picture", "text", "both", "picture query"]
# How the pairs of mixed batches are made: what the documents are, or that the query is an image.
WAYS: dict[Way, float] = {"picture": 0.63, "text": 0.15, "both": 0.1, "picture query": 0.12}
COLOUR_NAMES = list(COLOURS)
LOOKS = len(COLOURS) * len(SHAPES)
# Labels of the vision tower's probe for each cell: colour, shape, both, letters, a centre.
CELL_LABELS = len(COLOURS) + len(SHAPES) + LOOKS + len(LETTERS) + 1
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Size:
    """An image's size in pixels, multiples of 32."""

    width_px: int
    height_px: int

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width_px / self.height_px

    def image(self, index: int) -> PreparedImage:
        """Its placeholder in a prompt."""
        return PreparedImage(index, self.height_px // PATCH_PX, self.width_px // PATCH_PX)

    @property
    def cells(self) -> tuple[int, int]:
        """Image tokens down and across."""
        return self.height_px // CELL_PX, self.width_px // CELL_PX


@dataclass(frozen=True, slots=True)
class Pair:
    """One row of a batch. `targets` is (tokens, 2) of the document's image: is a queried thing in
    the cell, and the centre of one; none for a document without an image."""

    query: Side
    document: Side
    label: bool
    targets: Floats | None = None
    count: int = UNKNOWN


@dataclass(frozen=True, slots=True)
class Batch:
    """Scenes of one size, pairs that show them, and their instruction. The pairs of a group are
    adjacent: right, wrong, wrong, right."""

    size: Size
    scenes: list[Scene]
    pairs: list[Pair]
    instruction: str


def random_batch(size: Size, groups: int, generator: random.Random, mixed: bool) -> Batch:
    """`groups` groups, the topics in turn; `mixed` draws the way of each, else all are images.
    At least one group has images."""
    scenes: list[Scene] = []
    pairs: list[Pair] = []
    ways: list[Way] = ["picture"] * groups
    if mixed:
        ways = generator.choices(list(WAYS), list(WAYS.values()), k=groups)
        if set(ways) == {"text"}:
            ways[0] = "picture"
    first = generator.randrange(len(TOPICS))
    for index, way in enumerate(ways):
        pairs += group(TOPICS[(first + index) % len(TOPICS)], way, size, scenes, generator)
    varied = generator.random() < 0.2
    instruction = generator.choice(INSTRUCTIONS) if varied else DEFAULT_INSTRUCTION
    return Batch(size, scenes, pairs, instruction)


def random_pages(size: Size, count: int, generator: random.Random) -> Batch:
    """`count` pages of words without pairs: only the vision tower learns from them."""
    pages = [lay_out_page(generator, size.aspect) for _ in range(count)]
    return Batch(size, pages, [], DEFAULT_INSTRUCTION)


@dataclass(frozen=True, slots=True)
class Rivals:
    """Two similar plans drawn at one aspect, and a claim for each that fails for the other."""

    plans: tuple[Plan, Plan]
    scenes: tuple[Scene, Scene]
    claims: tuple[Claim, Claim]


def rivals(topic: Topic, aspect: float, generator: random.Random) -> Rivals:
    """A scene and its hard negative; half of the time on the same background."""
    while True:
        plan = random_plan(topic, generator)
        plans = plan, change(plan, topic, generator)
        same = generator.random() < 0.5
        both = Plan(plans[0].kinds + plans[1].kinds)
        back = random_background(generator, both) if same else None
        one, other = (lay_out(each, generator, aspect, back) for each in plans)
        first, second = (claim_about(each, topic, generator) for each in plans)
        held = [claim.holds(scene) for claim in (first, second) for scene in (one, other)]
        if held == [True, False, False, True]:
            return Rivals(plans, (one, other), (first, second))


def group(
    topic: Topic, way: Way, size: Size, scenes: list[Scene], generator: random.Random
) -> list[Pair]:
    """Four pairs of two similar scenes, which are added to `scenes`."""
    competing = rivals(topic, size.aspect, generator)
    if way == "picture query":
        return _image_queries(competing, size, scenes, generator)
    documents = [
        _document(way, plan, scene, size, scenes, generator)
        for plan, scene in zip(competing.plans, competing.scenes, strict=True)
    ]
    return [
        Pair(
            query=[phrase(claim, generator)],
            document=document,
            label=claim.holds(scene),
            targets=None if way == "text" else wanted_cells(claim, scene, size),
            count=_count(claim, scene),
        )
        for claim in competing.claims
        for scene, document in zip(competing.scenes, documents, strict=True)
    ]


def _document(
    way: Way, plan: Plan, scene: Scene, size: Size, scenes: list[Scene], generator: random.Random
) -> Side:
    """An image, words that say the same, or an image with words that may say nothing."""
    text = describe(scene, plan, generator)
    if way == "text":
        return [text]
    image = size.image(len(scenes))
    scenes.append(scene)
    if way == "picture":
        return [image]
    return [image, text if generator.random() < 0.5 else note(generator)]


def _image_queries(
    competing: Rivals, size: Size, scenes: list[Scene], generator: random.Random
) -> list[Pair]:
    """The query shows what one of the documents shows, in another arrangement."""
    first = len(scenes)
    scenes += competing.scenes
    scenes += [lay_out(plan, generator, size.aspect) for plan in competing.plans]
    pairs = []
    for query, claim in enumerate(competing.claims):
        for document, scene in enumerate(competing.scenes):
            pairs.append(
                Pair(
                    query=[size.image(first + 2 + query)],
                    document=[size.image(first + document)],
                    label=query == document,
                    targets=wanted_cells(claim, scene, size),
                )
            )
    return pairs


def _count(claim: Claim, scene: Scene) -> int:
    """The number of matching things, if the claim is about one kind."""
    if len(claim.kinds) != 1:
        return UNKNOWN
    return min(MAX_COUNT, len(claim.matches(scene, claim.kinds[0])))


def wanted_cells(claim: Claim, scene: Scene, size: Size) -> Floats:
    """(tokens, 2): whether the cell shows a claimed thing or word, and the centre of one."""
    cells = np.zeros((*size.cells, 2), dtype=np.float32)
    boxes = [thing_box(t) for kind in claim.kinds for t in claim.matches(scene, kind)]
    boxes += [sign_box(sign) for sign in scene.signs if sign.word == claim.word]
    for box in boxes:
        cells[..., 0] = np.maximum(cells[..., 0], _covered(box, scene, size))
        cells[(*_centre(box, scene, size), 1)] = 1
    return cells.reshape(-1, 2)


def named_cells(scene: Scene, size: Size) -> Floats:
    """(tokens, CELL_LABELS): what each cell shows."""
    cells = np.zeros((*size.cells, CELL_LABELS), dtype=np.float32)
    for thing in scene.things:
        colour, shape = COLOUR_NAMES.index(thing.colour), SHAPES.index(thing.shape)
        box = thing_box(thing)
        covered = _covered(box, scene, size)
        look = len(COLOURS) + len(SHAPES) + colour * len(SHAPES) + shape
        for label in (colour, len(COLOURS) + shape, look):
            cells[..., label] = np.maximum(cells[..., label], covered)
        cells[(*_centre(box, scene, size), CELL_LABELS - 1)] = 1
    for sign in scene.signs:
        for letter, box in letter_boxes(sign):
            label = CELL_LABELS - 1 - len(LETTERS) + LETTERS.index(letter)
            cells[..., label] = np.maximum(cells[..., label], _covered(box, scene, size))
    return cells.reshape(-1, CELL_LABELS)


def read_cells(scene: Scene, size: Size) -> NDArray[np.int64]:
    """(tokens,): the word in the cell, UNKNOWN where there is none."""
    cells = np.full(size.cells, UNKNOWN, dtype=np.int64)
    for sign in scene.signs:
        cells[_covered(sign_box(sign), scene, size) > 0] = WORDS.index(sign.word)
    return cells.reshape(-1)


def _covered(box: Box, scene: Scene, size: Size) -> Floats:
    """(down, across): 1 where the box takes a fifth of the cell, or the cell a third of the box."""
    down, across = size.cells
    columns = np.arange(across + 1) * scene.width / across
    rows = np.arange(down + 1) * scene.height / down
    wide = np.clip(np.minimum(columns[1:], box[2]) - np.maximum(columns[:-1], box[0]), 0, None)
    tall = np.clip(np.minimum(rows[1:], box[3]) - np.maximum(rows[:-1], box[1]), 0, None)
    shared = np.outer(tall, wide)
    cell = scene.width * scene.height / (down * across)
    whole = (box[2] - box[0]) * (box[3] - box[1])
    return ((shared > 0.2 * cell) | (shared > 0.33 * whole)).astype(np.float32)


def _centre(box: Box, scene: Scene, size: Size) -> tuple[int, int]:
    """The cell of the box's centre."""
    down, across = size.cells
    row = int((box[1] + box[3]) / 2 / scene.height * down)
    column = int((box[0] + box[2]) / 2 / scene.width * across)
    return min(row, down - 1), min(column, across - 1)
