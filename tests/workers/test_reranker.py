"""The engine in one's own process."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image

import rerankfleet
from rerankfleet.shared.calibration import relevance_score
from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.prompting.prompts import Side
from rerankfleet.workers.prompting.tokens import Visual
from tests.support.drawn import drawn, png
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


def test_a_document_that_is_not_text_costs_itself_only(reranker):
    request = {"query": "what?", "documents": ["fine", {"id": "d", "text": "\ud800"}, "good"]}
    first, bad, last = reranker.results(request)
    assert (first.code, bad.margin, last.code) == (None, None, None)
    assert (bad.index, bad.id, bad.code) == (1, "d", "invalid_text")
    assert "surrogate" in bad.message
    want = reranker.margins({"query": "what?", "documents": ["fine", "good"]})
    margins = reranker.margins(request)
    assert margins[::2] == pytest.approx(want, abs=1e-4)
    assert margins[1] is None
    assert [score is None for score in reranker.process(request)] == [False, True, False]


def test_only_bad_documents_are_rows_too(reranker):
    rows = reranker.results({"query": "what?", "documents": ["\ud800", {"nothing": 1}, 5]})
    assert [(row.index, row.code) for row in rows] == [
        (0, "invalid_text"),
        (1, "invalid_document"),
        (2, "invalid_document"),
    ]


def test_an_image_for_a_model_of_text_costs_itself_only(reranker):
    request = {"query": "what?", "documents": ["a", {"image": b"x"}, {"image": np.zeros(3)}]}
    assert [row.code for row in reranker.results(request)] == [None] + 2 * ["pictures_not_read"]


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


# ---- what a program holds -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def vl_reranker(make_reranker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "stone.png").write_bytes(png(7))
    with make_reranker(folder=folder) as made:
        made.folder = folder
        yield made


def test_images_are_given_in_many_ways_and_score_alike(vl_reranker):
    path = vl_reranker.folder / "stone.png"
    image = Image.open(path)
    with path.open("rb") as stream:
        ways = ["stone.png", path, path.read_bytes(), stream, image, np.asarray(image), [stream]]
        ways.append(np.dstack([np.asarray(image), np.full((96, 128), 255, np.uint8)]))
        documents = [{"image": way} for way in ways]
        margins = vl_reranker.margins({"query": {"image": stream}, "documents": documents})
        frames = [{"frames": [way, way]} for way in ways[:-2]]
        frames += [{"video": {"frames": [way] * 2}} for way in ways[:-2]]
        moving = vl_reranker.margins({"query": "a stone", "documents": frames})
    assert margins == pytest.approx([margins[0]] * len(ways), abs=TOLERANCE)
    assert moving == pytest.approx([moving[0]] * len(frames), abs=TOLERANCE)


def test_one_bad_image_costs_itself_only(vl_reranker):
    """Whatever is wrong with it, and in whichever way it was given."""
    data = png(7)
    bad = {
        "invalid_image": [
            data[: len(data) // 2],
            io.BytesIO(b""),
            Image.open(io.BytesIO(data[:300])),
        ],
        "unsupported_image": [b"<html>", np.zeros((8, 8)), Image.new("F", (64, 64)), object()],
        "not_found": [vl_reranker.folder / "none", "none.png", "given/0"],
        "refused_source": ["/etc/hostname", "s3://bucket/key", "https://example.com/a"],
        "invalid_document": [5, None, {"a": 1}, [[1, 2]]],
    }
    wrong = [(code, image) for code, images in bad.items() for image in images]
    wrong = [("invalid_image", wrong[0][1]), *wrong]
    documents = [{"id": str(n), "image": image} for n, (_, image) in enumerate(wrong)]
    mixed = [each for document in documents for each in (document, {"image": data})]

    rows = vl_reranker.results({"query": "a stone", "documents": mixed})

    assert [row.index for row in rows] == list(range(len(mixed)))
    assert [row.code for row in rows[::2]] == [code for code, _ in wrong]
    assert [row.id for row in rows[::2]] == [str(n) for n in range(len(wrong))]
    addresses = [image if isinstance(image, str) else None for _, image in wrong]
    assert [row.image for row in rows[::2]] == addresses
    assert all(row.message for row in rows[::2])
    good = [row.margin for row in rows[1::2]]
    alone = vl_reranker.margins({"query": "a stone", "documents": [{"image": data}]})
    assert good == pytest.approx(alone * len(good), abs=TOLERANCE)


def test_a_bad_query_image_is_the_outcome_of_each_document(vl_reranker):
    rows = vl_reranker.results({"query": {"image": b"<html>"}, "documents": ["a", "b"]})
    assert [(row.index, row.code) for row in rows] == [
        (0, "unsupported_image"),
        (1, "unsupported_image"),
    ]
    assert rows[0].message.startswith("the query:")
    assert rows[0].image is None


def test_dead_links_never_end_a_request(vl_reranker):
    """However many of them there are: a request in memory cannot be resumed."""
    documents = [{"image": f"none-{number}.png"} for number in range(60)]
    rows = vl_reranker.results({"query": "a stone", "documents": [*documents, "a stone"]})
    assert [row.code for row in rows] == ["not_found"] * 60 + [None]


def test_a_rejected_image_is_a_row_as_well(make_reranker):
    blurred = drawn(1, sigma=6)
    with make_reranker(quality_action="reject") as strict:
        rows = strict.results({"query": "a", "documents": [{"image": blurred}, "a stone"]})
    assert [row.code for row in rows] == ["low_quality", None]


def test_an_image_is_never_taken_for_a_text(vl_reranker, pil_images):
    documents = [pil_images[0], {"text": pil_images[0]}, {"text": "a", "metadata": pil_images[0]}]
    rows = vl_reranker.results({"query": "a stone", "documents": documents})
    assert [row.code for row in rows] == ["invalid_document"] * 3
    with pytest.raises(ItemError):
        vl_reranker.results({"query": pil_images[0], "documents": ["a"]})


def test_a_path_is_never_taken_for_an_image_that_was_passed(vl_reranker, pil_images):
    documents = [{"image": pil_images[0]}, {"image": "given/0"}, {"image": "0"}]
    rows = vl_reranker.results({"query": "a stone", "documents": documents})
    assert [row.code for row in rows] == [None, "not_found", "not_found"]


def test_frames_have_their_order(vl_reranker, pil_images):
    """Given features that are kept, of steps of the same frames in another order."""
    one, two, _ = pil_images
    steps = [[one, two], [two, one], [one, one], [two, two]]
    documents = [{"frames": frames} for frames in steps]
    margins = vl_reranker.margins({"query": "a stone", "documents": documents})
    assert len({round(margin, 4) for margin in margins}) == len(steps)
    apart = [
        margin
        for document in documents[::-1]
        for margin in vl_reranker.margins({"query": "a stone", "documents": [document]})
    ]
    assert apart[::-1] == pytest.approx(margins, abs=TOLERANCE)


def test_colour_variants_of_a_palette_score_apart(vl_reranker):
    """Given images of the same indices, whose features and prefixes may be kept."""
    indices = drawn(1).convert("L")
    variants = []
    for seed in (1, 2):
        colours = np.random.default_rng(seed).integers(0, 256, 768, np.uint8)
        variants.append(indices.convert("P"))
        variants[-1].putpalette(colours.tobytes())
    plain = [variant.convert("RGB") for variant in variants]
    for side in ("query", "document"):
        margins = []
        for image in [*variants, *plain]:
            query = {"image": image} if side == "query" else "a stone"
            documents = [{"image": image} if side == "document" else "a stone"]
            margins += vl_reranker.margins({"query": query, "documents": documents})
        assert margins[:2] == pytest.approx(margins[2:], abs=TOLERANCE)
        assert abs(margins[0] - margins[1]) > 10 * TOLERANCE


def test_documents_are_any_run_of_contents_but_no_text(reranker):
    documents = ["a stone", "a river"]
    want = reranker.margins({"query": "what?", "documents": documents})
    for run in (tuple(documents), np.array(documents), iter(documents)):
        assert reranker.margins({"query": "what?", "documents": run}) == want
    for wrong in ("a stone", b"a stone", {"a stone": 1}, {"a stone"}):
        with pytest.raises(ItemError, match="documents: Input should be a list, got"):
            reranker.margins({"query": "what?", "documents": wrong})
    with pytest.raises(ItemError, match="documents: Field required"):
        reranker.margins({"query": "what?", "documents": None})
    with pytest.raises(ItemError, match="a request is of type str, expected a mapping"):
        reranker.margins("what?")
