"""How well `pocket-vl` recognises which scene fits a query.

    python -m rerankfleet.studies.pocket_vl.evaluate --model workers/models/pocket-vl

Scenes of a seed that training never used, at four sizes. "right" is the share of pairs on the right
side of zero: half of them fit, the other half differ from a fitting one in one thing. "first" is
the share of queries whose scene comes first of ten: four others are near (one thing differs), five
are random, and the query holds for none of them. Then, at 256x192, documents of text or of
both, and queries that are images.

Scoring is the reference procedure: the whole prompt through the model that `from_pretrained`
loads, in fp32, and logit(yes) - logit(no) at its last position. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from rerankfleet.studies.pocket_vl.captions import TOPICS, Topic, change, phrase, random_plan
from rerankfleet.studies.pocket_vl.drawing import Scene, draw, lay_out
from rerankfleet.studies.pocket_vl.pairs import WAYS, Pair, Size, Way, group, rivals
from rerankfleet.studies.pocket_vl.prompt import PreparedImage, Prompt, Side, patches

SEED = 7
CANDIDATES, NEAR = 10, 4
# Sizes, groups of four pairs for each topic, and questions of ten scenes for each topic.
SIZES = (
    (Size(96, 96), 50, 40),
    (Size(256, 192), 50, 40),
    (Size(640, 480), 16, 10),
    (Size(1024, 768), 8, 5),
)
WAYS_SIZE, WAYS_GROUPS = Size(256, 192), 25


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one kind of pairs at one size; `first` is None where it is not measured."""

    size: str
    way: str
    topic: str
    pairs: int
    right: float
    fit_above_0: float
    questions: int = 0
    first: float | None = None

    def line(self) -> str:
        """One row of the printed table."""
        first = f"{self.questions:6} {self.first:6.2f}" if self.first is not None else ""
        return (
            f"{self.size:>9}  {self.way:14} {self.topic:13} {self.pairs:5} {self.right:6.3f} "
            f"{self.fit_above_0:7.3f} {first}"
        )


class Reranker:
    """Scores pairs with the model on disk."""

    def __init__(self, folder: Path) -> None:
        self.prompt = Prompt(Tokenizer.from_file(str(folder / "tokenizer.json")))
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    @torch.inference_mode()
    def margins(self, pairs: list[tuple[Side, Side]], pixels: list[Tensor]) -> Tensor:
        """One margin per pair, in one forward pass; `pixels` are the images' patches by index."""
        rows = [self.prompt.encode(query, document) for query, document in pairs]
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for line, (ids, _) in enumerate(rows):
            tokens[line, : len(ids)] = torch.tensor(ids)
        images = [image for _, row_images in rows for image in row_images]
        seen = {}
        if images:
            seen["pixel_values"] = torch.cat([pixels[image.index] for image in images])
            seen["image_grid_thw"] = torch.tensor([_grid(image) for image in images])
            seen["mm_token_type_ids"] = tokens.eq(self.prompt.pad).int()
        # Padding is on the right, where causal attention never looks.
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        ends, where = torch.unique(lengths - 1, return_inverse=True)
        self.model.model.rope_deltas = None
        logits = self.model(tokens, attention_mask=mask, logits_to_keep=ends, **seen).logits
        last = logits[torch.arange(len(rows)), where]
        return last[:, self.prompt.yes] - last[:, self.prompt.no]


def _grid(image: PreparedImage) -> list[int]:
    return [1, image.rows, image.columns]


def pixels_of(scene: Scene, size: Size) -> Tensor:
    """The drawn scene's patches."""
    return torch.from_numpy(patches(draw(scene, size.width_px, size.height_px)))


def measure(
    reranker: Reranker, topic: Topic, way: Way, size: Size, groups: int, questions: int
) -> Quality:
    """The quality on pairs of one topic, and on `questions` questions."""
    generator = random.Random(f"{SEED} {topic} {way} {size}")
    margins, labels = [], []
    for _ in range(groups):
        scenes: list[Scene] = []
        pairs: list[Pair] = group(topic, way, size, scenes, generator)
        pixels = [pixels_of(scene, size) for scene in scenes]
        margins.append(reranker.margins([(p.query, p.document) for p in pairs], pixels))
        labels += [pair.label for pair in pairs]
    positive, fits = torch.cat(margins) > 0, torch.tensor(labels)
    first = [_comes_first(reranker, topic, size, generator) for _ in range(questions)]
    return Quality(
        size=f"{size.width_px}x{size.height_px}",
        way=way,
        topic=topic,
        pairs=len(fits),
        right=float((positive == fits).float().mean()),
        fit_above_0=float(positive[fits].float().mean()),
        questions=questions,
        first=float(np.mean(first)) if first else None,
    )


def _comes_first(reranker: Reranker, topic: Topic, size: Size, generator: random.Random) -> bool:
    """Whether the one scene of ten that fits a query has the highest margin."""
    competing = rivals(topic, size.aspect, generator)
    claim, scenes = competing.claims[0], list(competing.scenes)
    while len(scenes) < CANDIDATES:
        near = len(scenes) <= NEAR
        plan = (
            change(competing.plans[0], topic, generator) if near else random_plan(topic, generator)
        )
        scene = lay_out(plan, generator, size.aspect)
        if not claim.holds(scene):
            scenes.append(scene)
    query = [phrase(claim, generator)]
    margins = torch.cat(
        [reranker.margins([(query, [size.image(0)])], [pixels_of(scene, size)]) for scene in scenes]
    )
    return bool(margins[0] > margins[1:].max())


def evaluate(folder: Path, sizes: list[str] | None = None) -> list[Quality]:
    """All figures, printed one by one."""
    reranker = Reranker(folder)
    columns = ("size", "pairs are", "topic", "pairs", "right", "fit > 0", "of ten", "first")
    print("{:>9}  {:14} {:13} {:>5} {:>6} {:>7} {:>6} {:>6}".format(*columns), flush=True)
    results: list[Quality] = []
    for size, groups, questions in SIZES:
        if sizes is None or f"{size.width_px}x{size.height_px}" in sizes:
            qualities = [
                _printed(measure(reranker, topic, "picture", size, groups, questions))
                for topic in TOPICS
            ]
            results += [*qualities, _printed(_mean(qualities))]
    for way in list(WAYS)[1:]:
        topics = [t for t in TOPICS if way != "picture query" or t != "position"]
        qualities = [_printed(measure(reranker, t, way, WAYS_SIZE, WAYS_GROUPS, 0)) for t in topics]
        results += [*qualities, _printed(_mean(qualities))]
    return results


def _printed(quality: Quality) -> Quality:
    print(quality.line(), flush=True)
    return quality


def _mean(qualities: list[Quality]) -> Quality:
    """All topics together: each has as many pairs and questions as the others."""
    firsts = [quality.first for quality in qualities if quality.first is not None]
    return Quality(
        size=qualities[0].size,
        way=qualities[0].way,
        topic="all",
        pairs=sum(quality.pairs for quality in qualities),
        right=float(np.mean([quality.right for quality in qualities])),
        fit_above_0=float(np.mean([quality.fit_above_0 for quality in qualities])),
        questions=sum(quality.questions for quality in qualities),
        first=float(np.mean(firsts)) if firsts else None,
    )


def main() -> None:
    """Measure the model on disk."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sizes", nargs="*", help="of these sizes only, such as 256x192")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    begin = time.monotonic()
    results = evaluate(options.model, options.sizes)
    card = {
        "study": "pocket-vl",
        "seconds": round(time.monotonic() - begin, 1),
        "quality": [asdict(quality) for quality in results],
    }
    print(json.dumps(card))


if __name__ == "__main__":
    main()
