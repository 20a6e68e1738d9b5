"""Does decoding run ahead of the device? Compare a job's time with the longer of the two.

    python benchmarks/images_ahead.py             240 images of 12 megapixels; under a minute
    python benchmarks/images_ahead.py --quick     few small images: a smoke test

The real path from files to results: read, decoded in separate processes, prepared in runs, packed.
Only the device is simulated: it sleeps for each pair, so that all pairs together take as long as
decoding alone (or a share of it, --device-share), and uses no cores, like a GPU.

    decode    all images, nothing else: the mean of before and after the job
    device    all packs, nothing else, by construction
    job       both, as `rerank score` does it
    overlap   job / the longer of the two; 1 is perfect, 2 is one after the other

Prints a line, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import cpu_count, peak_rss_bytes, surroundings
from PIL import Image

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import ItemError
from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.settings import Settings
from rerankfleet.workers.batching.batcher import WAITING_TOKENS_WITH_IMAGES, Batcher
from rerankfleet.workers.batching.packing import Limit, Pack, Prices
from rerankfleet.workers.images.source import ImageSource
from rerankfleet.workers.pipeline import Scorer, in_runs
from rerankfleet.workers.prepare import images_of
from rerankfleet.workers.prompting.prompts import Prompt, PromptRequest, Side
from rerankfleet.workers.prompting.tokens import Tokens

PACK_TOKENS = 4096
QUERY = Tokens.of(range(20))


class Device:
    """Sleeps for `pair_s` seconds for each pair."""

    prices = Prices()

    def __init__(self, pair_s: float) -> None:
        self.pair_s = pair_s
        self.busy_s = 0.0

    def score(self, pack: Pack) -> list[float]:
        """A margin for each document of the pack."""
        time.sleep(self.pair_s * pack.pairs)
        self.busy_s += self.pair_s * pack.pairs
        return [0.0] * pack.pairs

    def free(self) -> None:
        """Does nothing: there is nothing to free."""


class Prompter:
    """Prompts as long as those of Qwen3-VL, without its tokeniser."""

    template = "none"
    default_instruction = ""
    yes_id = no_id = 0

    def encode_all(
        self,
        requests: Sequence[PromptRequest],
        *,
        max_length: int,
        max_tokens_per_doc: int | None = None,
        stop: threading.Event | None = None,
    ) -> list[list[Prompt | ItemError]]:
        """A prompt for each document, or its error."""
        return [[self._prompt(side) for side in request.documents] for request in requests]

    def _prompt(self, side: Side | ItemError) -> Prompt | ItemError:
        if isinstance(side, ItemError):
            return side
        tokens = sum(visual.tokens for visual in side.images)
        document = Tokens.of(range(tokens), [(0, visual) for visual in side.images])
        return Prompt(QUERY, QUERY, document)


def draw(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Save this many photo-like images: eight, repeated."""
    rng = np.random.default_rng(2)
    width, height = size
    drawn = []
    for _ in range(min(count, 8)):
        coarse = rng.integers(0, 256, (height // 64, width // 64, 3), np.uint8)
        image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
        noise = rng.normal(0, 6, (height, width, 1))
        pixels = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
        path = folder / "drawn.jpg"
        Image.fromarray(pixels).save(path, quality=88)
        drawn.append(path.read_bytes())
    for number in range(count):
        (folder / f"{number}.jpg").write_bytes(drawn[number % len(drawn)])


def slices_of(count: int, turn: int) -> Iterator[Slice]:
    """A catalog of one query: each image is a slice. The paths differ in each turn, since recent
    images are cached by path."""
    for number in range(count):
        document = Document(image=f"{'./' * turn}{number}.jpg")
        yield Slice(line=number + 1, query="q", documents=[document], indices=[0])


def decode_s(source: ImageSource, spec: JobSpec, count: int, turn: int) -> float:
    """Seconds to read and decode all images, none of them cached."""
    start = time.perf_counter()
    for run in in_runs(slices_of(count, turn)):
        loaded = source.load([w for piece in run for w in images_of(piece.documents[0], spec)])
        assert not any(isinstance(outcome, ItemError) for outcome in loaded.values())
    return time.perf_counter() - start


def job_s(source: ImageSource, spec: JobSpec, count: int, device: Device, turn: int) -> float:
    """Seconds of the whole job."""
    stop = threading.Event()
    batcher = Batcher(device, Limit(PACK_TOKENS), waiting_tokens_max=WAITING_TOKENS_WITH_IMAGES)
    scorer = Scorer(Prompter(), batcher, source)
    device.busy_s = 0.0  # the scorer has started
    start = time.perf_counter()
    scored = sum(
        len(outcome.results)
        for run in scorer.runs(slices_of(count, turn), spec, stop)
        for outcome in scorer.collect(run, spec.priority, stop)
    )
    seconds = time.perf_counter() - start
    batcher.close()
    assert scored == count
    return seconds


def measure(folder: Path, count: int, size: tuple[int, int], share: float) -> dict[str, Any]:
    """Decoding alone, then the job with a device that takes `share` times as long."""
    spec = make_spec(model="none", input=InputRef(uri="", size=0, tag=""))
    draw(folder, count, size)
    source = ImageSource.of(Settings(), folder)
    decode_s(source, spec, min(count, 16), turn=0)  # starts the processes
    before_s = decode_s(source, spec, count, turn=1)
    device = Device(before_s * share / count)
    whole_s = job_s(source, spec, count, device, turn=2)
    after_s = decode_s(source, spec, count, turn=3)
    alone_s = (before_s + after_s) / 2  # the speed of the machine may drift
    source.close()
    return {
        "images": count,
        "size": list(size),
        "decode_s": round(alone_s, 2),
        "device_s": round(device.busy_s, 2),
        "job_s": round(whole_s, 2),
        "overlap": round(whole_s / max(alone_s, device.busy_s), 3),
        "peak_mb": round(peak_rss_bytes() / 1e6),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few small images")
    parser.add_argument("--images", type=int, default=240, help="number of images (240)")
    parser.add_argument(
        "--device-share",
        type=float,
        default=1.0,
        help="time of the device over that of decoding (1)",
    )
    options = parser.parse_args(arguments)
    before = surroundings() | {"cores": cpu_count()}
    count, size = (16, (1024, 768)) if options.quick else (options.images, (4032, 3024))
    with tempfile.TemporaryDirectory(prefix="rerank-bench-images-") as folder:
        results = measure(Path(folder), count, size, options.device_share)
    print(
        f"{count} images {size[0]}×{size[1]}: decode {results['decode_s']} s, device "
        f"{results['device_s']} s, job {results['job_s']} s: {results['overlap']} × the longer"
    )
    print(json.dumps({"benchmark": "images_ahead", **before, **results}))


if __name__ == "__main__":
    main()
