"""Quality on a ladder of blurs and gains; and what must pass although much of it is white."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rerankfleet.workers.images.quality import measure_quality
from tests.support.drawn import draw_leaves

WIDTH, HEIGHT = 640, 480
PASSES = 0.65


def quality(image: Image.Image) -> float:
    measured = measure_quality(np.asarray(image.convert("RGB")))
    return min(measured.sharpness, measured.exposure)


def gained(image: Image.Image, gain: float) -> Image.Image:
    return Image.fromarray(np.clip(np.asarray(image, float) * gain, 0, 255).astype(np.uint8))


def falls(values: list[float]) -> bool:
    return all(later <= earlier + 0.01 for earlier, later in itertools.pairwise(values))


def test_a_sharp_image_is_good_and_each_blur_makes_it_worse(leaves):
    blurs = (0.5, 1, 1.5, 2, 3, 4, 6)
    qualities = [quality(leaves)] + [
        quality(leaves.filter(ImageFilter.GaussianBlur(s))) for s in blurs
    ]
    assert qualities[0] >= 0.8
    assert falls(qualities)
    assert qualities[blurs.index(3) + 1] < PASSES


def test_motion_in_one_direction_is_blur(leaves):
    pixels = np.asarray(leaves, float)
    moved = sum(np.roll(pixels, shift, 1) for shift in range(12)) / 12
    assert quality(Image.fromarray(moved.astype(np.uint8))) < PASSES


def test_each_gain_makes_it_worse(leaves):
    brighter = [quality(gained(leaves, gain)) for gain in (1, 1.3, 1.6, 2, 3)]
    darker = [quality(gained(leaves, gain)) for gain in (1, 0.7, 0.4, 0.2, 0.1)]
    for qualities in (brighter, darker):
        assert falls(qualities)
        assert qualities[0] >= 0.8
        assert qualities[-1] < PASSES


def product_on_white() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    shadow = Image.new("L", image.size, 0)
    ImageDraw.Draw(shadow).ellipse((180, 320, 480, 390), fill=90)
    image.paste((90, 90, 100), mask=shadow.filter(ImageFilter.GaussianBlur(20)))
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).rounded_rectangle((220, 90, 420, 370), 40, fill=255)
    image.paste(draw_leaves(WIDTH, HEIGHT, seed=1), mask=mask.filter(ImageFilter.GaussianBlur(0.5)))
    draw = ImageDraw.Draw(image)
    draw.rectangle((250, 200, 390, 260), fill="white")
    draw.text((258, 218), "SOAP 250 ml", fill="black", font=ImageFont.load_default(20))
    return image


def white_mug() -> Image.Image:
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    shade = np.clip(235 - 90 * np.abs((x - 280) / 150), 120, 240)
    inside = (abs(x - 320) < 130) & (abs(y - 240) < 120)
    pixels = np.where(inside, shade, 255).astype(np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(0.7))


def drawing(background: str = "white") -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), background)
    draw = ImageDraw.Draw(image)
    draw.ellipse((120, 90, 300, 280), fill=(255, 0, 0))
    draw.rectangle((380, 140, 580, 380), fill=(0, 0, 255))
    draw.polygon([(190, 430), (320, 310), (450, 450)], fill=(255, 255, 0))
    return image


def page() -> Image.Image:
    """Text without margins."""
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for top in range(2, HEIGHT, 22):
        draw.text(
            (2, top), "The quick brown fox jumps over " * 3, "black", ImageFont.load_default(16)
        )
    return image


def on_black() -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), "black")
    image.paste(draw_leaves(240, 180, discs=100), (200, 150))
    return image


@pytest.mark.parametrize(
    "image",
    [product_on_white(), white_mug(), drawing(), drawing("#00c8ff"), page(), on_black()],
    ids=["product", "mug", "drawing", "coloured", "page", "on black"],
)
def test_clean_images_of_other_kinds_pass(image):
    assert quality(image) >= PASSES


@pytest.mark.parametrize("colour", ["white", "black", "#808080"])
def test_an_empty_sheet_shows_nothing(colour):
    assert quality(Image.new("RGB", (WIDTH, HEIGHT), colour)) == 0


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (32, 928), (6400, 32)])
def test_any_size_can_be_judged(size):
    assert 0 <= quality(draw_leaves(*size, discs=20)) <= 1
