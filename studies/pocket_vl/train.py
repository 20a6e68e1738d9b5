"""Train `pocket-vl`, a small Qwen3-VL reranker, on drawn scenes.

    python -m rerankfleet.studies.pocket_vl.train --out workers/models/pocket-vl

`--begin-with FOLDER` continues from the weights of an earlier run, with new probes.

Tokenizer, scenes drawn on the fly, two stages, export in bfloat16, figures. The model is
transformers' unmodified `Qwen3VLForConditionalGeneration`; all that is added while training are
linear probes. First the vision tower learns alone to name what each image token shows (colour,
shape, letters, and which word they make: half of the time on pages full of words). Then whole
pairs are judged, with probes that predict at each image token of a document whether a queried
thing is there, and at the last token how many there are. The prompt's first
tokens, the same in all rows, are computed once per step.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from rerankfleet.studies.pocket_vl.drawing import MAX_COUNT, WORDS, Scene, draw
from rerankfleet.studies.pocket_vl.pairs import (
    CELL_LABELS,
    UNKNOWN,
    Batch,
    Size,
    named_cells,
    random_batch,
    random_pages,
    read_cells,
)
from rerankfleet.studies.pocket_vl.prompt import (
    IMAGE_PAD,
    MERGE,
    PATCH_PX,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    PreparedImage,
    Prompt,
    patches,
    positions,
    token_id,
)
from rerankfleet.studies.pocket_vl.vocabulary import SPECIAL_TOKENS, train_tokenizer
from rerankfleet.studies.tokeniser import export

SEED = 20
LEARNING_RATE, WARMUP_STEPS = 3e-3, 60
INITIAL_STD, EMBEDDING_STD = 0.06, 0.5
# Hidden states that the probes read: the outputs of the last text layers.
PROBED_LAYERS = (2, 3, 4)
POSITIVE_WEIGHT = 3.0
EXPORT_EVERY_S = 240
# A step that took longer was interrupted: the rest of its time is not counted.
LONGEST_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Course:
    """What a stage draws: sizes with their weights, the groups of a step at 96 px, and the share
    of steps that are pages of words."""

    sizes: tuple[tuple[Size, float], ...]
    groups: int
    mixed: bool = False
    pages: float = 0.0

    def draw_batch(self, generator: random.Random) -> Batch:
        """A random batch; larger images come in smaller batches, of about the same work."""
        sizes, weights = zip(*self.sizes, strict=True)
        size = generator.choices(sizes, weights)[0]
        tokens = size.image(0).tokens
        groups = max(1, round(self.groups * 40 / (31 + tokens)))
        if generator.random() < self.pages:
            return random_pages(size, 2 * groups, generator)
        return random_batch(size, groups, generator, self.mixed)


SMALL = ((Size(96, 96), 0.5), (Size(128, 96), 0.3), (Size(128, 128), 0.2))
MIDDLE = (
    *((Size(96, 96), 0.2), (Size(128, 128), 0.15), (Size(160, 128), 0.1), (Size(128, 192), 0.1)),
    *((Size(256, 192), 0.35), (Size(192, 256), 0.1)),
)
LARGE = (
    *((Size(96, 96), 0.1), (Size(128, 128), 0.08), (Size(160, 128), 0.06), (Size(192, 256), 0.08)),
    *((Size(256, 192), 0.34), (Size(384, 288), 0.12), (Size(512, 384), 0.08)),
    *((Size(640, 480), 0.08), (Size(320, 448), 0.02), (Size(1024, 768), 0.04)),
)
NAMING = (
    (0.6, Course(SMALL, groups=24, pages=0.5)),
    (0.4, Course(MIDDLE, groups=24, pages=0.5)),
)
JUDGING = (
    (0.2, Course(SMALL, groups=16)),
    (0.35, Course(MIDDLE, groups=16, mixed=True)),
    (0.45, Course(LARGE, groups=16, mixed=True)),
)


def build_model(tokenizer: Tokenizer) -> Qwen3VLForConditionalGeneration:
    """The untrained model: the real architecture with every size cut down."""
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 160,
            "intermediate_size": 448,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 262144,
            "initializer_range": INITIAL_STD,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_interleaved": True,
                "mrope_section": [12, 10, 10],
            },
            "bos_token_id": None,
            "eos_token_id": token_id(tokenizer, "<|im_end|>"),
            "pad_token_id": token_id(tokenizer, "<|endoftext|>"),
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_heads": 4,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 160,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 2],
            "initializer_range": INITIAL_STD,
        },
        image_token_id=token_id(tokenizer, IMAGE_PAD),
        video_token_id=token_id(tokenizer, VIDEO_PAD),
        vision_start_token_id=token_id(tokenizer, VISION_START),
        vision_end_token_id=token_id(tokenizer, VISION_END),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        rows = model.model.language_model.embed_tokens.weight
        rows.mul_(EMBEDDING_STD / INITIAL_STD)
        answers = [token_id(tokenizer, "yes"), token_id(tokenizer, "no")]
        rows[answers] *= 0.02 / EMBEDDING_STD
    return model


@dataclass(frozen=True, slots=True)
class Rows:
    """Pairs as tensors: `head` is what all rows begin with, the rest is padded on the right."""

    head: list[int]
    tokens: Tensor
    mask: Tensor
    positions: Tensor
    images: list[PreparedImage]
    document_cells: Tensor
    targets: Tensor
    labels: Tensor
    counts: Tensor


def tensorise(batch: Batch, prompt: Prompt) -> Rows:
    """Encode every pair, and split off the ids that all of them begin with."""
    encoded = [prompt.encode(p.query, p.document, batch.instruction) for p in batch.pairs]
    shared = _shared_length([ids for ids, _ in encoded], prompt.start)
    width = max(len(ids) for ids, _ in encoded) - shared
    tokens = torch.zeros(len(encoded), width, dtype=torch.long)
    mask = torch.zeros(len(encoded), width, dtype=torch.long)
    places = torch.zeros(3, len(encoded), width, dtype=torch.long)
    cells = torch.zeros(len(encoded), width, dtype=torch.bool)
    targets = []
    for line, (pair, (ids, images)) in enumerate(zip(batch.pairs, encoded, strict=True)):
        rest = len(ids) - shared
        tokens[line, :rest] = torch.tensor(ids[shared:])
        mask[line, :rest] = 1
        cells_of = positions(ids, prompt.pad, images)[:, shared:]
        places[:, line, :rest] = torch.from_numpy(cells_of)
        if pair.targets is not None:
            # The document's image is the last one of its row.
            pads = torch.nonzero(tokens[line].eq(prompt.pad)).flatten()
            cells[line, pads[-len(pair.targets) :]] = True
            targets.append(torch.from_numpy(pair.targets))
    return Rows(
        head=encoded[0][0][:shared],
        tokens=tokens,
        mask=mask,
        positions=places,
        images=[image for _, images in encoded for image in images],
        document_cells=cells,
        targets=torch.cat(targets) if targets else torch.zeros(0, 2),
        labels=torch.tensor([float(pair.label) for pair in batch.pairs]),
        counts=torch.tensor([pair.count for pair in batch.pairs]),
    )


def _shared_length(rows: list[list[int]], image_start: int) -> int:
    """How many ids all rows begin with, before any image: those are computed once."""
    shared = 0
    for ids in zip(*rows, strict=False):
        if len(set(ids)) > 1 or ids[0] == image_start:
            break
        shared += 1
    return shared


def pixels(scenes: list[Scene], size: Size) -> Tensor:
    """(scenes · patches, values) of the drawn scenes."""
    drawn = (draw(scene, size.width_px, size.height_px) for scene in scenes)
    return torch.from_numpy(np.concatenate([patches(image) for image in drawn]))


class Scorer(nn.Module):
    """The reranker, and the probes of its auxiliary losses."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, prompt: Prompt) -> None:
        super().__init__()
        self.model, self.prompt = model, prompt
        width = model.model.language_model.config.hidden_size
        self.names = nn.Linear(width, CELL_LABELS)
        self.words = nn.Linear(width, len(WORDS))
        self.probes = nn.ModuleList(nn.Linear(width, 2) for _ in PROBED_LAYERS)
        self.counts = nn.Linear(width, MAX_COUNT + 1)

    def see(self, batch: Batch) -> tuple[Tensor, list[Tensor], Tensor]:
        """(scenes, tokens, hidden) of the vision tower, the same of its early layers, and the
        naming loss."""
        image = batch.size.image(0)
        grid = torch.tensor([[1, image.rows, image.columns]] * len(batch.scenes))
        seen = self.model.model.visual(pixels(batch.scenes, batch.size), grid_thw=grid)
        shape = len(batch.scenes), image.tokens, -1
        merged = seen.pooler_output.view(shape)
        labels = np.stack([named_cells(scene, batch.size) for scene in batch.scenes])
        loss = F.binary_cross_entropy_with_logits(
            self.names(merged),
            torch.from_numpy(labels),
            pos_weight=torch.tensor(POSITIVE_WEIGHT),
            reduction="sum",
        )
        # About ten labels of a cell are similar enough to be confused.
        loss = loss / (10 * len(batch.scenes) * image.tokens) + self._reading_loss(batch, merged)
        return merged, [f.view(shape) for f in seen.deepstack_features], loss

    def _reading_loss(self, batch: Batch, merged: Tensor) -> Tensor:
        """Loss of the word of each cell that has one, apart from the many other labels."""
        words = torch.from_numpy(np.stack([read_cells(s, batch.size) for s in batch.scenes]))
        printed = words != UNKNOWN
        if not printed.any():
            return torch.zeros(())
        return F.cross_entropy(self.words(merged[printed]), words[printed])

    def judge(self, batch: Batch, rows: Rows, merged: Tensor, early: list[Tensor]) -> Judged:
        """Margins (rows,), and the losses of the probes."""
        language = self.model.model.language_model
        cache = DynamicCache(config=language.config)
        head = torch.tensor([rows.head])
        language(input_ids=head, past_key_values=cache, use_cache=True)
        lines = len(rows.tokens)
        cache.batch_repeat_interleave(lines)
        is_image = rows.tokens.eq(self.prompt.pad)
        index = torch.tensor([image.index for image in rows.images], dtype=torch.long)
        embedded = language.embed_tokens(rows.tokens)
        embedded = embedded.masked_scatter(is_image[..., None], merged[index])
        states = language(
            inputs_embeds=embedded,
            attention_mask=torch.cat([torch.ones(lines, len(rows.head)).long(), rows.mask], 1),
            position_ids=rows.positions,
            past_key_values=cache,
            use_cache=True,
            visual_pos_masks=is_image,
            deepstack_visual_embeds=[f[index].flatten(0, 1) for f in early],
            output_hidden_states=True,
        ).hidden_states
        last = states[-1][torch.arange(lines), rows.mask.sum(1) - 1]
        weight = self.model.lm_head.weight
        margins = last @ (weight[self.prompt.yes] - weight[self.prompt.no])
        return Judged(margins, self._probe_loss(states, rows), self._count_loss(last, rows))

    def _probe_loss(self, states: tuple[Tensor, ...], rows: Rows) -> Tensor:
        total = torch.zeros(())
        if not len(rows.targets):
            return total
        for layer, probe in zip(PROBED_LAYERS, self.probes, strict=True):
            total = total + F.binary_cross_entropy_with_logits(
                probe(states[layer][rows.document_cells]),
                rows.targets,
                pos_weight=torch.tensor(POSITIVE_WEIGHT),
            )
        return total / len(PROBED_LAYERS)

    def _count_loss(self, last: Tensor, rows: Rows) -> Tensor:
        known = rows.counts != UNKNOWN
        if not known.any():
            return torch.zeros(())
        return F.cross_entropy(self.counts(last[known]), rows.counts[known])


@dataclass(frozen=True, slots=True)
class Judged:
    """The outputs that the losses of a batch need."""

    margins: Tensor
    probe_loss: Tensor
    count_loss: Tensor


def pair_loss(margins: Tensor, labels: Tensor) -> Tensor:
    """Margins on the right side of zero, and the right document of each query above the other."""
    sides = F.binary_cross_entropy_with_logits(margins, labels)
    queries, signs = margins.view(-1, 2), labels.view(-1, 2)
    ahead = (queries * (2 * signs - 1)).sum(1)
    return sides + 0.5 * F.softplus(-ahead).mean()


def optimisers(scorer: Scorer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for mergers, embeddings, norms and probes."""
    blocks = (scorer.model.model.language_model.layers, scorer.model.model.visual.blocks)
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in scorer.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


class Trainer:
    """The training loop, over both stages."""

    def __init__(
        self, scorer: Scorer, tokenizer: Tokenizer, folder: Path, learning_rate: float
    ) -> None:
        self.scorer, self.tokenizer, self.folder = scorer, tokenizer, folder
        self.learning_rate = learning_rate
        self.generator = random.Random(SEED)
        self.started = self.exported = time.monotonic()
        self.seen: list[list[float]] = []

    def run(self, stages: tuple[tuple[float, Course], ...], seconds: float, judging: bool) -> None:
        """Train for a time, one cosine over all stages; a line of progress every fifty steps."""
        self.seen.clear()
        groups = optimisers(self.scorer)
        step, spent = 0, 0.0
        while spent < seconds:
            begin = time.monotonic()
            step += 1
            share = spent / seconds
            rate = self.learning_rate * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * share)))
            self._step(groups, rate * min(1, step / WARMUP_STEPS), _course(stages, share), judging)
            if step % 50 == 0:
                self._report(step, share)
            if judging and time.monotonic() - self.exported > EXPORT_EVERY_S:
                self.exported = time.monotonic()
                export(self.scorer.model, self.tokenizer, self.folder, SPECIAL_TOKENS)
            spent += min(LONGEST_STEP_S, time.monotonic() - begin)

    def _step(
        self, groups: list[torch.optim.Optimizer], rate: float, course: Course, judging: bool
    ) -> None:
        batch = course.draw_batch(self.generator)
        for optimiser in groups:
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
        merged, early, naming = self.scorer.see(batch)
        loss, figures = naming, [naming.item()]
        if judging:
            rows = tensorise(batch, self.scorer.prompt)
            judged = self.scorer.judge(batch, rows, merged, early)
            right = ((judged.margins > 0) == (rows.labels > 0.5)).float().mean()
            pairs = pair_loss(judged.margins, rows.labels)
            loss = pairs + judged.probe_loss + 0.3 * judged.count_loss + 0.5 * naming
            figures += [judged.probe_loss.item(), pairs.item(), right.item()]
        loss.backward()
        nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        for optimiser in groups:
            optimiser.step()
        self.seen.append(figures)

    def _report(self, step: int, share: float) -> None:
        means = [sum(column) / len(self.seen) for column in zip(*self.seen, strict=True)]
        self.seen.clear()
        names = ("naming", "probe", "pairs", "right")
        figures = "  ".join(f"{n} {m:.3f}" for n, m in zip(names, means, strict=False))
        seconds = time.monotonic() - self.started
        print(f"step {step}  {seconds:5.0f} s  {share:4.0%}  {figures}", flush=True)


def _course(stages: tuple[tuple[float, Course], ...], share: float) -> Course:
    """The course of the current stage."""
    for part, course in stages:
        share -= part
        if share < 0:
            return course
    return stages[-1][1]


def main() -> None:
    """Tokenizer, training, export."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--begin-with", type=Path, help="folder of weights to go on from")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--naming-s", type=float, default=480)
    parser.add_argument("--judging-s", type=float, default=2400)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    tokenizer = train_tokenizer(SEED)
    model = build_model(tokenizer)
    if options.begin_with:
        trained = Qwen3VLForConditionalGeneration.from_pretrained(options.begin_with)
        model.load_state_dict(trained.state_dict())
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    scorer = Scorer(model, Prompt(tokenizer))
    trainer = Trainer(scorer, tokenizer, options.out, options.learning_rate)
    trainer.run(NAMING, options.naming_s, judging=False)
    trainer.run(JUDGING, options.judging_s, judging=True)
    export(model, tokenizer, options.out, SPECIAL_TOKENS)


if __name__ == "__main__":
    main()
