"""Qwen3-VL: margins are those of the authors' procedure, one pair at a time, for any content."""

from __future__ import annotations

import numpy as np
import pytest

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.batching.packing import cost, pack_cost
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.engine.vision import Tower
from rerankfleet.workers.prompting.prompts import Side
from tests.support.vl_reference import (
    CONTENTS,
    TOLERANCE,
    image,
    prompts_of,
    score,
)


@pytest.mark.parametrize("query", CONTENTS)
def test_any_content_has_the_margin_of_the_authors_procedure(query, vl_engine, reference):
    documents = list(CONTENTS.values())
    want = [reference.margin(CONTENTS[query], d) for d in documents]
    prompts = prompts_of(vl_engine, CONTENTS[query], documents)
    assert score(vl_engine, prompts) == pytest.approx(want, abs=TOLERANCE)
    vl_engine.free()
    alone = [score(vl_engine, [prompt])[0] for prompt in prompts]
    assert alone == pytest.approx(want, abs=TOLERANCE)
    assert max(want) - min(want) > 0.05  # the contents make a difference


def test_a_pack_mixes_queries_and_sizes(vl_engine, reference):
    pairs = [(q, d) for q in CONTENTS.values() for d in CONTENTS.values()][::3]
    prompts = [prompts_of(vl_engine, q, [d])[0] for q, d in pairs]
    want = [reference.margin(q, d) for q, d in pairs]
    assert score(vl_engine, prompts) == pytest.approx(want, abs=TOLERANCE)


def test_an_image_passes_the_tower_once(vl_engine, monkeypatch):
    passed = []
    features = Tower.features
    monkeypatch.setattr(
        Tower, "features", lambda self, visuals: passed.extend(visuals) or features(self, visuals)
    )
    vl_engine.free()
    images = [image(2, 2, seed) for seed in range(3)]
    queries = [Side(f"query {number}") for number in range(4)]
    for query in queries:  # a catalog: every query meets every image
        score(vl_engine, prompts_of(vl_engine, query, [Side(images=(i,)) for i in images]))
    assert sorted(v.key for v in passed) == sorted(i.key for i in images)


def test_a_query_with_images_is_read_once_for_all_its_documents(vl_engine):
    query = Side("like this", (image(4, 4),))
    first, second = prompts_of(vl_engine, query, [Side("one"), Side("two")])
    assert first.prefix == second.prefix
    assert len(first.query) == 0
    vl_engine.free()
    score(vl_engine, [first])
    cached_bytes = vl_engine.prefix_cache.bytes
    score(vl_engine, [second])
    assert vl_engine.prefix_cache.bytes == cached_bytes > 0


def test_the_feature_cache_is_bounded(vl_folder):
    engine = load_engine(str(vl_folder), device="cpu", seen_bytes=20_000)
    for seed in range(6):
        score(engine, prompts_of(engine, Side("q"), [Side(images=(image(3, 3, seed),))]))
        assert engine.feature_cache.bytes <= 20_000
    assert engine.feature_cache.bytes > 0


def test_the_self_test_covers_images_and_refuses_what_differs(vl_folder):
    engine = load_engine(str(vl_folder), device="cpu")
    assert engine.self_test().pairs == 9
    engine._tower._still_weight.mul_(1.5)
    engine.free()
    with pytest.raises(ModelRefused, match="hidden states differ"):
        engine.self_test()


def test_images_pass_the_tower_together_or_one_by_one(vl_engine, reference, monkeypatch):
    from rerankfleet.workers.engine import vision

    side = Side(images=(image(9, 7),))
    want = reference.margin(Side("q"), side)
    for patches in (100, 1 << 12):
        monkeypatch.setattr(vision, "PATCHES_AT_A_TIME", {"cpu": patches})
        vl_engine.free()
        got = score(vl_engine, prompts_of(vl_engine, Side("q"), [side]))
        assert got == pytest.approx([want], abs=TOLERANCE)


def test_half_types_stay_as_near_as_the_model_itself(vl_folder, vl_engine):
    half = load_engine(str(vl_folder), device="cpu", dtype="bf16")
    documents = list(CONTENTS.values())
    got, want = (
        score(engine, prompts_of(engine, CONTENTS["image"], documents))
        for engine in (half, vl_engine)
    )
    assert np.abs(np.array(got) - want).max() < 0.25  # a step of bf16 at its logits is 0.06
    half.self_test()


def test_an_image_costs_the_tower_until_its_features_are_cached(vl_engine):
    vl_engine.free()
    prompts = prompts_of(vl_engine, Side(images=(image(2, 2),)), [Side(images=(image(4, 6),))])
    before = pack_cost(prompts, vl_engine.prices)
    score(vl_engine, prompts)
    after = pack_cost(prompts, vl_engine.prices)
    tower = vl_engine.prices.tower(24) + vl_engine.prices.tower(4)
    assert before - after == pytest.approx(tower + cost(len(prompts[0].prefix), 0))
    vl_engine.free()
    assert pack_cost(prompts, vl_engine.prices) == before
    assert vl_engine.prices.tower(48) > 2 * vl_engine.prices.tower(24) > 0  # with attention
