"""Captions of a scene: claims that hold or do not, and many phrasings of each.

A `Claim` is checked against the scene itself, so that a pair's label never depends on which scene
its words were drawn from.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from rerankfleet.studies.pocket_vl.drawing import (
    COLOURS,
    MAX_COUNT,
    PLACES,
    SHAPES,
    WORDS,
    Kind,
    Place,
    Plan,
    Scene,
    Thing,
)

Topic = Literal["colour-shape", "count", "position", "word"]
TOPICS: tuple[Topic, ...] = ("colour-shape", "count", "position", "word")

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
SHAPE_NAMES: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "round spot"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "ring": ("ring", "ring", "hoop"),
    "cross": ("cross", "cross", "plus sign"),
    "heart": ("heart",),
    "diamond": ("diamond", "diamond", "rhombus"),
}
COLOUR_NAMES: dict[str, tuple[str, ...]] = {"purple": ("purple", "purple", "violet")}
PLURALS = {"box": "boxes", "cross": "crosses", "rhombus": "rhombuses"}
PLACE_PHRASES: dict[Place, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "in the left half", "at the left"),
    "right": ("on the right", "on the right side", "in the right half", "at the right"),
    "top": ("at the top", "in the upper half", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower half", "near the bottom", "in the lower part"),
}
THING_FRAMES = (
    *("{a}", "{a}", "{a}", "{plain}", "{plain}", "an image of {a}", "an image with {a}"),
    *("an image of {a}", "an image showing {a}", "a drawing of {a}", "a scene with {a}"),
    *("find {a}", "show me {a}", "is there {a}?", "is {a} in the image?", "where is {a}?"),
    *("I am looking for {a}", "which image shows {a}?", "there is {a}", "look for {a}"),
    *("images that contain {a}", "a photo of {a}", "do you see {a}?", "{a} on a background"),
)
COUNT_FRAMES = (
    *("{plain}", "{plain}", "{plain}", "an image of {plain}", "an image with {plain}"),
    *("an image showing {plain}", "a scene with {plain}", "find {plain}", "show me {plain}"),
    *("which image shows {plain}?", "exactly {plain}", "{plain} in all"),
    *("I am looking for {plain}", "images that contain {plain}"),
)
MANY_FRAMES = (*COUNT_FRAMES, "are there {plain}?", "there are {plain}")
WORD_FRAMES = (
    *('the word "{w}"', "the word {w}", '"{w}"', "{w}", "a sign that says {w}", "text {w}"),
    *('a sign that says "{w}"', "the text reads {w}", "it says {w}", "a sign with {w} on it"),
    *("an image with the word {w}", "which image says {w}?", "find the word {w}", "{w} sign"),
    *("a sign reading {w}", "the printed word {w}", "an image with the text {w}"),
)
NOTES = ("an image", "drawing", "scene", "an image from the catalog", "shapes", "item")


@dataclass(frozen=True, slots=True)
class Claim:
    """The kinds of things that must all be in the scene, and a word."""

    topic: Topic
    kinds: tuple[Kind, ...] = ()
    word: str | None = None

    def holds(self, scene: Scene) -> bool:
        """Whether the scene shows all of it; a count is exact where the topic is counts."""
        if self.word is not None and all(sign.word != self.word for sign in scene.signs):
            return False
        return all(self._shows(scene, kind) for kind in self.kinds)

    def _shows(self, scene: Scene, kind: Kind) -> bool:
        count = len(self.matches(scene, kind))
        return count == kind.count if self.topic == "count" else count > 0

    def matches(self, scene: Scene, kind: Kind) -> list[Thing]:
        """The things of that kind in the claimed position."""
        return [
            thing
            for thing in scene.things
            if thing.shape == kind.shape
            and thing.colour == kind.colour
            and (kind.place is None or scene.is_at(thing, kind.place))
        ]


def random_plan(topic: Topic, generator: random.Random) -> Plan:
    """A plan that the topic applies to; a claim is about its first kind."""
    others = generator.choices((0, 1, 2), (0.25, 0.5, 0.25))[0]
    word = generator.choice(WORDS) if topic == "word" or generator.random() < 0.12 else None
    if topic == "count":
        kinds = _distinct_kinds(1 + min(1, others), generator)
        first = _with(kinds[0], count=generator.randint(1, MAX_COUNT))
        rest = [_with(kind, count=generator.randint(1, 2)) for kind in kinds[1:]]
        return Plan((first, *rest), word)
    if topic == "position":
        kinds = _distinct_kinds(1 + min(1, others), generator)
        return Plan((_with(kinds[0], place=generator.choice(PLACES)), *kinds[1:]), word)
    if topic == "word":
        return Plan(tuple(_distinct_kinds(others, generator)), word)
    kinds = _distinct_kinds(1 + others, generator)
    kinds = [_with(k, count=2 if generator.random() < 0.12 else 1) for k in kinds]
    return Plan(tuple(kinds), word)


def change(plan: Plan, topic: Topic, generator: random.Random) -> Plan:
    """The hard negative: a plan that differs in one thing of the topic."""
    first, rest = (plan.kinds[0], plan.kinds[1:]) if plan.kinds else (None, ())
    if topic == "word" or first is None:
        return Plan(plan.kinds, generator.choice([w for w in WORDS if w != plan.word]))
    if topic == "count":
        near = [n for n in range(1, MAX_COUNT + 1) if n != first.count]
        weights = [3.0 if abs(n - first.count) == 1 else 1.0 for n in near]
        return Plan((_with(first, count=generator.choices(near, weights)[0]), *rest), plan.word)
    if topic == "position":
        opposite: dict[Place, Place] = {
            **{"left": "right", "right": "left"},
            **{"top": "bottom", "bottom": "top"},
        }
        assert first.place is not None
        return Plan((_with(first, place=opposite[first.place]), *rest), plan.word)
    return _change_look(plan, generator)


def _change_look(plan: Plan, generator: random.Random) -> Plan:
    """Another colour, another shape, or the colours of two things exchanged."""
    first, rest = plan.kinds[0], plan.kinds[1:]
    while True:
        way = generator.choice(("colour", "shape", "swap"))
        if way == "swap" and rest:
            second = rest[0]
            new = (_with(first, colour=second.colour), _with(second, colour=first.colour))
            changed = (*new, *rest[1:])
        elif way == "colour":
            changed = (_with(first, colour=generator.choice(list(COLOURS))), *rest)
        else:
            changed = (_with(first, shape=generator.choice(SHAPES)), *rest)
        looks = [(kind.shape, kind.colour) for kind in changed]
        if looks[0] != (first.shape, first.colour) and len(set(looks)) == len(looks):
            return Plan(tuple(changed), plan.word)


def claim_about(plan: Plan, topic: Topic, generator: random.Random) -> Claim:
    """A claim of the topic about the first kind, sometimes with a second thing."""
    if topic == "word":
        return Claim(topic, word=plan.word)
    first = plan.kinds[0]
    if topic == "count":
        return Claim(topic, (first,))
    kinds: tuple[Kind, ...] = (_with(first, count=1),)
    if topic == "colour-shape" and plan.kinds[1:] and generator.random() < 0.25:
        kinds += (_with(plan.kinds[1], count=1),)
    return Claim(topic, kinds)


def phrase(claim: Claim, generator: random.Random) -> str:
    """The claim in words, one of many ways."""
    if claim.word is not None:
        word = generator.choice((claim.word, claim.word.lower(), claim.word.capitalize()))
        return generator.choice(WORD_FRAMES).format(w=word)
    parts = [name(kind, claim.topic == "count", generator) for kind in claim.kinds]
    if len(parts) == 2 and generator.random() < 0.5:
        parts.reverse()
    plain = " and ".join(parts)
    frames: tuple[str, ...] = THING_FRAMES
    if claim.topic == "count":
        frames = MANY_FRAMES if claim.kinds[0].count > 1 else COUNT_FRAMES
    frame = generator.choice(frames)
    text = frame.format(plain=plain, a=" and ".join(_article(part) for part in parts))
    return text[0].upper() + text[1:] if generator.random() < 0.2 else text


def name(kind: Kind, counted: bool, generator: random.Random) -> str:
    """The kind in words, without an article."""
    shape = generator.choice(SHAPE_NAMES[kind.shape])
    colour = generator.choice(COLOUR_NAMES.get(kind.colour, (kind.colour,)))
    if counted and kind.count > 1:
        shape = PLURALS.get(shape, f"{shape}s")
    way = generator.random()
    text = f"{colour} {shape}"
    if 0.8 < way <= 0.9:
        text = f"{shape} in {colour}"
    elif way > 0.9:
        text = f"{shape} that {'are' if counted and kind.count > 1 else 'is'} {colour}"
    if counted:
        number = generator.choice((NUMBERS[kind.count], NUMBERS[kind.count], str(kind.count)))
        text = f"{number} {text}"
    if kind.place is not None:
        text = f"{text} {generator.choice(PLACE_PHRASES[kind.place])}"
    return text


def describe(scene: Scene, plan: Plan, generator: random.Random) -> str:
    """A text that describes the whole plan, for a text document."""
    parts = []
    for kind in plan.kinds:
        text = name(kind, kind.count > 1, generator)
        parts.append(text if kind.count > 1 else _article(text))
    parts += [f"the word {sign.word}" for sign in scene.signs]
    generator.shuffle(parts)
    text = " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]
    return generator.choice(("{}", "an image of {}", "{}.", "it shows {}")).format(text)


def note(generator: random.Random) -> str:
    """A text beside an image that says nothing about it."""
    text = generator.choice(NOTES)
    return f"{text} {generator.randint(1, 99)}" if generator.random() < 0.6 else text


def _article(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _distinct_kinds(count: int, generator: random.Random) -> list[Kind]:
    """Kinds no two of which share both colour and shape; some share one of them."""
    kinds: list[Kind] = []
    while len(kinds) < count:
        shape, colour = generator.choice(SHAPES), generator.choice(list(COLOURS))
        if kinds and generator.random() < 0.3:
            shape = kinds[0].shape
        elif kinds and generator.random() < 0.3:
            colour = kinds[0].colour
        if all((kind.shape, kind.colour) != (shape, colour) for kind in kinds):
            kinds.append(Kind(shape, colour))
    return kinds


def _with(
    kind: Kind,
    shape: str | None = None,
    colour: str | None = None,
    count: int | None = None,
    place: Place | None = None,
) -> Kind:
    """The kind with some fields replaced."""
    return Kind(
        shape or kind.shape, colour or kind.colour, count or kind.count, place or kind.place
    )
