"""A run of the Rerank tab: progress, failures, retries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, WIDE, Browser
from tests.web.canned import CannedGateway, Reply, error, event, failed, rerank
from tests.web.steps import Files, Keep, fill_in, open_ranked

pytestmark = pytest.mark.browser


def test_a_full_queue_is_waited_for(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors.append("429")
    gateway.reply("POST /v1/rerank", error("the queue is full"), 429, Retry_After="2")
    browser.open(gateway.address)
    fill_in(browser)
    # when it is run
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then it says when it tries again
    browser.wait_text("#run-status", "retrying in")
    keep("busy")
    # and does
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.wait(".result")


def test_progress_is_staged(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given a request that stands behind four others, then is scored, each until the test goes on
    go_on: list[str] = []

    def stages(body: Any) -> Iterator[str]:
        for name, data in (("queued", {"ahead": 4}), ("scoring", {"done": 2, "total": 3})):
            yield event(name, data)
            wait_until(lambda name=name: name in go_on, WAIT_S, "the test goes on")
        yield event("answer", rerank()(body).body)

    gateway.answers["POST /v1/rerank"] = lambda body: Reply(stages(body))
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then it says so, stage by stage
    browser.wait_text("#run-status", "Queued: 4 shards ahead")
    assert browser.text(".steps .now") == "Queue"
    keep("queued")
    go_on.append("queued")
    browser.wait_text("#run-status", "Scoring: 2 of 3 pairs done")
    assert browser.text(".steps .past") == "Upload\nQueue"
    keep("scoring")
    go_on.append("scoring")
    browser.wait_text("#run-status", "Ranked in")


def test_a_run_is_broken_off(browser: Browser, gateway: CannedGateway) -> None:
    # given a request that is in the queue, of which the gateway tells once and again
    left: list[bool] = []

    def for_ever() -> Iterator[str]:
        try:
            while True:
                yield event("queued", {"ahead": 1})
        finally:
            left.append(True)

    gateway.answers["POST /v1/rerank"] = lambda _: Reply(for_ever())
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "1 shard ahead")
    # when it is cancelled, then the page has left the connection, and is ready
    browser.click("#cancel-run")
    wait_until(lambda: left, WAIT_S, "the connection is left")
    browser.wait_text("#run-status", "Ready to rank 3 candidates")


def test_what_goes_wrong_while_it_is_scored(browser: Browser, gateway: CannedGateway) -> None:
    # given a request that ends with an error, and one whose stream just stops
    late = {"status": 504, **error("no answer within 60 s", "ask again")}
    ends = [iter([event("scoring", {"done": 0, "total": 3})]), iter([event("error", late)])]
    gateway.answers["POST /v1/rerank"] = lambda _: Reply(ends.pop())
    browser.open(gateway.address)
    fill_in(browser)
    for message in ("no answer within 60 s", "Connection lost."):
        browser.press(Keys.CONTROL, Keys.ENTER)
        browser.wait_text("#run-status", message)


def test_a_request_that_fails_as_a_whole(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str], keep: Keep
) -> None:
    allowed_errors.append("503")
    refused = error("no worker serves pocket-vl", "start one")
    gateway.reply("POST /v1/rerank", refused, 503, X_Request_Id="r-17")
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "no worker serves pocket-vl")
    assert "start one" in browser.text("#run-status")
    assert "r-17" in browser.text("#run-status")
    keep("failed")


def test_partial_failure(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given an answer in which one failed
    lost = {
        "index": 2, "code": "fetch_failed", "message": "the host closed the connection",
        "hint": "try again, or upload the picture",
    }  # fmt: skip
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:2], errors=lambda whole: [lost]
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then it stands apart, with its hint
    browser.wait_text(".unscored.errors", "the host closed the connection")
    assert "upload the picture" in browser.text(".unscored.errors")
    assert len(browser.all(".result")) == 2
    keep("partial-failure")
    # when it is tried again and works, then it is ranked
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.click(".unscored.errors .again")
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3
    # and only that one was sent
    assert len(gateway.requests[-1][1]["documents"]) == 1 or gateway.requests[-1][0].startswith(
        "GET"
    )


def test_trying_again_before_a_full_queue_can_be_cancelled(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("429")
    # given an answer in which one failed, and a queue that is full since
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:2], errors=lambda whole: failed(2)
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    gateway.reply("POST /v1/rerank", error("the queue is full"), 429, Retry_After="60")
    # when that one is tried again, and cancelled while it waits
    browser.click(".unscored.errors .again")
    browser.wait_text("#run-status", "retrying in")
    browser.click("#cancel-run")
    # then nothing is in hand, and it stands where it was
    browser.wait_text("#run-status", "Ready to rank 3 candidates")
    assert "lost 2" in browser.text(".unscored.errors")
    # and can be tried once more
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.click(".unscored.errors .again")
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3


def test_two_tried_again_at_once_are_both_ranked(browser: Browser, gateway: CannedGateway) -> None:
    # given an answer in which two failed
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:1], errors=lambda whole: failed(1, 2)
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    # when both are tried again before either is answered
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.run("document.querySelectorAll('.unscored.errors .again').forEach(b => b.click())")
    # then both are in the ranking
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3


POOR = 0.41


def poor_query(body: Any) -> Reply:
    """As a worker answers whose query's picture, the upload u1, is poor."""
    whole = rerank()(body).body
    for document, result in zip(body["documents"], whole["results"], strict=True):
        if document == {"image": "upload:u1"}:
            result["images"][0] = result["images"][0] | {"quality": POOR}
    if body["query"] != {"image": "upload:u1"} or body["image"]["quality_action"] == "off":
        return Reply(whole)
    entry = {
        "index": None, "code": "low_quality_query", "quality": POOR,
        "message": "the query image's quality 0.41 is below 0.65",
        "hint": "give a sharper, well exposed picture, or lower --quality-threshold",
    }  # fmt: skip
    return Reply(whole | {"results": [], "rejected": [entry]})


def test_a_poor_query_is_told_before_and_scored_anyway(
    browser: Browser, gateway: CannedGateway, images: Files, keep: Keep
) -> None:
    # given a poor picture as query and two good candidates
    gateway.answers["POST /v1/rerank"] = poor_query
    browser.open(gateway.address)
    browser.drop("#query", images[6:7])
    browser.wait(".query-image .quality")
    browser.drop("#candidate-drop", images[:2])
    # then the settings say what it would do
    browser.wait_text("#threshold-effect", "The query image is below the threshold: nothing")
    # when it is run all the same
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the query stands apart, with its picture, and the way on beside it
    browser.wait_text(".unscored.rejected", "2 rejected")
    reasons = browser.texts(".unscored .why p")
    assert reasons[:2] == ["The query", "Quality 0.41 is below the threshold of 0.65"]
    assert browser.wait(".unscored img.thumb")
    assert browser.run("return document.querySelector('.unscored .why').clientWidth") > 300
    browser.resize((WIDE[0], 1200))
    browser.run("scrollTo(0, 0)")
    keep("poor-query")
    # when it is scored anyway, then all are
    browser.click(".unscored.rejected .again")
    browser.wait_gone(".unscored.rejected")
    assert len(browser.all(".result")) == 2
    assert browser.text(".result .name").count("scored anyway") == 2


def test_a_damaged_query_is_told_once(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    # given an answer in which every candidate failed in the same way, with a picture as query
    lost = [entry | {"message": "the query: it is truncated"} for entry in failed(0, 1)]
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: [], errors=lambda whole: lost[: len(whole["results"])]
    )
    browser.open(gateway.address)
    browser.drop("#query", images[:1])
    browser.wait(".query-image .facts")
    browser.drop("#candidate-drop", images[1:3])
    browser.wait(".card")
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then it is told once, of the query
    browser.wait_text(".unscored.errors", "2 failed")
    assert browser.texts(".unscored .name") == ["The query"]
    # when it is tried again and works, then all are ranked
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.click(".unscored.errors .again")
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 2
    assert "scored anyway" not in browser.text(".result")


def test_runs_are_told_apart_by_their_queries(browser: Browser, gateway: CannedGateway) -> None:
    open_ranked(browser, gateway)
    browser.write("#query-text", "a ring of gold with a very small stone")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait("#run")
    assert browser.texts("#run option") == [
        "Run 1 · a red heart · General · Crop · T 1.0",
        "Run 2 · a ring of gold with a ve… · General · Crop · T 1.0",
    ]
