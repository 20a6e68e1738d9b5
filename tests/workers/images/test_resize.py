"""Sizes by the rule: never stretched beyond rounding, within the budget, multiples of 32."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.content.images import (
    MAX_PIXELS,
    MIN_PIXELS,
    PRESETS,
    ImageSpec,
    target_within,
)
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.workers.images.resize import blur, plan_size, smart_resize

GENERAL = ImageSpec()
sides = st.integers(1, 12_000)


@pytest.mark.parametrize(
    ("source", "options", "size", "mode"),
    [
        ((4032, 3024), GENERAL, (1024, 768), "crop"),
        ((3024, 4032), GENERAL, (768, 1024), "crop"),  # a portrait uses the target turned
        ((4000, 3100), GENERAL, (1024, 768), "crop"),
        ((1000, 1000), GENERAL, (864, 864), "crop"),
        ((1920, 1080), GENERAL, (1152, 640), "crop"),
        ((3000, 1000), GENERAL, (1536, 512), "fit"),  # 16:9 would lose 41 %
        ((4032, 3024), ImageSpec(preset="art"), (800, 608), "crop"),
        ((4032, 3024), ImageSpec(preset="art-detail"), (1536, 1152), "crop"),  # 1800 tokens
        ((4032, 3024), ImageSpec(preset="art-detail", max_pixels=None), (1600, 1216), "crop"),
        ((4032, 3024), ImageSpec(target=(320, 240)), (320, 256), "crop"),
        ((96, 96), GENERAL, (96, 96), "crop"),  # not enlarged
        ((1, 1), GENERAL, (64, 64), "crop"),  # but to the authors' least size
        ((1920, 1080), ImageSpec(resize_mode="fit", pad_color=(0, 0, 0)), (1024, 768), "pad"),
        ((1080, 1920), ImageSpec(resize_mode="fit", pad_color=(0, 0, 0)), (768, 1024), "pad"),
        ((4032, 3024), ImageSpec(preset="reference"), (1536, 1152), "reference"),
    ],
)
def test_sizes_of_well_known_sources(source, options, size, mode):
    plan = plan_size(*source, options)
    assert (plan.size, plan.mode) == (size, mode)


def test_a_crop_is_around_the_centre_and_its_loss_is_known():
    plan = plan_size(640, 400, GENERAL)  # 8:5: 16:9 loses 10 %, 4:3 would lose 17 %
    assert plan.box == (0, 20, 640, 380)
    assert plan.cropped_share == pytest.approx(0.1)
    assert plan_size(640, 400, ImageSpec(max_crop=0.05)).mode == "fit"


def test_padding_keeps_the_shape_of_the_image():
    plan = plan_size(1920, 1080, ImageSpec(resize_mode="fit", pad_color=(9, 9, 9)))
    assert plan.inner == (1024, 576)


@given(sides, sides, st.sampled_from(sorted(PRESETS)), st.sampled_from(["crop", "fit"]))
def test_any_source_gets_a_size_within_the_rules(width, height, preset, mode):
    options = ImageSpec(preset=preset) if preset == "reference" else None
    options = options or ImageSpec(preset=preset, resize_mode=mode)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(ItemError, match="200 times"):
            plan_size(width, height, options)
        return

    plan = plan_size(width, height, options)

    wide, high = plan.size
    left, top, right, bottom = plan.box
    assert wide % 32 == high % 32 == 0
    assert min(wide, high) >= 32
    assert wide * high // 1024 <= options.tokens_max or wide * high <= MIN_PIXELS
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert plan.cropped_share <= options.max_crop
    # stretched by less than rounding each side by 32 pixels can do
    if min(wide, high) > 32:
        stretch = abs(math.log(wide / high) - math.log((right - left) / (bottom - top)))
        assert stretch <= math.log(wide / (wide - 32)) + math.log(high / (high - 32))


@given(sides, sides, st.integers(4096, 1_000_000), st.sampled_from(["general", "reference"]))
def test_an_image_has_the_requested_pixels(width, height, pixels, preset):
    if max(width, height) > 200 * min(width, height):
        return
    mode = "fit" if preset == "general" else "crop"
    target = target_within(preset, pixels)
    options = ImageSpec(preset=preset, resize_mode=mode, target=target, max_pixels=pixels)
    wide, high = plan_size(width, height, options).size
    assert wide * high <= pixels or min(wide, high) == 32
    if max(width, height) < 4 * min(width, height) and width * height > 2 * pixels > 200_000:
        assert wide * high > 0.7 * pixels  # nothing is wasted


def test_small_images_are_enlarged_to_the_least():
    options = ImageSpec(min_pixels=200_000)
    assert math.prod(plan_size(100, 100, options).size) == pytest.approx(200_000, rel=0.1)
    assert plan_size(600, 450, options).size == plan_size(600, 450, ImageSpec()).size


@given(sides, sides)
def test_smart_resize_keeps_the_budget_of_the_authors(width, height):
    if max(width, height) > 200 * min(width, height):
        return
    wide, high = smart_resize(width, height)
    assert MIN_PIXELS <= wide * high <= MAX_PIXELS


@pytest.mark.parametrize(
    "wrong",
    [
        {"preset": "huge"},
        {"resize_mode": "stretch"},
        {"interpolation": "magic"},
        {"max_crop": 1.5},
        {"max_pixels": 10},
        {"min_pixels": 10},
        {"min_pixels": 1_000_000},
        {"max_pixels": 100_000, "min_pixels": 100_001},
        {"target": (10, 10)},
        {"pad_color": (0, 0, 300)},
        {"preset": "reference", "target": (640, 480)},
        {"preset": "reference", "interpolation": "nearest"},
    ],
)
def test_wrong_options_are_refused_in_clear_words(wrong):
    with pytest.raises(UsageError, match=list(wrong)[-1]):
        ImageSpec(**wrong)


def test_options_that_give_other_pixels_have_another_key():
    options = [
        ImageSpec(),
        ImageSpec(preset="art"),
        ImageSpec(preset="reference"),
        ImageSpec(resize_mode="fit"),
        ImageSpec(resize_mode="fit", pad_color=(0, 0, 0)),
        ImageSpec(max_crop=0.3),
        ImageSpec(blur=False),
        ImageSpec(interpolation="nearest"),
        ImageSpec(max_pixels=None),
        ImageSpec(target=(640, 480)),
    ]
    assert len({option.key() for option in options}) == len(options)
    assert ImageSpec().key() == "general:1024x768:crop:0.15:bicubic:blur:1843200"


@pytest.mark.parametrize("shape", [(96, 160), (32, 32), (1, 1), (33, 5)])
def test_the_blur_is_within_a_level_of_the_exact_one(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)

    exact = np.pad(pixels.astype(float), ((1, 1), (1, 1), (0, 0)), "edge")
    exact = 0.043 * exact[:-2] + 0.914 * exact[1:-1] + 0.043 * exact[2:]
    exact = 0.043 * exact[:, :-2] + 0.914 * exact[:, 1:-1] + 0.043 * exact[:, 2:]

    assert np.abs(blur(pixels) - exact).max() <= 1
    white = np.full((*shape, 3), 255, np.uint8)
    assert (blur(white) == 255).all()
