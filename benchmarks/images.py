"""Seconds from JPEG bytes to 1024 × 768 pixels, cropped and blurred: rerankfleet and plain Pillow.

    python benchmarks/images.py             photo-like images of 4096 × 3072 and 4032 × 3024
    python benchmarks/images.py --quick     small ones, once: a smoke test

    ours     workers/images: reduced-scale decoding, one resample, blur in integers; quality apart
    pillow   Image.open, convert, ImageOps.fit bicubic, GaussianBlur(0.3)

Both run in this process on one core, in turn; times are the median of the rounds. `share` is ours
over Pillow's. The difference is the mean absolute one in levels: of the whole, and of the blur
alone on noise. With 4096 × 3072 the reduced scale lands exactly on the target; with 4032 × 3024
it does not.

Then the same images with colour profiles, beside those without: the time, and by how many levels
the conversion to sRGB moves the pixels.

Prints a table, and as its last line all figures as JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import surroundings
from PIL import Image, ImageCms, ImageDraw, ImageFilter, ImageOps, features

from rerankfleet.shared.content.images import ImageSpec
from rerankfleet.workers.images.decode import decode
from rerankfleet.workers.images.quality import measure_quality
from rerankfleet.workers.images.resize import blur

TARGET = (1024, 768)
SIZES = ((4096, 3072), (4032, 3024))
PROFILED_SIZES = ((640, 480), (1600, 1200), (4032, 3024))
QUICK_SIZES = ((2048, 1536),)
JPEG_QUALITY = 90
SIGMA = 0.3
SEED = 7


def photo(width: int, height: int) -> bytes:
    """A JPEG like a photograph: discs over discs of all sizes, light and noise."""
    rng = np.random.default_rng(SEED)
    image = Image.new("RGB", (width, height), (120, 130, 140))
    draw = ImageDraw.Draw(image)
    for _ in range(3_000):
        radius = width * 0.25 * (rng.random() ** 4 + 0.004)
        x, y = rng.random(2) * (width, height)
        colour = np.clip(rng.normal(120, 50, 3), 5, 245).astype(int)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(colour.tolist()))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), np.float32)
    light = np.linspace(0.8, 1.1, width, dtype=np.float32)[None, :, None]
    noise = rng.normal(0, 3, (height, width, 1)).astype(np.float32)
    pixels = np.clip(soft * light + noise, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue()


def ours(data: bytes) -> np.ndarray:
    """What a decoding process does, including quality assessment and hashing."""
    return decode(data, ImageSpec()).pixels


def pillow(data: bytes) -> np.ndarray:
    """The same with plain Pillow."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    fitted = ImageOps.fit(image, TARGET, Image.Resampling.BICUBIC)
    return np.asarray(fitted.filter(ImageFilter.GaussianBlur(SIGMA)))


def in_turn(rounds: int, **sides: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each side, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for counts in [False] + [True] * rounds:
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            if counts:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference in levels."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean())


def measure(size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Measure both sides on one image."""
    data = photo(*size)
    pixels = ours(data)
    seconds = in_turn(rounds, ours=lambda: ours(data), pillow=lambda: pillow(data))
    return {
        "width": size[0],
        "height": size[1],
        "jpeg_bytes": len(data),
        "ours_ms": round(seconds["ours"] * 1e3, 2),
        "pillow_ms": round(seconds["pillow"] * 1e3, 2),
        "quality_ms": round(in_turn(rounds, q=lambda: measure_quality(pixels))["q"] * 1e3, 2),
        "share": round(seconds["ours"] / seconds["pillow"], 3),
        "difference": round(difference(pixels, pillow(data)), 3),
    }


def measure_blur(rounds: int) -> dict[str, float]:
    """Measure the blur alone, on noise of the target's size."""
    noise = np.random.default_rng(SEED).integers(0, 256, (*TARGET[::-1], 3), dtype=np.uint8)
    image = Image.fromarray(noise)

    def plain() -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(SIGMA))

    seconds = in_turn(rounds, ours=lambda: blur(noise), pillow=plain)
    return {
        "ours_ms": round(seconds["ours"] * 1e3, 2),
        "pillow_ms": round(seconds["pillow"] * 1e3, 2),
        "difference": round(difference(blur(noise), np.asarray(plain())), 3),
    }


def profiles() -> dict[str, bytes]:
    """Colour profiles by name; the one of inks is made up, with two steps for each ink."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.support.raw_images import ADOBE_RGB, DISPLAY_P3, cmyk_profile, rgb_profile

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rgb = {"sRGB": srgb, "Adobe RGB": rgb_profile(ADOBE_RGB), "Display P3": rgb_profile(DISPLAY_P3)}
    return {**rgb, "CMYK": cmyk_profile()}


def measure_profile(
    name: str, profile: bytes, size: tuple[int, int], rounds: int
) -> dict[str, Any]:
    """Measure a JPEG with a colour profile beside the same without it."""
    image = Image.open(io.BytesIO(photo(*size)))
    sides = {}
    for side, its_profile in (("with", profile), ("without", b"")):
        out = io.BytesIO()
        mode = "CMYK" if name == "CMYK" else "RGB"
        image.convert(mode).save(out, "JPEG", quality=JPEG_QUALITY, icc_profile=its_profile)
        sides[side] = out.getvalue()
    seconds = in_turn(rounds, **{side: partial(ours, data) for side, data in sides.items()})
    pixels = [ours(data).astype(int) for data in sides.values()]
    return {
        "profile": name,
        "width": size[0],
        "height": size[1],
        "with_ms": round(seconds["with"] * 1e3, 2),
        "without_ms": round(seconds["without"] * 1e3, 2),
        "difference": round(difference(*pixels), 2),
        "largest": int(np.abs(pixels[0] - pixels[1]).max()),
    }


def table_of_profiles(results: Sequence[dict[str, Any]]) -> None:
    """Print the figures of profiles as a table."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("profile", "image")
    for name in ("without ms", "with ms", "mean levels", "largest"):
        shown.add_column(name, justify="right")
    for r in results:
        figures = (r["without_ms"], r["with_ms"], r["difference"], r["largest"])
        image = f"{r['width']} x {r['height']}"
        shown.add_row(r["profile"], image, *(f"{f:,.2f}" for f in figures))
    Console(width=110, highlight=False).print(shown)


def table(results: Sequence[dict[str, Any]], blurred: dict[str, float]) -> None:
    """Print the figures as a table."""
    from rich.console import Console
    from rich.table import Table

    shown = Table("image")
    for name in ("pillow ms", "ours ms", "of it quality", "share", "difference"):
        shown.add_column(name, justify="right")
    for r in results:
        figures = (r["pillow_ms"], r["ours_ms"], r["quality_ms"], r["share"], r["difference"])
        shown.add_row(f"{r['width']} x {r['height']}", *(f"{f:,.2f}" for f in figures))
    share = blurred["ours_ms"] / blurred["pillow_ms"]
    figures = (blurred["pillow_ms"], blurred["ours_ms"], 0, share, blurred["difference"])
    shown.add_row("the blur alone, on noise", *(f"{f:,.2f}" if f else "–" for f in figures))
    Console(width=110, highlight=False).print(shown)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="how often each side runs (9)")
    parser.add_argument("--quick", action="store_true", help="one small image, one round")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 9)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    before = surroundings()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = [measure(size, options.rounds) for size in (QUICK_SIZES if options.quick else SIZES)]
    blurred = measure_blur(options.rounds)
    profiled = [
        measure_profile(name, profile, size, options.rounds)
        for size in (QUICK_SIZES if options.quick else PROFILED_SIZES)
        for name, profile in profiles().items()
    ]
    table(results, blurred)
    table_of_profiles(profiled)
    before["versions"] |= {name: version(name) for name in ("pillow", "numpy")}
    before["versions"]["libjpeg-turbo"] = features.version("libjpeg_turbo")
    config = {
        "target": TARGET,
        "options": ImageSpec().key(),
        "rounds": options.rounds,
        "jpeg_quality": JPEG_QUALITY,
        "seed": SEED,
        "quick": options.quick,
    }
    header = {"benchmark": "images", "device": "cpu", **before, "config": config}
    print(json.dumps({**header, "images": results, "blur": blurred, "profiles": profiled}))


if __name__ == "__main__":
    main()
