"""Pairs per second with images: the engine and the authors' procedure, same weights.

    python benchmarks/vision.py             three sizes, two shapes of work, CPU; some minutes
    python benchmarks/vision.py --quick     a tiny model, small images: a smoke test
    python benchmarks/vision.py --device cuda --dtype bf16

    engine   tokenising, packing, vision tower and decoder in one process
    authors  transformers' unmodified model, a pair per forward pass, as Qwen3-VL-Reranker's script

Random weights, noise for images; decoding is left out on both sides. Two shapes of work:

    ranking  one text query, 20 images           an image is scored with one query
    catalog  10 text queries, 10 images          the tower encodes an image once for all of them

The language model reads an image once per query, so no engine can exceed the bound
(tower + pair) / (tower ÷ reuse + document's part of the pair), with the authors' own times.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CONTROL,
    cpu_count,
    peak_rss_bytes,
    surroundings,
    train_tokenizer,
)
from text import in_own_process

from rerankfleet.workers.batching.packing import Pack
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import TOKEN_PX, Visual

VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
SIZES = ((256, 192), (640, 480), (1024, 768))
QUERY = "a stone gate by the river, seen from the other side at noon"


@dataclass(frozen=True, slots=True)
class Work:
    """One shape of work."""

    name: str
    queries: int
    images: int
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Setting:
    """The settings shared by both sides."""

    model: str
    device: str
    dtype: str
    threads: int


def build_vl_model(folder: Path, quick: bool) -> None:
    """Save a Qwen3-VL reranker with random weights."""
    import torch
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    tokenizer = train_tokenizer(2_048 if quick else 16_384)
    tokenizer.add_special_tokens(list(VISION_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=CONTROL[0])
    start, end, image, video = fast.convert_tokens_to_ids(list(VISION_TOKENS))
    hidden, layers = (64, 2) if quick else (512, 8)
    text = {
        "vocab_size": len(fast),
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64 if not quick else 4,
        "num_key_value_heads": hidden // 128 if not quick else 2,
        "head_dim": 64 if not quick else 16,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5e6,
            "mrope_section": [12, 10, 10] if not quick else [4, 2, 2],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": layers,
        "hidden_size": hidden // 4 * 3,
        "intermediate_size": 3 * hidden,
        "num_heads": 6,
        "out_hidden_size": hidden,
        "deepstack_visual_indexes": [0, 1] if quick else [1, 3, 5],
        "num_position_embeddings": 2304,
    }
    if quick:
        vision |= {"hidden_size": 48, "num_heads": 3}
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )
    )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def images_of(work: Work) -> list[Visual]:
    """Images of noise, the same for both sides."""
    rng = np.random.default_rng(5)
    width, height = work.size
    return [
        Visual(f"{number}", (rng.integers(0, 256, (height, width, 3), np.uint8),))
        for number in range(work.images)
    ]


def requests_of(work: Work) -> list[PromptRequest]:
    """Each query with all images."""
    documents = [Side(images=(image,)) for image in images_of(work)]
    return [PromptRequest(Side(f"{QUERY}, number {n}"), documents) for n in range(work.queries)]


# ---- the engine ---------------------------------------------------------------------------------


def run_engine(work: Work, setting: Setting, limit: int) -> dict[str, Any]:
    """Seconds and margins; a catalog is scored image by image, like its shards."""
    import torch

    from rerankfleet.workers.engine import load_engine

    torch.set_num_threads(setting.threads)
    engine = load_engine(setting.model, device=setting.device, dtype=setting.dtype)
    warm = Work("warm", 1, 1, work.size)
    score(engine, requests_of(warm), limit)
    engine.free()
    requests = requests_of(work)
    start = time.perf_counter()
    margins = score(engine, requests, limit)
    return {
        "seconds": time.perf_counter() - start,
        "margins": margins,
        "peak_bytes": peak_rss_bytes(),
    }


def score(engine: Any, requests: Sequence[PromptRequest], limit: int) -> list[float]:
    """Margins by request, in packs of at most `limit` tokens, image by image."""
    encoded = engine.prompter.encode_all(requests, max_length=8192)
    pairs = [(q, d, p) for q, prompts in enumerate(encoded) for d, p in enumerate(prompts)]
    pairs.sort(key=lambda pair: pair[1])
    margins: dict[tuple[int, int], float] = {}
    while pairs:
        taken, tokens = [], 0
        while pairs and (not taken or tokens + len(pairs[0][2].document) <= limit):
            taken.append(pairs.pop(0))
            tokens += len(taken[-1][2].document)
        pack, order = Pack.of(p for _, _, p in taken)
        for at, margin in zip(order, engine.score(pack), strict=True):
            margins[taken[at][:2]] = margin
    return [margins[key] for key in sorted(margins)]


# ---- the authors' procedure ---------------------------------------------------------------------


def run_authors(work: Work, setting: Setting) -> dict[str, Any]:
    """Score one pair per forward pass; also the seconds of the tower and of the language model."""
    import torch
    from transformers import Qwen3VLForConditionalGeneration

    from rerankfleet.workers.engine.load import DTYPES
    from rerankfleet.workers.engine.reference import pixel_inputs
    from rerankfleet.workers.prompting.vl import VLPrompter

    torch.set_num_threads(setting.threads)
    prompter = VLPrompter(setting.model)
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        setting.model, dtype=DTYPES[setting.dtype]
    )
    model = model.to(setting.device).eval()
    encoded = prompter.encode_all(requests_of(work), max_length=8192)
    prompts = [p for inputs in encoded for p in inputs if isinstance(p, Prompt)]

    def inputs_of(prompt: Prompt) -> dict[str, Any]:
        tokens = torch.tensor([[*prompt.prefix, *prompt.query, *prompt.document]])
        inputs = {"input_ids": tokens, **pixel_inputs(prompt, tokens)}
        return {name: value.to(setting.device) for name, value in inputs.items()}

    @torch.inference_mode()
    def margin(inputs: dict[str, Any]) -> float:
        logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[0, -1].float()
        return float(logits[prompter.yes_id] - logits[prompter.no_id])

    margin(inputs_of(prompts[0]))
    tower_s = 0.0
    visual = model.model.visual
    forward = visual.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        nonlocal tower_s
        start = time.perf_counter()
        result = forward(*args, **kwargs)
        if setting.device == "cuda":
            torch.cuda.synchronize()
        tower_s += time.perf_counter() - start
        return result

    visual.forward = timed
    ready = [inputs_of(prompt) for prompt in prompts]
    start = time.perf_counter()
    margins = [margin(inputs) for inputs in ready]
    seconds = time.perf_counter() - start
    shared = len(prompts[0].prefix) + len(prompts[0].query)
    return {
        "seconds": seconds,
        "tower_s": tower_s / len(prompts),
        "pair_s": (seconds - tower_s) / len(prompts),
        "document_share": 1 - shared / (shared + len(prompts[0].document)),
        "margins": margins,
        "peak_bytes": peak_rss_bytes(),
    }


# ---- the run ------------------------------------------------------------------------------------


def measure(work: Work, setting: Setting, limit: int) -> dict[str, Any]:
    """Measure both sides on one shape of work."""
    ours = in_own_process(run_engine, work, setting, limit)
    theirs = in_own_process(run_authors, work, setting)
    pairs = work.queries * work.images
    tower_s, pair_s = theirs["tower_s"], theirs["pair_s"]
    least_s = tower_s / work.queries + pair_s * theirs["document_share"]
    bound, times = (tower_s + pair_s) / least_s, theirs["seconds"] / ours["seconds"]
    differences = np.abs(np.array(ours["margins"]) - theirs["margins"])
    return {
        "work": work.name,
        "size": list(work.size),
        "visual_tokens": work.size[0] * work.size[1] // TOKEN_PX**2,
        "queries": work.queries,
        "images": work.images,
        "engine_pairs_per_s": round(pairs / ours["seconds"], 3),
        "authors_pairs_per_s": round(pairs / theirs["seconds"], 3),
        "times": round(times, 2),
        "bound": round(bound, 2),
        "share_of_bound": round(times / bound, 2),
        "tower_s": round(tower_s, 4),
        "pair_s": round(pair_s, 4),
        "engine_peak_mb": round(ours["peak_bytes"] / 1e6),
        "authors_peak_mb": round(theirs["peak_bytes"] / 1e6),
        "largest_difference": float(differences.max()),
    }


def show(row: dict[str, Any]) -> None:
    """Print the figures of one shape of work."""
    print(
        f"{row['work']:8} {row['size'][0]:5}×{row['size'][1]:<5}"
        f"engine {row['engine_pairs_per_s']:7.2f}  authors {row['authors_pairs_per_s']:7.2f} "
        f"pairs/s  {row['times']:5.2f} ×  bound {row['bound']:5.2f} ×  "
        f"share {row['share_of_bound']:.2f}  margins within {row['largest_difference']:.1e}"
    )


def size_of(text: str) -> tuple[int, int]:
    """640x480 -> (640, 480), multiples of a visual token."""
    width, height = (int(side) for side in text.split("x"))
    if width % TOKEN_PX or height % TOKEN_PX:
        raise argparse.ArgumentTypeError(f"{text}: sides must be multiples of {TOKEN_PX}")
    return width, height


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model, small images")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--threads", type=int, default=cpu_count(), help="CPU threads (all)")
    parser.add_argument("--sizes", nargs="+", type=size_of, help="such as 640x480 (three sizes)")
    parser.add_argument("--limit", type=int, default=4096, help="tokens of a pack")
    options = parser.parse_args(arguments)
    before = surroundings()
    sizes = options.sizes or (((64, 96),) if options.quick else SIZES)
    shapes = {"catalog": (2, 2)} if options.quick else {"ranking": (1, 20), "catalog": (10, 10)}
    results = []
    with tempfile.TemporaryDirectory(prefix="rerank-bench-model-") as folder:
        in_own_process(build_vl_model, Path(folder), options.quick)
        setting = Setting(folder, options.device, options.dtype, options.threads)
        for size in sizes:
            for name, (queries, images) in shapes.items():
                results.append(measure(Work(name, queries, images, size), setting, options.limit))
                show(results[-1])
    print(json.dumps({"benchmark": "vision", "device": options.device, **before, "works": results}))


if __name__ == "__main__":
    main()
