"""Images over HTTP, against a real stack: uploads, data: URIs, quality, sub-scores."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.drawn import encoded, png
from tests.support.gateway import scrape, value
from tests.support.stack import Stack
from tests.support.wait import patient, wait_until

MODEL = "pocket-vl"
SIZE = (128, 96)


@pytest.fixture(scope="module")
def http(vl_stack: Stack) -> Iterator[httpx.Client]:
    """A client of a stack that serves the demonstration model for images."""
    with httpx.Client(base_url=vl_stack.gateway, timeout=patient(90)) as client:
        yield client


def ask(http: httpx.Client, documents: list[Any], **fields: Any) -> dict[str, Any]:
    body = {"model": MODEL, "query": "a red circle", "documents": documents} | fields
    answer = http.post("/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def margins(body: dict[str, Any]) -> dict[int, float]:
    return {result["index"]: result["margin"] for result in body["results"]}


def test_what_is_done_with_images_is_counted(http):
    # given an image that is scored, and one that is none
    good, bad = (
        {"image": f"data:image/png;base64,{base64.b64encode(data).decode()}"}
        for data in (png(77, SIZE), b"no image")
    )
    ask(http, [good, bad])
    # when the gateway is scraped, then within a heartbeat or two all of it is counted
    pixels_as_tokens = SIZE[0] * SIZE[1] / 32**2
    counted = [
        ("rerank_pairs_total", {"modality": "image", "outcome": "ok"}, 1),
        ("rerank_pairs_total", {"modality": "image", "outcome": "error"}, 1),
        ("rerank_images_rejected_total", {"reason": "unsupported_image"}, 1),
        ("rerank_tokens_total", {"kind": "image"}, pixels_as_tokens),
        *(
            ("rerank_stage_duration_seconds_count", {"stage": stage}, 1)
            for stage in ("fetch", "decode", "resize", "quality", "forward")
        ),
        *(
            ("rerank_cache_lookups_total", {"cache": cache, "result": "miss"}, 1)
            for cache in ("vision", "picture")
        ),
    ]
    for name, labels, least in counted:
        wait_until(lambda n=name, at=labels, v=least: known(http, n, at) >= v, 20, name)


def known(http: httpx.Client, name: str, labels: dict[str, str]) -> float:
    """The value of a metric; 0 while it has none with these labels."""
    try:
        return value(scrape(http), name, **labels)
    except ValueError:
        return 0.0


def test_the_model_says_that_it_supports_images(http):
    (model,) = http.get("/v1/models").json()["data"]
    assert (model["id"], model["state"], model["sees"]) == (MODEL, "ready", True)


def test_an_image_is_the_same_however_it_comes(http):
    # given an image as an upload, as a data: URI, as Jina's and as vLLM's clients send it
    data = png(1, SIZE)
    plain = base64.b64encode(data).decode()
    uri = http.post("/v1/uploads?name=a.png", content=data).json()["uri"]
    url = f"data:image/png;base64,{plain}"
    documents = [
        {"image": uri},
        {"image": url},
        {"image": plain},
        {"content": [{"type": "image_url", "image_url": {"url": url}}]},
        # and in base64 as other programs write it
        {"image": f"DATA:;charset=utf-8;base64,{base64.encodebytes(data).decode()}"},
        {"image": base64.urlsafe_b64encode(data).decode().rstrip("=")},
        {"image": "data:text/plain," + "".join(f"%{byte:02x}" for byte in data)},
    ]
    # when they are ranked
    body = ask(http, documents)
    # then they have the same score, and what was done is reported
    assert len(set(margins(body).values())) == 1
    assert body["errors"] == []
    for result in body["results"]:
        (facts,) = result["images"]
        assert facts["original"] == list(SIZE)
        assert result["tokens"] == facts["tokens"] > 0
    assert body["usage"]["images"] == len(documents)
    assert body["usage"]["image_tokens"] == len(documents) * facts["tokens"]
    # and the bytes of data: URIs come back only on request
    echoed = {result["index"]: result["document"] for result in body["results"]}
    assert echoed[0]["multi_modal"] == [{"type": "image_url", "image_url": {"url": uri}}]
    for index in (1, 2, 4, 5, 6):
        assert echoed[index] == {"text": None, "multi_modal": None}
    whole = ask(http, documents[1:2], return_documents=True)["results"][0]["document"]
    assert whole["image"] == url


def test_wrong_base64_costs_its_own_document_and_says_where(http):
    good = {"image": base64.b64encode(png(1, SIZE)).decode()}
    bad = {"image": "data:image/png;base64,iVBORw0KGgo!AAAA"}
    body = ask(http, [bad, good])
    assert list(margins(body)) == [1]
    (error,) = body["errors"]
    assert (error["code"], error["retryable"]) == ("invalid_image", False)
    assert "'!' at character 12" in error["message"]


def test_avif_and_heic_are_scored(http):
    heif = pytest.importorskip("pillow_heif")
    image, out = Image.open(io.BytesIO(png(1, SIZE))).convert("RGB"), io.BytesIO()
    heif.from_pillow(image).save(out, quality=95)
    uris = [
        http.post(f"/v1/uploads?name=a.{kind}", content=data).json()["uri"]
        for kind, data in (("heic", out.getvalue()), ("avif", encoded(image, "AVIF")))
    ]
    body = ask(http, [{"image": uri} for uri in uris])
    assert sorted(margins(body)) == [0, 1]


def test_a_poor_image_is_rejected_with_a_hint_or_scored_anyway(http):
    uris = [
        http.post("/v1/uploads?name=a.png", content=png(1, (512, 384), sigma=sigma)).json()["uri"]
        for sigma in (0.0, 8.0)
    ]
    documents = [{"id": f"d{n}", "image": uri} for n, uri in enumerate(uris)]

    body = ask(http, documents, image={"quality_threshold": 0.65, "quality_action": "reject"})
    assert list(margins(body)) == [0]
    (rejected,) = body["rejected"]
    assert (rejected["index"], rejected["code"]) == (1, "low_quality")
    assert rejected["hint"]
    assert (rejected["id"], rejected["retryable"]) == ("d1", False)
    assert 0 <= rejected["quality"] < 0.65

    anyway = ask(http, documents, image={"quality_action": "off"})
    assert sorted(margins(anyway)) == [0, 1]
    lowered = ask(http, documents, image={"quality_action": "downweight"})
    (result,) = [r for r in lowered["results"] if r["index"] == 1]
    assert result["margin"] < result["plain_margin"]


def test_sub_scores_and_options_of_images(http):
    uri = http.post("/v1/uploads?name=a.png", content=png(1, (200, 100))).json()["uri"]
    query = {"text": "a red circle", "image": uri}

    body = ask(http, [{"text": "a red circle", "image": uri}, "text"], query=query, explain=True)
    by_index = {result["index"]: result["explain"] for result in body["results"]}
    assert 0 <= by_index[0]["visual_match"] <= 1
    assert 0 <= by_index[0]["text_alignment"] <= 1
    assert 0 <= by_index[0]["cross_modal_consistency"] <= 1

    documents = [{"image": uri}]
    fit = {"preset": "art", "resize_mode": "fit"}
    padded = ask(http, documents, image={**fit, "pad_color": [0, 0, 0]})["results"][0]
    bare = ask(http, documents, image=fit)["results"][0]
    assert padded["images"][0]["used"] != bare["images"][0]["used"]
    assert padded["margin"] != bare["margin"]


def test_pixels_may_be_set(http):
    uri = http.post("/v1/uploads?name=a.png", content=png(1, (512, 384))).json()["uri"]

    def used(**options: Any) -> tuple[int, str]:
        body = ask(http, [{"image": uri}], image=options)
        width, height = body["results"][0]["images"][0]["used"]
        return width * height, body["provenance"]["pixels"]

    plain, plain_key = used()
    small, small_key = used(max_pixels=50_000)
    large, large_key = used(min_pixels=400_000)
    assert 40_000 < small <= 50_000 < plain == 512 * 384 < large
    assert large == pytest.approx(400_000, rel=0.1)
    assert len({plain_key, small_key, large_key}) == 3
    beyond = http.post("/v1/rerank", json={"model": MODEL, "query": "q", "documents": ["a"],
                                           "image": {"max_pixels": 10_000_000}})  # fmt: skip
    assert (beyond.status_code, beyond.json()["error"]["param"]) == (422, "image.max_pixels")


def test_videos_are_read_as_the_request_says(http):
    uris = [
        http.post("/v1/uploads?name=a.png", content=png(seed, (128, 96))).json()["uri"]
        for seed in range(4)
    ]
    documents = [{"frames": uris}, {"video": {"frames": uris, "fps": 2}}]

    plain = ask(http, documents)
    assert plain["errors"] == []
    assert len({round(m, 4) for m in margins(plain).values()}) == 1  # two frames a second
    slow = margins(ask(http, documents, video={"fps": 0.5}))
    assert slow[0] != pytest.approx(margins(plain)[0], abs=1e-6)
    assert slow[1] == pytest.approx(margins(plain)[1], abs=1e-4)  # it says so itself

    def tokens(**video: Any) -> int:
        body = ask(http, documents[:1], video=video)
        assert body["provenance"]["video"] != plain["provenance"]["video"]
        return body["results"][0]["tokens"]

    part = {"type": "video", "video": uris, "fps": 0.5}  # says so as vLLM's clients would
    assert margins(ask(http, [{"content": [part]}]))[0] == pytest.approx(slow[0], abs=1e-4)

    whole = plain["results"][0]["tokens"]
    assert tokens(max_frames=2) == whole // 2
    assert tokens(total_pixels=4 * 4096) < whole


def test_text_is_cut_and_images_are_not(http):
    uri = http.post("/v1/uploads?name=a.png", content=png(1, SIZE)).json()["uri"]
    documents = [{"text": text, "image": uri} for text in ("a b c d e f", "a b")]

    body = ask(http, documents, max_tokens_per_doc=2)

    by_index = {result["index"]: result for result in body["results"]}
    assert by_index[0]["margin"] == pytest.approx(by_index[1]["margin"], abs=1e-4)
    assert by_index[0]["tokens"] == by_index[1]["tokens"]
    assert by_index[0]["truncated_tokens"] == 4


def test_an_image_that_cannot_be_had_costs_only_itself(http):
    uri = http.post("/v1/uploads?name=a.png", content=b"no image at all").json()["uri"]
    gone = uri.replace("upload.png", "other.png")
    body = ask(http, [{"image": uri}, {"image": gone}, {"image": "https://other/a.png"}, "text"])
    assert list(margins(body)) == [3]
    codes = {error["index"]: error["code"] for error in body["errors"]}
    assert set(codes) == {0, 1, 2}
    assert (codes[1], codes[2]) == ("not_found", "refused_source")
    assert all(error["hint"] for error in body["errors"])
    assert not any(error["retryable"] for error in body["errors"])
