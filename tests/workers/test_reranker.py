"""The engine in one's own process."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rerankfleet
from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.prompting.prompts import Side
from rerankfleet.workers.prompting.tokens import Visual
from tests.support.vl_reference import (
    INSTRUCTION,
    TOLERANCE,
)


@pytest.fixture(scope="module")
def reranker(model_folders):
    return rerankfleet.Reranker(str(model_folders["tied"]), limit=Limit(300))


def test_scores_come_in_the_order_of_the_documents(reranker, model_folders, model_card, passages):
    documents = passages[:9]
    want = model_card(model_folders["tied"], [("what?", d) for d in documents])
    request = {
        "query": "what?",
        "documents": [documents[0], {"text": documents[1]}, *documents[2:]],
    }
    assert reranker.margins(request) == pytest.approx(want, abs=1e-4)
    scores = reranker.process(request)
    assert scores == pytest.approx([1 / (1 + math.exp(-m)) for m in want], abs=1e-4)


def test_an_instruction_counts(reranker):
    request = {"query": "what?", "documents": ["a stone"]}
    same = reranker.margins(request | {"instruction": DEFAULT_INSTRUCTION})
    assert reranker.margins(request) == same
    assert reranker.margins(request | {"instruction": "Find the reverse"}) != same


def test_temperature_spreads_scores_but_not_margins(model_folders, reranker):
    request = {"query": "what?", "documents": ["a stone", "a river"]}
    cool = rerankfleet.Reranker(str(model_folders["tied"]), temperature=0.5)
    assert cool.margins(request) == pytest.approx(reranker.margins(request), abs=1e-4)
    for margin, score in zip(cool.margins(request), cool.process(request), strict=True):
        assert score == pytest.approx(1 / (1 + math.exp(-margin / 0.5)))


def test_a_profile_brings_its_values_and_an_option_wins(model_folders):
    request = {"query": "what?", "documents": ["a stone", "a river", "a bird"]}
    reranker = rerankfleet.Reranker(str(model_folders["tied"]), profile="academic", top_p=0.9)
    plain = rerankfleet.Reranker(str(model_folders["tied"]))

    instruction = PROFILES["academic"].instruction
    margins = reranker.margins(request)
    want = plain.margins(request | {"instruction": instruction})
    assert margins == pytest.approx(want, abs=1e-4)
    for margin, score in zip(margins, reranker.process(request), strict=True):
        assert score == pytest.approx(relevance_score(margin, 0.7, 0.9), abs=1e-6)
    with pytest.raises(UsageError, match="there is no profile 'shop'"):
        rerankfleet.Reranker("pocket-text", profile="shop")


def test_a_document_that_is_not_text_raises(reranker):
    with pytest.raises(ItemError, match="surrogate"):
        reranker.process({"query": "what?", "documents": ["fine", "\ud800"]})


@pytest.mark.parametrize(
    "malformed",
    [{}, {"query": " ", "documents": ["a"]}, {"query": "q", "documents": []}, {"query": "q"}],
)
def test_a_malformed_request_raises(reranker, malformed):
    with pytest.raises(ItemError):
        reranker.process(malformed)


def test_only_what_is_public_is_exported():
    assert rerankfleet.__all__ == ["Client", "Reranker", "__version__", "prepare_image"]
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = rerankfleet.Nothing


def test_threads_that_share_a_reranker_get_their_own_scores(reranker, passages):
    from concurrent.futures import ThreadPoolExecutor

    requests = [{"query": f"what {n}?", "documents": passages[n : n + 6]} for n in range(12)]
    alone = [reranker.margins(request) for request in requests]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(reranker.margins, requests))
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, abs=1e-4)


# ---- images -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def pil_images():
    from PIL import Image

    rng = np.random.default_rng(4)
    return [Image.fromarray(rng.integers(0, 256, (96, 128, 3), np.uint8)) for _ in range(3)]


@pytest.fixture(scope="session")
def make_reranker(vl_folder):
    from rerankfleet import Reranker

    return lambda **options: Reranker(str(vl_folder), engine={"device": "cpu"}, **options)


def test_pil_images_score_as_the_pixels_that_prepare_image_gives(
    make_reranker, pil_images, reference
):
    from rerankfleet import prepare_image

    one, two, _ = pil_images
    got = make_reranker(instruction=INSTRUCTION).margins(
        {"query": "a gate", "documents": [{"image": one}, {"text": "stone", "image": [two, one]}]}
    )
    visuals = [Visual(str(n), (prepare_image(image).pixels,)) for n, image in enumerate((one, two))]
    want = [
        reference.margin(Side("a gate"), Side(images=(visuals[0],))),
        reference.margin(Side("a gate"), Side("stone", (visuals[1], visuals[0]))),
    ]
    assert got == pytest.approx(want, abs=TOLERANCE)


def test_channels_are_the_margins_of_the_parts(make_reranker, pil_images):
    plain, explained = make_reranker(), make_reranker(explain=True)
    one, two, _ = pil_images
    query = {"text": "a gate", "image": one}
    request = {"query": query, "documents": [{"text": "stone", "image": two}, {"image": two}, "s"]}
    both, image, words = explained.results(request)

    assert [r.margin for r in (both, image, words)] == pytest.approx(
        plain.margins(request), abs=TOLERANCE
    )
    assert both.channels is not None
    for name, margin in both.channels.items():
        q, d = name.split("-")
        (want,) = plain.margins(
            {"query": {q: query[q]}, "documents": [{d: request["documents"][0][d]}]}
        )
        assert margin == pytest.approx(want, abs=TOLERANCE), name
    assert set(both.channels) == {"text-text", "text-image", "image-text", "image-image"}
    assert set(image.channels) == {"text-image", "image-image"}
    assert set(words.channels) == {"text-text", "image-text"}


def test_swapping_the_image_leaves_the_words_channel(make_reranker, pil_images):
    reranker = make_reranker(explain=True)
    one, two, three = pil_images
    documents = [{"text": "stone", "image": image} for image in (two, three)]
    a, b = reranker.results({"query": {"text": "gate", "image": one}, "documents": documents})
    assert a.channels["text-text"] == pytest.approx(b.channels["text-text"], abs=TOLERANCE)
    assert a.channels["image-image"] != pytest.approx(b.channels["image-image"], abs=TOLERANCE)
