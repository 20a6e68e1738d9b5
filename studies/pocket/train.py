"""Train `pocket-text`, a small Qwen3 reranker, from what Python itself ships.

    python -m rerankfleet.studies.pocket.train --out workers/models/pocket-text

Corpus, tokenizer, groups of one query and its documents, training, export in bfloat16, evaluation:
within 30 minutes on two free CPU cores, with fixed seeds. The model is transformers' unmodified
`Qwen3ForCausalLM`; all that is added while training are the linear probes of the auxiliary loss.
They predict at every document token whether it, and the two or three tokens that end with it, occur
in the query, and at the last position how much of the query the document holds. Without this loss
a prototype stayed at chance.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

from rerankfleet.studies.pocket.corpus import passages, split
from rerankfleet.studies.pocket.evaluate import evaluate
from rerankfleet.studies.pocket.pairs import Group, Sampler
from rerankfleet.studies.pocket.prompt import Prompt
from rerankfleet.studies.pocket.vocabulary import train_tokenizer
from rerankfleet.studies.tokeniser import export

SEED = 20
ENGLISH_TOKENS = 4096
# Documents of a step run in this many forward passes, sorted by length to reduce padding.
CHUNKS = 2
LEARNING_RATE, WARMUP_STEPS = 3e-3, 40
# The layers whose outputs the probes read, and the n-grams that they look for.
PROBED_LAYERS, NGRAMS = (2, 3), (1, 2, 3)
PROBE_POSITIVE_WEIGHT = 4.0
INITIAL_STD, EMBEDDING_STD = 0.06, 0.5
# Rotary pairs from this one on turn by less than a radian over a long passage.
FIRST_SLOW_PAIR, FAST_PAIRS_SCALE = 14, 0.3


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the training."""

    share: float
    groups: int
    documents: int
    words: int
    hard: bool
    foreign: float


# Many small steps first: attention heads that compare tokens emerge after a number of steps, hardly
# sooner with larger batches. Then long documents, hard negatives and other scripts.
STAGES = (
    Stage(share=0.26, groups=3, documents=3, words=25, hard=False, foreign=0.0),
    Stage(share=0.37, groups=3, documents=6, words=60, hard=True, foreign=0.2),
    Stage(share=0.37, groups=3, documents=8, words=180, hard=True, foreign=0.25),
)
Ngram = tuple[str, ...]


def build_model(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """The untrained model: the real architecture with every size cut down."""
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=INITIAL_STD,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|im_end|>"),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        _prepare_embeddings(model, [tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")])
        for layer in model.model.layers:
            _prepare_attention(layer.self_attn)
    return model


def _prepare_embeddings(model: Qwen3ForCausalLM, answers: list[int]) -> None:
    """Keep tokens recognisable above what layers add; yes and no, in the tied head, start small."""
    rows = model.model.embed_tokens.weight
    rows.mul_(EMBEDDING_STD / INITIAL_STD)
    rows[answers] *= 0.02 / EMBEDDING_STD


def _prepare_attention(attention: nn.Module) -> None:
    """Initialise the first head to attend to its own token at any distance: its keys equal its
    queries, and mostly use the rotary pairs that turn slowly."""
    size = attention.head_dim
    fast = [i for i in range(size) if i % (size // 2) < FIRST_SLOW_PAIR]
    attention.q_proj.weight[fast] *= FAST_PAIRS_SCALE
    attention.k_proj.weight[:size] = attention.q_proj.weight[:size]


@dataclass(frozen=True, slots=True)
class Batch:
    """Several groups as tensors: heads once per group, documents by chunk of similar length."""

    heads: Tensor
    head_mask: Tensor
    documents: int
    chunks: list[Chunk]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Documents with their closing turn, padded on the right."""

    groups: Tensor
    places: Tensor
    tokens: Tensor
    mask: Tensor
    lengths: Tensor
    document_mask: Tensor
    occurs: Tensor
    coverage: Tensor


@dataclass(frozen=True, slots=True)
class Row:
    """One document of a group with its labels: per n and token, and per n."""

    group: int
    place: int
    tokens: list[int]
    occurs: list[list[float]]
    coverage: list[float]


class Batcher:
    """Turns groups into batches, with the labels of the auxiliary loss."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.classes = _case_classes(prompt.plain)

    def batch(self, groups: list[Group]) -> Batch:
        """One training step's input."""
        heads = [self.prompt.head(group.query, group.instruction) for group in groups]
        rows = []
        for index, group in enumerate(groups):
            query_tokens = self.prompt.document(group.query)
            ngrams = [set(self._ngrams(query_tokens, n)) - {()} for n in NGRAMS]
            for place, text in enumerate(group.documents):
                tokens = self.prompt.document(text)
                rows.append(self._row(index, place, tokens, ngrams))
        rows.sort(key=lambda row: len(row.tokens))
        size = math.ceil(len(rows) / CHUNKS)
        chunks = [self._chunk(rows[start : start + size]) for start in range(0, len(rows), size)]
        head_rows, head_mask = _pad(heads)
        return Batch(head_rows, head_mask, len(groups[0].documents), chunks)

    def _row(self, group: int, place: int, tokens: list[int], ngrams: list[set[Ngram]]) -> Row:
        """A document's labels: for each n, which tokens end a wanted n-gram, and what share of
        the wanted ones it holds."""
        occurs, coverage = [], []
        for n, grams in zip(NGRAMS, ngrams, strict=True):
            present = self._ngrams(tokens, n)
            occurs.append([float(gram in grams) for gram in present])
            coverage.append(len(grams.intersection(present)) / max(1, len(grams)))
        return Row(group, place, tokens, occurs, coverage)

    def _ngrams(self, tokens: list[int], n: int) -> list[Ngram]:
        """The n-gram that ends at each token, () where this is a space or punctuation."""
        classes = [self.classes[token] for token in tokens]
        return [
            tuple(classes[max(0, i - n + 1) : i + 1]) if i + 1 >= n and classes[i] else ()
            for i in range(len(classes))
        ]

    def _chunk(self, rows: list[Row]) -> Chunk:
        tokens, mask = _pad([row.tokens + self.prompt.suffix for row in rows])
        occurs = torch.zeros(*tokens.shape, len(NGRAMS))
        document_mask = torch.zeros(tokens.shape, dtype=torch.bool)
        for line, row in enumerate(rows):
            occurs[line, : len(row.tokens)] = torch.tensor(row.occurs).T
            document_mask[line, : len(row.tokens)] = True
        return Chunk(
            groups=torch.tensor([row.group for row in rows]),
            places=torch.tensor([row.place for row in rows]),
            tokens=tokens,
            mask=mask,
            lengths=mask.sum(1),
            document_mask=document_mask,
            occurs=occurs,
            coverage=torch.tensor([row.coverage for row in rows]),
        )


def _case_classes(tokenizer: Tokenizer) -> list[str]:
    """For each token its text without case and leading space, "" for spaces and punctuation."""
    classes = []
    for index in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([index], skip_special_tokens=False).strip().lower()
        if "\ufffd" in text:
            text = f"bytes {index}"
        classes.append(text if any(c.isalnum() for c in text) else "")
    return classes


def _pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Rows as one tensor padded on the right, and the mask of real tokens."""
    width = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return tokens, mask


class Scorer(nn.Module):
    """The reranker, and the probes of its auxiliary loss."""

    def __init__(self, model: Qwen3ForCausalLM, prompt: Prompt) -> None:
        super().__init__()
        self.model = model
        self.yes, self.no = prompt.yes, prompt.no
        size = model.config.hidden_size
        self.probes = nn.ModuleList(nn.Linear(size, len(NGRAMS)) for _ in PROBED_LAYERS)
        self.coverage = nn.Linear(size, len(NGRAMS))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Margins (groups, documents), and the auxiliary loss."""
        cache = DynamicCache(config=self.model.config)
        self.model.model(batch.heads, attention_mask=batch.head_mask, past_key_values=cache)
        margins = torch.zeros(len(batch.heads), batch.documents)
        losses = []
        for chunk in batch.chunks:
            states = self._states(batch, chunk, cache)
            last = states[-1][torch.arange(len(chunk.lengths)), chunk.lengths - 1]
            head = self.model.lm_head.weight
            margin = (last.float() * (head[self.yes] - head[self.no]).float()).sum(1)
            margins = margins.index_put((chunk.groups, chunk.places), margin)
            covered = F.binary_cross_entropy_with_logits(self.coverage(last), chunk.coverage)
            losses.append((self._probe_loss(states, chunk) + covered) * len(chunk.lengths))
        return margins, torch.stack(losses).sum() / margins.numel()

    def _states(self, batch: Batch, chunk: Chunk, cache: DynamicCache) -> tuple[Tensor, ...]:
        """The documents' hidden states, each after its own query's head."""
        kept = [(layer.keys[chunk.groups], layer.values[chunk.groups]) for layer in cache.layers]
        head_mask = batch.head_mask[chunk.groups]
        places = head_mask.sum(1, keepdim=True) + torch.arange(chunk.tokens.shape[1])
        states: tuple[Tensor, ...] = self.model.model(
            chunk.tokens,
            attention_mask=torch.cat([head_mask, chunk.mask], 1),
            position_ids=places,
            past_key_values=DynamicCache(kept),
            output_hidden_states=True,
        ).hidden_states
        return states

    def _probe_loss(self, states: tuple[Tensor, ...], chunk: Chunk) -> Tensor:
        weight = torch.tensor(PROBE_POSITIVE_WEIGHT)
        answers = chunk.occurs[chunk.document_mask]
        total = torch.zeros(())
        for layer, probe in zip(PROBED_LAYERS, self.probes, strict=True):
            guess = probe(states[layer][chunk.document_mask]).float()
            total = total + F.binary_cross_entropy_with_logits(guess, answers, pos_weight=weight)
        return total / len(PROBED_LAYERS)


def rank_loss(margins: Tensor) -> Tensor:
    """Rank the answer first within its group, with margins on the right side of zero."""
    first = torch.zeros(len(margins), dtype=torch.long)
    labels = torch.zeros_like(margins)
    labels[:, 0] = 1.0
    weight = torch.tensor(max(1.0, margins.shape[1] / 3))
    sides = F.binary_cross_entropy_with_logits(margins, labels, pos_weight=weight)
    return F.cross_entropy(margins, first) + sides


def optimisers(scorer: Scorer) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, norms and probes."""
    layers = list(scorer.model.model.layers.parameters())
    matrices = [p for p in layers if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in scorer.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


class Trainer:
    """The training loop, over the stages."""

    def __init__(self, scorer: Scorer, batcher: Batcher, sampler: Sampler, steps: int) -> None:
        self.scorer, self.batcher, self.sampler = scorer, batcher, sampler
        self.steps, self.step = steps, 0
        self.optimisers = optimisers(scorer)
        self.started = time.monotonic()
        self.seen: list[tuple[float, float, float]] = []

    def run(self, stage: Stage) -> None:
        """Run all steps of one stage, with a line of progress every fifty."""
        for _ in range(round(stage.share * self.steps)):
            self.step += 1
            self._train(self._batch(stage))
            if self.step % 50 == 0:
                self._report(stage)

    def _batch(self, stage: Stage) -> Batch:
        return self.batcher.batch(
            [
                self.sampler.group(stage.documents, stage.words, stage.hard, stage.foreign)
                for _ in range(stage.groups)
            ]
        )

    def _train(self, batch: Batch) -> None:
        cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, self.step / self.steps))
        for optimiser in self.optimisers:
            rate = LEARNING_RATE * min(self.step / WARMUP_STEPS, 0.01 + 0.99 * cosine)
            optimiser.param_groups[0]["lr"] = rate
            optimiser.zero_grad()
        margins, probe_loss = self.scorer(batch)
        loss = rank_loss(margins)
        (loss + probe_loss).backward()
        nn.utils.clip_grad_norm_(self.scorer.parameters(), 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
        first = (margins.argmax(1) == 0).float().mean()
        self.seen.append((loss.item(), probe_loss.item(), first.item()))

    def _report(self, stage: Stage) -> None:
        columns = zip(*self.seen, strict=True)
        rank, probe, first = (sum(column) / len(self.seen) for column in columns)
        self.seen.clear()
        seconds = time.monotonic() - self.started
        print(
            f"step {self.step}/{self.steps}  {seconds:5.0f} s  rank loss {rank:.3f}  "
            f"probe loss {probe:.3f}  first of {stage.documents}: {first:.2f}",
            flush=True,
        )


def main() -> None:
    """Corpus, tokenizer, training, export, evaluation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(options.threads)
    train, held_out = split(passages())
    print(f"{len(train)} passages to train on, {len(held_out)} held out", flush=True)
    tokenizer = train_tokenizer((passage.text for passage in train), ENGLISH_TOKENS)
    prompt = Prompt.of(tokenizer)
    model = build_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    trainer = Trainer(Scorer(model, prompt), Batcher(prompt), Sampler(train, SEED), options.steps)
    for stage in STAGES:
        trainer.run(stage)
        export(model, tokenizer, options.out)
    evaluate(options.out, held_out)


if __name__ == "__main__":
    main()
