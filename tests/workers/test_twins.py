"""Equal documents have one margin, however they are packed, cut into runs, or addressed."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import rerankfleet
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.formats.lines import slice_of
from rerankfleet.shared.formats.output import merge
from rerankfleet.shared.job_spec import Catalog, InputRef, make_spec
from rerankfleet.workers.batching.packing import Limit
from tests.support.drawn import png

TEXTS = [["a red bird", "a stone", "bread", "a river of words"][n % 4] for n in range(31)]
PICTURES = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some pictures, each in two files."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        for copy in ("one", "two"):
            (folder / f"{number}-{copy}.png").write_bytes(png(number))
    return folder


@pytest.fixture(scope="module")
def reranker(folder: Path) -> Iterator[rerankfleet.Reranker]:
    """A model that sees, in packs of a few pairs."""
    with rerankfleet.Reranker("pocket-vl", folder=folder, limit=Limit(400)) as reranker:
        yield reranker


def assert_tied(names: list[str], margins: list[float]) -> None:
    assert len(names) == len(margins)
    assert len(set(zip(names, margins, strict=True))) == len(set(names))


def test_equal_texts_have_one_margin(reranker):
    order = TEXTS.copy()
    random.Random(2).shuffle(order)
    assert_tied(order, reranker.margins({"query": "what flies?", "documents": order}))


@pytest.mark.parametrize("ways", [("one", "one"), ("one", "two")], ids=["one file", "two files"])
def test_equal_pictures_have_one_margin_in_whatever_runs_they_are(reranker, ways):
    """Given more pictures than a run has, each twice: under one name, or under two."""
    names = [(n, way) for way in ways for n in range(PICTURES)]
    documents = [{"image": f"{n}-{way}.png", "id": at} for at, (n, way) in enumerate(names)]
    margins = reranker.margins({"query": "a heart", "documents": documents})
    assert_tied([str(n) for n, _ in names], margins)


def test_equal_images_that_are_passed_have_one_margin(reranker, folder):
    numbers = [*range(PICTURES), *range(PICTURES)]
    images = [Image.open(folder / f"{n}-one.png").convert("RGB") for n in numbers]
    documents = [{"image": image, "text": "a drawing"} for image in images]
    margins = reranker.margins({"query": {"text": "a heart"}, "documents": documents})
    assert_tied(list(map(str, numbers)), margins)


def test_texts_that_are_cut_to_the_same_have_one_margin(reranker):
    with rerankfleet.Reranker("pocket-vl", limit=Limit(300), max_tokens_per_doc=3) as cutting:
        documents = [f"a b c {n}" for n in range(40)]
        assert len(set(cutting.margins({"query": "q", "documents": documents}))) == 1


def score(reranker: rerankfleet.Reranker, pieces: list[Slice], **options: object):
    """The outcomes of slices, and how many pairs were computed."""
    from rerankfleet.workers.batching.batcher import Batcher
    from rerankfleet.workers.pipeline import Scorer

    packs: list[int] = []
    batcher = Batcher(reranker.engine, Limit(400), on_pack=lambda seen: packs.append(seen.pairs))
    try:
        scorer = Scorer(reranker.engine.prompter, batcher, reranker._source)
        spec = make_spec(model="m", input=InputRef(uri="", size=0, tag=""), **options)
        outcomes, _ = scorer.score(pieces, spec, threading.Event())
    finally:
        batcher.close()
    return outcomes, sum(packs)


def test_what_is_equal_is_computed_once(reranker):
    piece = slice_of(1, {"query": "what flies?", "documents": TEXTS}, max_documents=100)
    (outcome,), pairs = score(reranker, [piece])
    assert pairs == len(set(TEXTS))
    assert [result.index for result in outcome.results] == list(range(len(TEXTS)))
    assert_tied(TEXTS, [result.margin for result in outcome.results])
    # and sub-scores with it
    (explained,), _ = score(reranker, [piece], explain=True)
    assert len({str(result.channels) for result in explained.results}) == len(set(TEXTS))


def test_shards_of_one_request_tie_when_they_are_joined(reranker):
    """Given a request in shards that are scored apart, in another order."""
    order = TEXTS.copy()
    random.Random(3).shuffle(order)
    piece = slice_of(1, {"query": "what flies?", "documents": order}, max_documents=100)
    cuts = [piece.cut(at, at + 7) for at in range(0, len(order), 7)]
    outcomes = [score(reranker, [cut])[0] for cut in reversed(cuts)]
    whole = merge([one for of_shard in reversed(outcomes) for one in of_shard])
    assert_tied(order, [result.margin for result in whole.results])


def test_images_of_a_ranked_catalog_are_known_by_what_is_seen_of_them(reranker):
    def of_line(line: int, uri: str) -> Slice:
        fields = {"query": "a heart", "documents": [{"image": uri}]}
        return slice_of(line, fields, max_documents=1)

    pieces = [of_line(1, "0-one.png"), of_line(2, "1-one.png"), of_line(3, "0-two.png")]
    queries = InputRef(uri="", size=0, tag="")
    catalog = Catalog(queries=queries, count=1)
    outcomes, _ = score(reranker, pieces, catalog=catalog, top_n=2)
    first, other, same = [outcome.results[0].twin for outcome in outcomes]
    assert first == same != other
    outcomes, _ = score(reranker, pieces, catalog=catalog)
    assert [outcome.results[0].twin for outcome in outcomes] == [None] * 3
