"""Folders of drawn scenes with captions, for demonstrations and studies.

    python -m rerankfleet.studies.pocket_vl.scenes --out examples/scenes

draws the 24 scenes that ship as an example, ten queries one a line in `queries.txt`, and in
`labels.json` which scenes fit each query.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

from rerankfleet.studies.pocket_vl.captions import (
    TOPICS,
    Claim,
    Topic,
    claim_about,
    phrase,
    random_plan,
)
from rerankfleet.studies.pocket_vl.drawing import Plan, Scene, draw, lay_out

CAPTIONS = 3
JPEG_QUALITY = 88
EXAMPLE_COUNT, EXAMPLE_SIZE, EXAMPLE_QUERIES, EXAMPLE_SEED = 24, (256, 192), 10, 3


@dataclass(frozen=True, slots=True)
class Shown:
    """A scene of a catalog: its plan, its drawing, and its topic."""

    topic: Topic
    plan: Plan
    scene: Scene

    def claim(self, generator: random.Random) -> Claim:
        """A claim that holds for the scene."""
        return claim_about(self.plan, self.topic, generator)


def draw_catalog(
    folder: Path, count: int, size: tuple[int, int], seed: int
) -> list[tuple[Path, list[str]]]:
    """Draw `count` scenes of `size` (width, height in pixels) as JPEG files into `folder`.

    Returns each file with captions that hold for it. The topics (colour and shape, count,
    position, word) take turns; the same seed gives the same scenes at every size of one aspect.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = random.Random(seed)
    catalog = []
    scenes = random_catalog(count, size[0] / size[1], generator)
    for index, shown in enumerate(scenes):
        path = folder / f"scene-{index:03}.jpg"
        draw(shown.scene, *size).save(path, quality=JPEG_QUALITY, subsampling=0)
        captions = [phrase(shown.claim(generator), generator) for _ in range(CAPTIONS)]
        catalog.append((path, captions))
    return catalog


def random_catalog(count: int, aspect: float, generator: random.Random) -> list[Shown]:
    """`count` scenes, the topics in turn."""
    catalog = []
    for index in range(count):
        topic = TOPICS[index % len(TOPICS)]
        plan = random_plan(topic, generator)
        catalog.append(Shown(topic, plan, lay_out(plan, generator, aspect)))
    return catalog


def write_example(folder: Path) -> None:
    """The example's scenes, its queries and their labels."""
    files = [path for path, _ in draw_catalog(folder, EXAMPLE_COUNT, EXAMPLE_SIZE, EXAMPLE_SEED)]
    generator = random.Random(EXAMPLE_SEED)
    aspect = EXAMPLE_SIZE[0] / EXAMPLE_SIZE[1]
    catalog = random_catalog(EXAMPLE_COUNT, aspect, generator)
    labels = []
    for shown in catalog[:EXAMPLE_QUERIES]:
        claim = shown.claim(generator)
        fitting = [
            path.name for path, each in zip(files, catalog, strict=True) if claim.holds(each.scene)
        ]
        query = phrase(claim, generator)
        labels.append({"query": query, "topic": claim.topic, "relevant": fitting})
    queries = "".join(f"{label['query']}\n" for label in labels)
    (folder / "queries.txt").write_text(queries, "utf-8")
    (folder / "labels.json").write_text(json.dumps(labels, indent=2) + "\n", "utf-8")


def main() -> None:
    """Write the example folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    write_example(parser.parse_args().out)


if __name__ == "__main__":
    main()
