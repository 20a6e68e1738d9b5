"""Images that a program holds, through a client, Redis, the storage and a worker."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rerankfleet import Reranker
from rerankfleet.producer.client import Client
from rerankfleet.producer.given_images import inline_uri
from rerankfleet.shared.errors import ItemError, KeyConflict, UsageError
from rerankfleet.shared.formats.lines import slice_of
from tests.support.drawn import drawn, encoded, png
from tests.support.raw_images import ADOBE_RGB, rgb_profile
from tests.support.stack import Stack
from tests.support.vl_reference import TOLERANCE
from tests.support.wait import patient

MODEL = "pocket-vl"


@pytest.fixture(scope="module")
def here() -> Iterator[Reranker]:
    with Reranker(MODEL, engine={"device": "cpu", "threads": 1}) as reranker:
        yield reranker


@pytest.fixture(scope="module")
def client(vl_stack: Stack) -> Client:
    return Client(vl_stack.settings)


def ask(client: Client, query: Any, documents: list[Any], **options: Any) -> dict[str, Any]:
    return client.rerank(query, documents, model=MODEL, timeout_s=patient(90), **options)


def margins(line: dict[str, Any]) -> list[float]:
    assert line["errors"] == []
    by_index = {result["index"]: result["margin"] for result in line["results"]}
    return [by_index[at] for at in range(len(by_index))]


def test_a_client_gives_the_scores_of_a_reranker_here(client, here, tmp_path):
    """Given images of every kind that a program may hold, a palette, and a colour profile."""
    (tmp_path / "a.png").write_bytes(png(5))
    photo = drawn(6)
    profiled = photo.copy()
    profiled.info["icc_profile"] = rgb_profile(ADOBE_RGB)
    images = [
        png(4),
        tmp_path / "a.png",
        io.BytesIO(encoded(drawn(8), "JPEG")),
        photo,
        profiled,
        photo.quantize(8),
        photo.convert("CMYK"),
        np.asarray(drawn(9)),
        np.asarray(drawn(9))[..., 0],
    ]
    documents: list[Any] = [{"image": image} for image in images]
    documents += [{"text": "a", "image": [images[0], images[3]]}, {"frames": images[3:5]}]
    query = {"text": "a red circle", "image": images[7]}

    there = margins(ask(client, query, documents))

    assert there == pytest.approx(
        here.margins({"query": query, "documents": documents}), abs=10 * TOLERANCE
    )
    assert len({round(margin, 3) for margin in there}) > 5


def test_a_large_image_goes_through_the_storage(client, here):
    """Given pixels that cannot be compressed into a request, and nothing of them is left there."""
    noise = np.random.default_rng(1).integers(0, 256, (1000, 1400, 3), np.uint8)
    documents = [{"image": noise}, {"image": png(4)}]
    uploads = client.objects.at("uploads") + "/"
    before = set(client.objects.listing(uploads))  # of other tests
    there = margins(ask(client, "noise", documents))
    want = here.margins({"query": "noise", "documents": documents})
    assert there == pytest.approx(want, abs=10 * TOLERANCE)
    assert set(client.objects.listing(uploads)) <= before


def test_a_bad_image_costs_itself_only_at_a_client_too(client, tmp_path):
    bad = {
        "unsupported_image": [np.zeros((4, 4)), b"<html>", object(), Image.new("F", (64, 64))],
        "not_found": [tmp_path / "none.png"],
        "invalid_image": [b"", png(1)[:400]],
        "invalid_document": [5, None],
    }
    wrong = [(code, image) for code, images in bad.items() for image in images]
    documents = [{"image": image} for _, image in wrong]
    line = ask(client, "a red circle", [*documents, {"image": png(1)}])
    codes = [error["code"] for error in sorted(line["errors"], key=lambda e: e["index"])]
    assert codes == [code for code, _ in wrong]
    assert [result["index"] for result in line["results"]] == [len(wrong)]


def test_a_bad_image_of_the_query_is_refused(client):
    with pytest.raises(ItemError, match="expected the bytes of a file"):
        ask(client, {"image": np.zeros((4, 4))}, ["a"])


def test_a_key_stands_for_the_pixels_of_its_request(client):
    """Given two palettes of the same indices, sent under one key."""
    variants = [drawn(1).convert("L").convert("P") for _ in range(2)]
    for seed, variant in enumerate(variants):
        colours = np.random.default_rng(seed).integers(0, 256, 768, np.uint8)
        variant.putpalette(colours.tobytes())

    def answer(variant: Image.Image) -> float:
        fields = {"query": "a", "documents": [{"image": variant}]}
        piece = slice_of(1, fields, max_documents=1, replace_image=inline_uri)
        reply = client.ask([piece], model=MODEL, key="palettes", timeout_s=patient(90))
        return reply.scored[0].margin

    assert answer(variants[0]) == answer(variants[0].copy())
    with pytest.raises(KeyConflict):
        answer(variants[1])


def test_queries_of_a_catalog_may_hold_images(client, here, tmp_path):
    listing = tmp_path / "listing"
    listing.write_text(json.dumps({"id": "one", "image": inline_uri(png(1))}) + "\n")
    queries = [{"id": "held", "image": drawn(3)}, {"id": "array", "image": np.asarray(drawn(4))}]

    def submit(*of: Any) -> str:
        return client.submit_catalog(listing, of, model=MODEL, key="held images")

    job_id = submit(*queries)
    assert submit(*queries) == job_id
    with pytest.raises(KeyConflict):
        submit({"id": "held", "image": drawn(5)}, queries[1])
    with pytest.raises(UsageError, match="query 1: an image is an array of float64"):
        submit({"image": np.zeros((4, 4))})

    status = client.wait(job_id, timeout_s=patient(60))
    assert status.progress.scored == 2
    got = {row["query_id"]: row["margin"] for row in client.results(job_id)}
    for query in queries:
        content = {"image": query["image"]}
        want = here.margins({"query": content, "documents": [{"image": png(1)}]})
        assert got[query["id"]] == pytest.approx(want[0], abs=10 * TOLERANCE)
