"""Runs on the Rerank tab: progress, failures, retries."""

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
    # then the page says when it will retry
    browser.wait_text("#run-status", "retrying in")
    keep("busy")
    # and it retries
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.wait(".result")


def test_progress_is_staged(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given a request that is queued behind four shards, then scored, each until the test continues
    go_on: list[str] = []

    def stages(body: Any) -> Iterator[str]:
        for name, data in (("queued", {"ahead": 4}), ("scoring", {"done": 2, "total": 3})):
            yield event(name, data)
            wait_until(lambda name=name: name in go_on, WAIT_S, "the test continues")
        yield event("answer", rerank()(body).body)

    gateway.answers["POST /v1/rerank"] = lambda body: Reply(stages(body))
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the page shows each stage
    browser.wait_text("#run-status", "Queued: 4 shards ahead")
    assert browser.text(".steps .now") == "Queue"
    keep("queued")
    go_on.append("queued")
    browser.wait_text("#run-status", "Scoring: 2 of 3 pairs done")
    assert browser.text(".steps .past") == "Upload\nQueue"
    keep("scoring")
    go_on.append("scoring")
    browser.wait_text("#run-status", "Ranked in")


def test_a_run_is_cancelled(browser: Browser, gateway: CannedGateway) -> None:
    # given a queued request with an endless stream of events
    closed: list[bool] = []

    def endless() -> Iterator[str]:
        try:
            while True:
                yield event("queued", {"ahead": 1})
        finally:
            closed.append(True)

    gateway.answers["POST /v1/rerank"] = lambda _: Reply(endless())
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "1 shard ahead")
    # when it is cancelled, then the page closes the connection, and is ready
    browser.click("#cancel-run")
    wait_until(lambda: closed, WAIT_S, "the connection is closed")
    browser.wait_text("#run-status", "Ready to rank 3 candidates")


def test_errors_while_a_request_is_scored(browser: Browser, gateway: CannedGateway) -> None:
    # given a request that ends with an error, and one whose stream breaks off
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
    # given an answer with one failure
    failure = {
        "index": 2, "code": "fetch_failed", "message": "the host closed the connection",
        "hint": "try again, or upload the image",
    }  # fmt: skip
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:2], errors=lambda whole: [failure]
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then it is listed separately, with its hint
    browser.wait_text(".unscored.errors", "the host closed the connection")
    assert "upload the image" in browser.text(".unscored.errors")
    assert len(browser.all(".result")) == 2
    keep("partial-failure")
    # when its retry succeeds, then it is ranked
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.click(".unscored.errors .again")
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3
    # and only that candidate was sent
    route, body = gateway.requests[-1]
    assert route.startswith("GET") or len(body["documents"]) == 1


def test_a_retry_that_waits_for_a_full_queue_can_be_cancelled(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("429")
    # given an answer with one failure, and a queue that has been full since
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:2], errors=lambda whole: failed(2)
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    gateway.reply("POST /v1/rerank", error("the queue is full"), 429, Retry_After="60")
    # when it is retried, and the retry is cancelled while it waits
    browser.click(".unscored.errors .again")
    browser.wait_text("#run-status", "retrying in")
    browser.click("#cancel-run")
    # then nothing is running, and the failure is still listed
    browser.wait_text("#run-status", "Ready to rank 3 candidates")
    assert "lost 2" in browser.text(".unscored.errors")
    # and can be retried
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.click(".unscored.errors .again")
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3


def test_two_retries_at_once_are_both_ranked(browser: Browser, gateway: CannedGateway) -> None:
    # given an answer with two failures
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:1], errors=lambda whole: failed(1, 2)
    )
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    # when both are retried before either is answered
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.run("document.querySelectorAll('.unscored.errors .again').forEach(b => b.click())")
    # then both are in the ranking
    browser.wait_gone(".unscored.errors")
    assert len(browser.all(".result")) == 3


POOR = 0.41


def poor_query(body: Any) -> Reply:
    """The answer of a worker where the upload u1 is of poor quality."""
    whole = rerank()(body).body
    for document, result in zip(body["documents"], whole["results"], strict=True):
        if document == {"image": "upload:u1"}:
            result["images"][0] = result["images"][0] | {"quality": POOR}
    if body["query"] != {"image": "upload:u1"} or body["image"]["quality_action"] == "off":
        return Reply(whole)
    entry = {
        "index": None, "code": "low_quality_query", "quality": POOR,
        "message": "the query image's quality 0.41 is below 0.65",
        "hint": "give a sharper, well exposed image, or lower --quality-threshold",
    }  # fmt: skip
    return Reply(whole | {"results": [], "rejected": [entry]})


def test_a_poor_query_is_announced_and_can_be_scored_anyway(
    browser: Browser, gateway: CannedGateway, images: Files, keep: Keep
) -> None:
    # given a poor image as query and two good candidates
    gateway.answers["POST /v1/rerank"] = poor_query
    browser.open(gateway.address)
    browser.drop("#query", images[6:7])
    browser.wait(".query-image .quality")
    browser.drop("#candidate-drop", images[:2])
    # then the settings say what will happen
    browser.wait_text("#threshold-effect", "The query image is below the threshold: nothing")
    # when it is run nevertheless
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the query is listed separately, with its image and a button to score it anyway
    browser.wait_text(".unscored.rejected", "2 rejected")
    reasons = browser.texts(".unscored .why p")
    assert reasons[:2] == ["The query", "Quality 0.41 is below the threshold of 0.65"]
    assert browser.wait(".unscored img.thumb")
    assert browser.run("return document.querySelector('.unscored .why').clientWidth") > 300
    browser.resize((WIDE[0], 1200))
    browser.run("scrollTo(0, 0)")
    keep("poor-query")
    # when it is scored anyway, then all candidates are ranked
    browser.click(".unscored.rejected .again")
    browser.wait_gone(".unscored.rejected")
    assert len(browser.all(".result")) == 2
    assert browser.text(".result .name").count("scored anyway") == 2


def test_a_damaged_query_is_reported_once(
    browser: Browser, gateway: CannedGateway, images: Files
) -> None:
    # given an image as query, and an answer in which every candidate failed because of it
    failures = [entry | {"message": "the query: it is truncated"} for entry in failed(0, 1)]
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: [], errors=lambda whole: failures[: len(whole["results"])]
    )
    browser.open(gateway.address)
    browser.drop("#query", images[:1])
    browser.wait(".query-image .facts")
    browser.drop("#candidate-drop", images[1:3])
    browser.wait(".card")
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the error is shown once, for the query
    browser.wait_text(".unscored.errors", "2 failed")
    assert browser.texts(".unscored .name") == ["The query"]
    # when the retry succeeds, then all are ranked
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
