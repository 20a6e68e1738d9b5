"""Candidates and queries: uploads, files that cannot be read, hundreds of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.drawn import png
from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, Browser
from tests.web.canned import CannedGateway, Reply, rerank, uploads
from tests.web.steps import Files, fill_in

pytestmark = pytest.mark.browser


def expired(uris: set[str]) -> Callable[[Any], Reply]:
    """The answer of a worker whose storage has lost these uploads."""

    def answer(body: Any) -> Reply:
        whole = rerank()(body).body
        lost = [
            {"index": at, "code": "not_found", "message": "file:///x/upload.jpg does not exist"}
            for at, document in enumerate(body["documents"])
            if uris & {str(document.get("image")), str(body["query"])}
        ]
        at_fault = {entry["index"] for entry in lost}
        results = [result for result in whole["results"] if result["index"] not in at_fault]
        return Reply(whole | {"results": results, "errors": lost})

    return answer


def test_an_upload_that_expired_is_sent_again(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    # given assessed images that the storage has since lost
    browser.open(gateway.address)
    browser.write("#query-text", "a red heart")
    browser.drop("#candidate-drop", images[:3])
    wait_until(lambda: len(browser.all(".card .quality")) == 3, WAIT_S, "all are assessed")
    gone = {"upload:u1", "upload:u2", "upload:u3"}
    gateway.answers["POST /v1/rerank"] = expired(gone)
    # when they are ranked, then they are uploaded again without a message
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "Ranked in")
    assert len(browser.all(".result")) == 3
    assert not browser.all(".unscored")
    # and also when the loss is noticed while they are assessed again
    browser.run("const now = Date.now; Date.now = () => now() + 86_400_000")
    gateway.answers["POST /v1/rerank"] = expired({"upload:u4", "upload:u5", "upload:u6"})
    browser.choose("#preset", "product")
    wait_until(lambda: len(browser.all(".card .quality")) == 3, WAIT_S, "all are assessed again")
    assert "does not exist" not in browser.text(".cards")
    # but uploads that are lost again immediately are an error
    gateway.answers["POST /v1/rerank"] = expired({"upload:u7", "upload:u8", "upload:u9"})
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text(".unscored.errors", "does not exist")


def test_an_upload_that_is_not_answered_can_be_cancelled(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    # given an upload that is not answered until the test continues
    let_through: list[bool] = []

    def slowly(body: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test continues")
        return uploads()(body)

    gateway.answers["POST /v1/uploads"] = slowly
    browser.open(gateway.address)
    browser.write("#query-text", "a chair")
    browser.drop("#candidate-drop", images[:1])
    browser.wait(".card")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "Uploading")
    # when the run is cancelled, then it ends at once
    browser.click("#cancel-run")
    browser.wait_text("#run-status", "Ready to rank 1 candidate")
    # and the next run uses the same upload
    let_through.append(True)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")


def test_an_error_of_frames_disappears_with_the_frame_that_caused_it(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    # given a video that the worker refuses while it has three frames
    refused = [{"index": 0, "code": "frames_differ", "message": "frames of different shapes"}]

    def answer(body: Any) -> Reply:
        (document,) = body["documents"]
        if len(document["video"]["frames"]) < 3:
            return rerank()(body)
        return rerank(results=lambda whole: [], errors=lambda whole: refused)(body)

    gateway.answers["POST /v1/rerank"] = answer
    browser.open(gateway.address)
    browser.drop("#video-drop", images[:3])
    browser.wait_text(".with-video .facts", "frames of different shapes")
    browser.wait_gone_text("#threshold-effect", "not assessed")
    # when a frame is removed, then the error disappears
    browser.click(".frame-item:nth-child(3) button")
    browser.wait(".with-video .quality")
    browser.wait_gone_text(".with-video .facts", "different shapes")
    # and the card shows how many frames the worker uses
    browser.wait_text(".with-video .facts", "uses 1 of 2 frames")


def test_an_error_of_the_query_is_shown_beside_it(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    browser.open(gateway.address)
    # given a video file and then a broken image, dropped on the query
    browser.drop("#query", [("film.mp4", "video/mp4", b"film")])
    browser.wait_text(".query .unreadable", "Cannot read film.mp4. Video files")
    browser.drop("#query", [("broken.jpg", "image/jpeg", b"no image")])
    browser.wait_text(".query .unreadable", "Cannot read broken.jpg.")
    # when two images are dropped, then the first is used, and the page says so
    browser.drop("#query", images[:2])
    browser.wait_text(".query .unreadable", f"{images[0][0]} is used")
    assert len(browser.all(".query .image-card")) == 1
    assert not browser.all(".candidates .unreadable:not(:empty)")


def test_an_image_is_not_replaced_by_a_broken_one(
    browser: Browser, gateway: CannedGateway, images: Files, tmp_path: Path
) -> None:
    browser.open(gateway.address)
    browser.drop("#candidate-drop", images[:1])
    browser.wait(".card .quality")
    # when it is replaced by a file that is not an image
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    browser.all(".card input[type=file]")[0].send_keys(str(broken))
    # then the image stays, and the message names the file
    browser.wait_text(".candidates .unreadable", "Cannot read broken.jpg.")
    assert browser.all(f".card img[alt='{images[0][0]}']")


def test_files_that_cannot_be_read_are_named(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    browser.open(gateway.address)
    # given an image, a broken one and a video file, dropped together
    broken = ("broken.jpg", "image/jpeg", b"no image")
    browser.drop("#candidate-drop", [("pairs.csv", "text/csv", b"query,text")])
    browser.wait_text(".unreadable", "Cannot read pairs.csv. Tables and JSON Lines are")
    browser.drop("#video-drop", [images[0], broken, ("film.mp4", "video/mp4", b"film")])
    # then the good one is added, and the message names the others and what to do
    browser.wait(".with-video")
    browser.wait_text(".unreadable", "Cannot read film.mp4, broken.jpg. Video files")
    # and the message disappears once readable files are dropped
    browser.drop("#candidate-drop", images[1:2])
    browser.wait_gone(".unreadable")


def test_typed_text_and_the_chosen_run_survive_a_change_of_language_and_tab(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given two runs with the first one selected, and lines that are not added yet
    browser.open(gateway.address)
    fill_in(browser)
    for runs in (1, 2):
        browser.press(Keys.CONTROL, Keys.ENTER)
        wait_until(
            lambda n=runs: len(browser.all("#run option")) in (n, n - 1),
            WAIT_S,
            "the run is listed",
        )
        browser.wait_text("#run-status", "Ranked in")
    browser.choose("#run", "1")
    browser.write("#candidate-lines", "a moon")
    # when the language and the tab are changed
    browser.click("#language")
    browser.click("#tab-jobs")
    browser.click("#tab-rerank")
    # then both are kept
    browser.wait("#run")
    values = "return ['run', 'candidate-lines'].map((id) => document.getElementById(id).value)"
    assert browser.run(values) == ["1", "a moon"]


COUNT_URLS = """
window.urls = {live: 0, most: 0, made: 0};
const {createObjectURL, revokeObjectURL} = URL;
URL.createObjectURL = (blob) => {
  urls.live += 1;
  urls.made += 1;
  urls.most = Math.max(urls.most, urls.live);
  return createObjectURL(blob);
};
URL.revokeObjectURL = (url) => {
  urls.live -= 1;
  revokeObjectURL(url);
};
"""


def test_hundreds_of_images_are_read_a_few_at_a_time(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given a page whose object URLs are counted, and 300 small images, two of them equal
    browser.open(gateway.address)
    browser.run(COUNT_URLS)
    count = 300
    many = [(f"{n}.png", "image/png", png(n, (48, 32))) for n in range(count - 1)]
    # when they are dropped at once
    browser.drop("#candidate-drop", [*many, ("again.png", "image/png", many[0][2])])
    # then cards appear while other files are still being read, and finally all of them
    browser.wait_text(".candidates .count", "reading")
    browser.wait_text(".candidates .count", f"{count} candidates")
    browser.wait_gone_text(".candidates .count", "reading")
    same = browser.run("return document.querySelector('.duplicate').closest('.card').dataset.id")
    assert same == browser.all(".card")[-1].get_attribute("data-id")
    # and all are assessed
    browser.wait_text("#threshold-effect", f"0 of {count} would be rejected.")
    browser.wait_gone_text("#threshold-effect", "not assessed")
    # and only images near the viewport are drawn
    wait_until(lambda: browser.run("return urls.live") == 0, WAIT_S, "no URL is held")
    assert browser.wait(".card:first-child img").get_property("naturalWidth") == 48
    drawn = browser.run("return [...document.querySelectorAll('.card img[src]')].length")
    assert 0 < drawn < count
    # and never more than a few URLs were held at once
    assert browser.run("return urls.most") <= 3 + 8
    # when all are removed, then no URL is left
    browser.click(".candidates .panel-head button")
    wait_until(lambda: not browser.all(".card"), WAIT_S, "there are no cards")
    assert browser.run("return urls.live") == 0
