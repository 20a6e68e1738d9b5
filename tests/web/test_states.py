"""Each state of the page, before a gateway that says what it is told to; and how it is built."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.metrics import STAGES
from tests.support.drawn import png
from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, WIDE, Browser
from tests.web.canned import (
    MODEL,
    OTHER_WORKER,
    PAGE,
    WORKER,
    CannedGateway,
    Reply,
    error,
    event,
    fleet_of,
    rerank,
    uploads,
)

browsed = pytest.mark.browser
Keep = Callable[[str], None]
Files = list[tuple[str, str, bytes]]


def fill_in(browser: Browser, *lines: str) -> None:
    """A query and candidates of text."""
    browser.write("#query-text", "a red heart")
    if not browser.all("#candidate-lines:not([hidden] *)"):
        browser.click("#add-text")
    browser.write("#candidate-lines", "\n".join(lines or ("a heart", "a ring", "a star")))
    browser.click("#add-lines")
    browser.wait(".card")


def open_ranked(browser: Browser, gateway: CannedGateway) -> None:
    """The page with a run that was ranked."""
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")


# ---- states -------------------------------------------------------------------------------------


@browsed
def test_empty_with_examples(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    browser.open(gateway.address)
    browser.wait(".offer img")
    keep("empty")
    # then it says what is missing, and cannot be run
    assert "Enter a query first." in browser.text("#run-status")
    assert not browser.wait("#run-button").is_enabled()


@browsed
def test_no_worker(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given a fleet of nobody
    gateway.say("GET /v1/models", {"data": []})
    gateway.say("GET /v1/fleet", fleet_of())
    browser.open(gateway.address)
    # then all tabs say what to run
    browser.wait_text("[data-state=no-worker]", "rerank worker --model")
    keep("no-worker")
    browser.click("#tab-fleet")
    browser.wait_text("[data-state=no-worker]", "rerank worker --model")
    # when one comes, then the notice goes
    gateway.say("GET /v1/models", {"data": [MODEL]})
    browser.click("#tab-rerank")
    browser.wait_gone("[data-state=no-worker]")


@browsed
def test_a_model_that_loads(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    gateway.say("GET /v1/models", {"data": [{**MODEL, "state": "loading"}]})
    browser.open(gateway.address)
    browser.wait_text("[data-state=loading]", "pocket-vl is loading")
    browser.wait(".fleet-chip .lamp.warn")
    keep("loading")


@browsed
def test_a_model_that_reads_text_only(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    # given two models, of which the chosen one cannot see
    blind = {**MODEL, "id": "pocket-text", "sees": False}
    gateway.say("GET /v1/models", {"data": [blind, MODEL]})
    browser.open(gateway.address)
    browser.choose("#model", "pocket-text")
    browser.drop("#candidate-drop", pictures[:1])
    # when the one that sees is taken instead
    browser.click("[data-state=text-only] button")
    # then all is well
    browser.wait_gone("[data-state=text-only]")
    browser.wait(".card .quality")


@browsed
def test_a_full_queue_is_waited_for(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors.append("429")
    gateway.say("POST /v1/rerank", error("the queue is full"), 429, Retry_After="2")
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


@browsed
def test_progress_is_staged(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given a request that stands behind four others, then is scored, each until the test goes on
    go_on: list[str] = []

    def stages(asked: Any) -> Iterator[str]:
        for name, data in (("queued", {"ahead": 4}), ("scoring", {"done": 2, "total": 3})):
            yield event(name, data)
            wait_until(lambda name=name: name in go_on, WAIT_S, "the test goes on")
        yield event("answer", rerank()(asked).body)

    gateway.answers["POST /v1/rerank"] = lambda asked: Reply(stages(asked))
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


@browsed
def test_a_run_is_broken_off(browser: Browser, gateway: CannedGateway) -> None:
    # given a request that is in the queue, of which the gateway tells once and again
    left: list[bool] = []

    def for_ever() -> Iterator[str]:
        try:
            while True:
                yield event("queued", {"ahead": 1})
        finally:
            left.append(True)

    gateway.answers["POST /v1/rerank"] = lambda asked: Reply(for_ever())
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "1 shard ahead")
    # when it is cancelled, then the page has left the connection, and is ready
    browser.click("#cancel-run")
    wait_until(lambda: left, WAIT_S, "the connection is left")
    browser.wait_text("#run-status", "Ready to rank 3 candidates")


@browsed
def test_what_goes_wrong_while_it_is_scored(browser: Browser, gateway: CannedGateway) -> None:
    # given a request that ends with an error, and one whose stream just stops
    late = {"status": 504, **error("no answer within 60 s", "ask again")}
    ends = [iter([event("scoring", {"done": 0, "total": 3})]), iter([event("error", late)])]
    gateway.answers["POST /v1/rerank"] = lambda asked: Reply(ends.pop())
    browser.open(gateway.address)
    fill_in(browser)
    for said in ("no answer within 60 s", "Connection lost."):
        browser.press(Keys.CONTROL, Keys.ENTER)
        browser.wait_text("#run-status", said)


@browsed
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
    assert len(gateway.asked[-1][1]["documents"]) == 1 or gateway.asked[-1][0].startswith("GET")


def failed(*indexes: int) -> list[dict[str, Any]]:
    """Entries of documents without a score."""
    return [{"index": at, "code": "fetch_failed", "message": f"lost {at}"} for at in indexes]


@browsed
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
    gateway.say("POST /v1/rerank", error("the queue is full"), 429, Retry_After="60")
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


@browsed
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


def poor_query(asked: Any) -> Reply:
    """As a worker answers whose query's picture, the upload u1, is poor."""
    whole = rerank()(asked).body
    for document, result in zip(asked["documents"], whole["results"], strict=True):
        if document == {"image": "upload:u1"}:
            result["images"][0] = result["images"][0] | {"quality": POOR}
    if asked["query"] != {"image": "upload:u1"} or asked["image"]["quality_action"] == "off":
        return Reply(whole)
    entry = {
        "index": None, "code": "low_quality_query", "quality": POOR,
        "message": "the query image's quality 0.41 is below 0.65",
        "hint": "give a sharper, well exposed picture, or lower --quality-threshold",
    }  # fmt: skip
    return Reply(whole | {"results": [], "rejected": [entry]})


@browsed
def test_a_poor_query_is_told_before_and_scored_anyway(
    browser: Browser, gateway: CannedGateway, pictures: Files, keep: Keep
) -> None:
    # given a poor picture as query and two good candidates
    gateway.answers["POST /v1/rerank"] = poor_query
    browser.open(gateway.address)
    browser.drop("#query", pictures[6:7])
    browser.wait(".query-image .quality")
    browser.drop("#candidate-drop", pictures[:2])
    # then the settings say what it would do
    browser.wait_text("#threshold-effect", "The query image is below the threshold: nothing")
    # when it is run all the same
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the query stands apart, with its picture, and the way on beside it
    browser.wait_text(".unscored.rejected", "2 rejected")
    told = browser.texts(".unscored .why p")
    assert told[:2] == ["The query", "Quality 0.41 is below the threshold of 0.65"]
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


@browsed
def test_a_damaged_query_is_told_once(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    # given an answer in which every candidate failed in the same way, with a picture as query
    lost = [entry | {"message": "the query: it is truncated"} for entry in failed(0, 1)]
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: [], errors=lambda whole: lost[: len(whole["results"])]
    )
    browser.open(gateway.address)
    browser.drop("#query", pictures[:1])
    browser.wait(".query-image .facts")
    browser.drop("#candidate-drop", pictures[1:3])
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


def expired(uris: set[str]) -> Callable[[Any], Reply]:
    """As a worker answers that does not find these uploads."""

    def answer(asked: Any) -> Reply:
        whole = rerank()(asked).body
        lost = [
            {"index": at, "code": "not_found", "message": "file:///x/upload.jpg does not exist"}
            for at, document in enumerate(asked["documents"])
            if uris & {str(document.get("image")), str(asked["query"])}
        ]
        at_fault = {entry["index"] for entry in lost}
        results = [result for result in whole["results"] if result["index"] not in at_fault]
        return Reply(whole | {"results": results, "errors": lost})

    return answer


@browsed
def test_an_upload_that_expired_is_sent_again(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    # given pictures that were judged, and the storage has no more
    browser.open(gateway.address)
    browser.write("#query-text", "a red heart")
    browser.drop("#candidate-drop", pictures[:3])
    wait_until(lambda: len(browser.all(".card .quality")) == 3, WAIT_S, "all are judged")
    gone = {"upload:u1", "upload:u2", "upload:u3"}
    gateway.answers["POST /v1/rerank"] = expired(gone)
    # when they are ranked, then they are uploaded anew, and nobody is bothered
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "Ranked in")
    assert len(browser.all(".result")) == 3
    assert not browser.all(".unscored")
    # and the same is done where it is found out when they are judged anew
    browser.run("const now = Date.now; Date.now = () => now() + 86_400_000")
    gateway.answers["POST /v1/rerank"] = expired({"upload:u4", "upload:u5", "upload:u6"})
    browser.choose("#preset", "product")
    wait_until(lambda: len(browser.all(".card .quality")) == 3, WAIT_S, "all are judged again")
    assert "does not exist" not in browser.text(".cards")
    # but what is gone again at once is an error
    gateway.answers["POST /v1/rerank"] = expired({"upload:u7", "upload:u8", "upload:u9"})
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text(".unscored.errors", "does not exist")


@browsed
def test_an_error_of_frames_goes_with_the_frame_that_caused_it(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    # given a film that the worker refuses as long as it has three frames
    refused = [{"index": 0, "code": "frames_differ", "message": "frames of different shapes"}]

    def answer(asked: Any) -> Reply:
        (document,) = asked["documents"]
        if len(document["video"]["frames"]) < 3:
            return rerank()(asked)
        return rerank(results=lambda whole: [], errors=lambda whole: refused)(asked)

    gateway.answers["POST /v1/rerank"] = answer
    browser.open(gateway.address)
    browser.drop("#video-drop", pictures[:3])
    browser.wait_text(".with-video .facts", "frames of different shapes")
    browser.wait_gone_text("#threshold-effect", "not assessed")
    # when one is taken out, then no more is said of it
    browser.click(".frame-item:nth-child(3) button")
    browser.wait(".with-video .quality")
    browser.wait_gone_text(".with-video .facts", "different shapes")
    # and how many frames the worker read
    browser.wait_text(".with-video .facts", "uses 1 of 2 frames")


@browsed
def test_an_upload_that_is_not_answered_can_be_cancelled(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    # given an upload that is not answered before the test goes on
    let_through: list[bool] = []

    def slowly(asked: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test goes on")
        return uploads()(asked)

    gateway.answers["POST /v1/uploads"] = slowly
    browser.open(gateway.address)
    browser.write("#query-text", "a chair")
    browser.drop("#candidate-drop", pictures[:1])
    browser.wait(".card")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "Uploading")
    # when the run is cancelled, then it is over at once
    browser.click("#cancel-run")
    browser.wait_text("#run-status", "Ready to rank 1 candidate")
    # and the upload goes on for the next one
    let_through.append(True)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")


@browsed
def test_an_address_that_is_not_well_encoded(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("404")
    gateway.say("GET /v1/jobs/100%25/events", error("there is no job 100%"), 404)
    browser.open(f"{gateway.address}#/jobs/100%")
    browser.wait_text(".job-page", "there is no job 100%")


@browsed
def test_a_request_that_fails_as_a_whole(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str], keep: Keep
) -> None:
    allowed_errors.append("503")
    refused = error("no worker serves pocket-vl", "start one")
    gateway.say("POST /v1/rerank", refused, 503, X_Request_Id="r-17")
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait_text("#run-status", "no worker serves pocket-vl")
    assert "start one" in browser.text("#run-status")
    assert "r-17" in browser.text("#run-status")
    keep("failed")


@browsed
def test_a_lost_connection_is_taken_up_again(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors += ["ERR_", "502"]

    # given a page in use, and a gateway that hangs up
    def hang_up(asked: Any) -> Reply:
        raise ConnectionAbortedError

    gateway.handle_error = lambda *about: None  # type: ignore[method-assign]
    browser.open(gateway.address)
    fill_in(browser)
    answers = dict(gateway.answers)
    gateway.answers.update(dict.fromkeys(answers, hang_up))
    # then a banner says so, and nothing is lost
    browser.wait_text("[data-state=unreachable]", "Connection lost.")
    assert len(browser.all(".card")) == 3
    keep("connection-lost")
    # when it is back, then the banner goes by itself
    gateway.answers.update(answers)
    browser.wait_gone("[data-state=unreachable]")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")


@browsed
def test_a_gateway_that_hangs_is_noticed(browser: Browser, gateway: CannedGateway) -> None:
    # given a page in use, whose long waits are short, and a gateway that says nothing more
    let_through: list[bool] = []

    def hang(asked: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test goes on")
        return Reply({"data": [MODEL]})

    browser.open(gateway.address)
    browser.wait(".fleet-chip .lamp")
    browser.run(
        "const later = setTimeout;"
        "window.setTimeout = (work, ms) => later(work, ms > 5000 ? ms / 20 : ms)"
    )
    gateway.answers["GET /v1/models"] = hang
    # then the banner says so
    browser.wait_text("[data-state=unreachable]", "Connection lost.")
    # when it goes on, then the banner goes
    let_through.append(True)
    browser.wait_gone("[data-state=unreachable]")


@browsed
def test_a_key_is_asked_for(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors.append("401")
    # given a gateway that wants a key
    answers = dict(gateway.answers)
    for route in answers:
        gateway.say(route, error("a key is needed"), 401)
    browser.open(gateway.address)
    browser.wait("#key-dialog")
    keep("unauthorised")
    # when it is escaped from, it stays
    browser.press(Keys.ESCAPE)
    browser.press(Keys.ESCAPE)
    browser.wait("#key-dialog")
    # when it is given
    gateway.answers.update(answers)
    browser.write("#key", "secret")
    browser.press(Keys.ENTER)
    # then the page works, and what is copied names the key without telling it
    browser.wait_gone("#key-dialog")
    browser.wait(".offer")
    stored = browser.run("return [Object.values(localStorage).join(), location.href].join()")
    assert "secret" not in stored


@browsed
def test_a_job_with_everything_on_its_page(
    browser: Browser, gateway: CannedGateway, keep: Keep
) -> None:
    gateway.say("GET /v1/jobs", {"data": [JOB, {**DONE_JOB, "id": "j2", "name": "yesterday"}]})
    gateway.say("GET /v1/jobs/j1", DONE_JOB)
    gateway.answers["GET /v1/jobs/j1/events"] = lambda asked: Reply(events())
    gateway.say("GET /v1/jobs/j1/errors", FAILED_LINE)
    gateway.say("GET /v1/jobs/j1/files", FILES)
    browser.open(f"{gateway.address}#/jobs")
    browser.wait_text(".jobs", "yesterday")
    keep("jobs")
    # when a file is dropped on it, then a new job is begun with it
    browser.drop("main", [("pairs.jsonl", "", b"{}")])
    browser.wait("#job-dialog")
    assert browser.run("return document.querySelector('#job-file').files[0].name") == "pairs.jsonl"
    browser.click("#job-dialog summary")
    keep("new-job")
    browser.press(Keys.ESCAPE)
    browser.wait_gone("#job-dialog")
    # when a job is opened, then its charts are there, each change of batch size with its reason
    browser.click("[data-job=j1] a")
    browser.wait(".job-page > .chart .column")
    browser.wait(".chart .mark")
    marks = [m.get_attribute("aria-label") for m in browser.all(".chart .mark")]
    assert "12,288 tokens: out of memory: three quarters of the last size" in marks
    browser.wait_text(".job-errors", "low_quality")
    browser.wait_text("#downloads", "part-000000004000.parquet")
    assert "and 32 more parts" in browser.text("#downloads")
    keep("job-charts")
    # and the errors of its end, though not each rise of them was asked for
    browser.wait_text(".job-errors", "1,100")
    assert gateway.asked.count(("GET /v1/jobs/j1/errors", None)) <= 3


JOB = {
    "id": "j1", "name": "shop catalog", "model": "pocket-vl", "priority": "normal",
    "state": "running", "reason": "device: 1 worker, 93% busy", "created_s": 1_790_000_000.0,
    "pairs_per_s": 310.0, "eta_s": 95.0, "finished_s": None, "round": 0, "output": None,
    "progress": {
        "lines": 500, "fed": 9000, "total": 40_000, "scored": 8600, "errors": 120,
        "rejected": 280, "cancelled": 0, "tokens": 1, "truncated": 0,
    },
}  # fmt: skip
DONE_JOB = JOB | {
    "state": "done", "reason": "", "finished_s": 1_790_000_130.0, "eta_s": None,
    "progress": JOB["progress"] | {"scored": 38_900, "errors": 240, "rejected": 860},
    "scores": {
        "count": 38_900, "mean": 0.31, "spread": 0.3, "share_above": 0.11, "share_below": 0.42,
        "bins": [9800, 5100, 3100, 2400, 1900, 1500, 1300, 1100, 1000, 900, 850, 820, 800, 810,
                 850, 900, 1000, 1150, 1400, 2220],
    },
}  # fmt: skip
FILES = {
    "count": 40,
    "data": [
        {"name": "ranking.jsonl", "rows": None},
        {"name": "manifest.json", "rows": None},
        {"name": "errors.jsonl", "rows": None},
        *({"name": f"part-{n:012}.parquet", "rows": 1000} for n in range(0, 5000, 1000)),
    ],
}
FAILED_LINE = {
    "id": "chair-17",
    "errors": [
        {"line": 17, "index": 3, "code": "low_quality", "message": "the image's quality 0.41 is "
         "below 0.65", "hint": "give a sharper, well exposed picture"},
    ],
}  # fmt: skip


def events() -> Iterator[str]:
    """A few statuses that rise, then the end."""
    for number in range(12):
        rate = 250 + 40 * (number % 3)
        scored = 8600 + 2500 * number
        progress = {**JOB["progress"], "scored": scored, "errors": 120 + number}
        status = {**JOB, "pairs_per_s": rate, "progress": progress}
        yield f"event: status\ndata: {json.dumps(status)}\n\n: keep-alive\n\n"
    yield f"event: status\ndata: {json.dumps(DONE_JOB)}\n\n"
    yield 'event: end\ndata: {"id": "j1", "state": "done"}\n\n'


@browsed
def test_the_fleet_in_chinese_and_dark(
    browser: Browser, gateway: CannedGateway, keep: Keep
) -> None:
    gateway.say("GET /v1/fleet", fleet_of(WORKER, OTHER_WORKER))
    browser.open(f"{gateway.address}#/fleet")
    browser.wait(".chart .mark")
    browser.wait_text(".worker", "fetch 21 ms · decode 8 ms")
    keep("fleet")
    browser.click("#theme")
    browser.click("#language")
    browser.wait_text(".tabs", "集群")
    assert browser.run("return document.documentElement.lang") == "zh-Hans"
    browser.wait(".chart .mark")
    keep("fleet-dark-chinese")
    # and both are remembered
    browser.driver.refresh()
    browser.wait_text(".tabs", "集群")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"


def settings_of(browser: Browser) -> list[str]:
    """The query and the settings as their fields show them."""
    fields = ["query-text", "preset", "threshold", "temperature", "top-n"]
    return list(browser.run(f"return {fields}.map((id) => document.getElementById(id).value)"))


@browsed
def test_a_link_that_is_opened_in_the_same_tab(browser: Browser, gateway: CannedGateway) -> None:
    # given a page in use
    browser.open(f"{gateway.address}#/rerank?threshold=0.3")
    browser.write("#query-text", "a ring")
    # when a link is opened in its tab, then what it says is there, and the rest is as usual
    link = "#/rerank?query=a+heart&preset=product&top_n=2"
    browser.run("location.hash = arguments[0]", link)
    assert settings_of(browser) == ["a heart", "product", "0.65", "1", "2"]
    assert browser.driver.current_url.endswith("preset=product&top_n=2&query=a+heart")
    # and a change of tab changes nothing
    browser.click("#tab-jobs")
    browser.click("#tab-rerank")
    browser.wait("#query-text")
    assert settings_of(browser) == ["a heart", "product", "0.65", "1", "2"]


@browsed
@pytest.mark.parametrize("tab", ["new", "same"])
def test_a_link_with_settings_that_make_no_sense(
    browser: Browser, gateway: CannedGateway, tab: str
) -> None:
    link = "#/rerank?query=a+heart&temperature=0&threshold=7&preset=zzz&top_n=-3"
    browser.open(f"{gateway.address}{link if tab == 'new' else ''}")
    browser.wait("#preset")
    browser.run("location.hash = arguments[0]", link)
    assert settings_of(browser) == ["a heart", "general", "0.65", "1", ""]


@browsed
def test_a_profile_fills_in_what_goes_together(browser: Browser, gateway: CannedGateway) -> None:
    browser.open(gateway.address)
    browser.choose("#instruction-preset", "profiles/ecommerce")
    values = browser.run(
        "return ['instruction', 'preset', 'temperature'].map(i => document.getElementById(i).value)"
    )
    assert values == ["Given a shopping query, find products", "product", "0.8"]
    # and an instruction alone changes nothing else
    browser.choose("#instruction-preset", "instruction/web search")
    assert browser.run("return document.getElementById('preset').value") == "product"


def watch_a_finished_job(gateway: CannedGateway) -> None:
    """The job `j1` at its end, with something that failed and something to take away."""
    over = f"event: status\ndata: {json.dumps(DONE_JOB)}\n\nevent: end\ndata: {{}}\n\n"
    gateway.answers["GET /v1/jobs/j1/events"] = lambda asked: Reply(iter([over]))
    gateway.say("GET /v1/jobs", {"data": [JOB, DONE_JOB]})
    gateway.say("GET /v1/jobs/j1", DONE_JOB)
    gateway.say("GET /v1/jobs/j1/errors", FAILED_LINE)
    gateway.say("GET /v1/jobs/j1/files", FILES)


@browsed
def test_a_double_click_on_retry_is_one_retry(browser: Browser, gateway: CannedGateway) -> None:
    # given a job that is over, and a gateway that takes its time
    watch_a_finished_job(gateway)
    let_through: list[bool] = []

    def slowly(asked: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test goes on")
        return Reply(JOB)

    gateway.answers["POST /v1/jobs/j1/retry"] = slowly
    browser.open(f"{gateway.address}#/jobs/j1")
    browser.wait("[data-action=retry]")
    wait_until(lambda: gateway.asked.count(("GET /v1/jobs/j1", None)), WAIT_S, "it is at its end")
    begun = gateway.asked.count(("GET /v1/jobs/j1/events", None))
    # when Retry is clicked twice
    browser.run(
        "const [b] = document.querySelectorAll('[data-action=retry]'); b.click(); b.click();"
    )
    let_through.append(True)
    # then one retry was asked for, and its events are followed once
    wait_until(
        lambda: gateway.asked.count(("GET /v1/jobs/j1/events", None)) > begun, WAIT_S, "followed"
    )
    browser.wait_text(".title .chip", "Done")
    assert gateway.asked.count(("POST /v1/jobs/j1/retry", None)) == 1
    assert gateway.asked.count(("GET /v1/jobs/j1/events", None)) == begun + 1


@browsed
@pytest.mark.parametrize("picker", [True, False], ids=["to the disk", "by way of memory"])
def test_with_a_key_files_are_still_taken_away(
    browser: Browser, gateway: CannedGateway, picker: bool
) -> None:
    # given a key, which a link cannot send, and a browser that lets pages write files, or does not
    watch_a_finished_job(gateway)
    gateway.say("GET /v1/jobs/j1/files/manifest.json", {"lines": 500})
    browser.open(gateway.address)
    browser.run("sessionStorage.setItem('rerankfleet.key', 'k')")
    browser.run(CATCH_FILES, picker)
    browser.run("location.hash = '#/jobs/j1'")
    # when a file is taken
    browser.click("#downloads button[data-file='manifest.json']")
    # then it arrives
    wait_until(lambda: browser.run("return window.saved"), WAIT_S, "the file is saved")
    assert json.loads(browser.run("return window.saved")) == {"lines": 500}


CATCH_FILES = """
const [picker] = arguments;
const target = {write: async (chunk) => void (window.saved = new TextDecoder().decode(chunk))};
const handle = {createWritable: async () => new WritableStream(target)};
window.showSaveFilePicker = picker ? async () => handle : undefined;
URL.createObjectURL = (blob) => (blob.text().then((text) => (window.saved = text)), "blob:none");
HTMLAnchorElement.prototype.click = () => {};
"""


@browsed
def test_looks_at_the_fleet_add_up(browser: Browser, gateway: CannedGateway) -> None:
    # given a gateway that tells what is new, and some of it twice
    browser.open(gateway.address)
    script = """
    const [answers] = arguments;
    return import("/js/fleet_history.js").then(async ({FleetHistory}) => {
      const asked = [], looks = [];
      const api = {fleet: async (since) => (asked.push(since), answers.shift())};
      const fleet = new FleetHistory(api);
      while (answers.length) looks.push(await fleet.refresh());
      return [asked, looks.map(({packs, history}) => [packs, history.map((one) => one.at_s)])];
    });
    """
    answers = [
        {"at_s": 10, "workers": [{"id": "a"}], "queues": [], "limits": {}, "history": [{"at_s": 1}],
         "packs": {"a": [{"at_s": 7}]}},
        {"at_s": 12, "workers": [{"id": "a"}, {"id": "b"}], "queues": [], "limits": {},
         "history": [{"at_s": 1}, {"at_s": 3}], "packs": {"a": [{"at_s": 7}, {"at_s": 6}]}},
        {"at_s": 14, "workers": [{"id": "b"}], "queues": [], "limits": {}, "history": [],
         "packs": {"b": []}},
    ]  # fmt: skip
    # when it is looked at three times
    asked, looks = browser.run(script, answers)
    # then each look asks from the one before, and nothing is there twice
    assert asked == [0, 10, 12]
    assert looks[1] == [{"a": [{"at_s": 6}, {"at_s": 7}], "b": []}, [1, 3]]
    # and who is gone is forgotten
    assert looks[2] == [{"b": []}, [1, 3]]


@browsed
def test_what_is_wrong_with_a_query_is_said_beside_it(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    browser.open(gateway.address)
    # given a film, then a broken picture, dropped on the query
    browser.drop("#query", [("film.mp4", "video/mp4", b"film")])
    browser.wait_text(".query .unreadable", "Cannot read film.mp4. Video files")
    browser.drop("#query", [("broken.jpg", "image/jpeg", b"no picture")])
    browser.wait_text(".query .unreadable", "Cannot read broken.jpg.")
    # when two pictures are, then the first is taken, and that is said
    browser.drop("#query", pictures[:2])
    browser.wait_text(".query .unreadable", f"{pictures[0][0]} is used")
    assert len(browser.all(".query .image-card")) == 1
    assert not browser.all(".candidates .unreadable:not(:empty)")


@browsed
def test_a_picture_is_not_replaced_by_a_broken_one(
    browser: Browser, gateway: CannedGateway, pictures: Files, tmp_path: Path
) -> None:
    browser.open(gateway.address)
    browser.drop("#candidate-drop", pictures[:1])
    browser.wait(".card .quality")
    # when its place is given to a file that is no picture
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    browser.all(".card input[type=file]")[0].send_keys(str(broken))
    # then it stays, and the file is named
    browser.wait_text(".candidates .unreadable", "Cannot read broken.jpg.")
    assert browser.all(f".card img[alt='{pictures[0][0]}']")


@browsed
def test_runs_are_told_apart_by_their_queries(browser: Browser, gateway: CannedGateway) -> None:
    open_ranked(browser, gateway)
    browser.write("#query-text", "a ring of gold with a very small stone")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait("#run")
    assert browser.texts("#run option") == [
        "Run 1 · a red heart · General · Crop · T 1.0",
        "Run 2 · a ring of gold with a ve… · General · Crop · T 1.0",
    ]


@browsed
def test_what_is_typed_and_chosen_outlives_a_change_of_language_and_tab(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given two runs of which the first is looked at, and lines that are not added yet
    browser.open(gateway.address)
    fill_in(browser)
    for runs in (1, 2):
        browser.press(Keys.CONTROL, Keys.ENTER)
        wait_until(lambda n=runs: len(browser.all("#run option")) in (n, n - 1), WAIT_S, "it ran")
        browser.wait_text("#run-status", "Ranked in")
    browser.choose("#run", "1")
    browser.write("#candidate-lines", "a moon")
    # when the language changes, and the tab
    browser.click("#language")
    browser.click("#tab-jobs")
    browser.click("#tab-rerank")
    # then they are there
    browser.wait("#run")
    values = "return ['run', 'candidate-lines'].map((id) => document.getElementById(id).value)"
    assert browser.run(values) == ["1", "a moon"]


@browsed
def test_a_job_that_is_refused_names_the_file(
    browser: Browser, gateway: CannedGateway, tmp_path: Path, allowed_errors: list[str]
) -> None:
    allowed_errors.append("422")
    gateway.say("POST /v1/jobs", error("upload:u1 is not JSON Lines"), 422)
    browser.open(f"{gateway.address}#/jobs")
    browser.click("#new-job")
    source = tmp_path / "pairs.jsonl"
    source.write_text("no")
    # when a file and a URI are given, then one of them must go
    browser.wait("#job-file").send_keys(str(source))
    browser.write("#job-uri", "s3://bucket/pairs.jsonl")
    browser.click("#start-job")
    browser.wait_text("#job-dialog .form-message", "not both")
    browser.write("#job-uri", " ")
    # and what is said of the file names it
    browser.click("#start-job")
    browser.wait_text("#job-dialog .form-message", "pairs.jsonl is not JSON Lines")


@browsed
def test_a_filter_without_jobs_says_so(browser: Browser, gateway: CannedGateway) -> None:
    gateway.say("GET /v1/jobs", {"data": [JOB]})
    browser.open(f"{gateway.address}#/jobs")
    browser.wait("[data-job=j1]")
    browser.click(".segments [data-state=paused]")
    browser.wait_text(".jobs-page > .empty", "No jobs in this state.")


@browsed
def test_a_key_that_no_header_can_hold(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("401")
    gateway.say("GET /v1/models", error("a key is needed"), 401)
    browser.open(gateway.address)
    browser.write("#key", "wröng 心")
    browser.press(Keys.ENTER)
    # then it is refused where it was written, and not kept
    browser.wait_text("#key-dialog", "ASCII")
    assert browser.run("return sessionStorage.length") == 0
    assert not browser.run("return document.querySelector('.banner').checkVisibility()")


@browsed
def test_more_errors_than_are_shown(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("503")
    # given a finished job with 1,100 errors, which cannot be had at first
    watch_a_finished_job(gateway)
    gateway.say("GET /v1/jobs/j1/errors", error("busy"), 503)
    browser.open(f"{gateway.address}#/jobs/j1")
    browser.wait_text(".job-errors", "could not be loaded")
    # when they are asked for again
    (failure,) = FAILED_LINE["errors"]
    gateway.say("GET /v1/jobs/j1/errors", FAILED_LINE | {"errors": [failure] * 200})
    browser.click(".job-errors button")
    # then the first are there, and that they are not all
    browser.wait_text(".job-errors", "Only the first 100 are shown")
    assert len(browser.all(".error-list li")) == 100


@browsed
def test_a_job_that_is_over_shows_no_charts_of_now(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given a job that was cancelled with little done
    cancelled = DONE_JOB | {
        "state": "cancelled",
        "progress": DONE_JOB["progress"] | {"scored": 460, "rejected": 2, "errors": 0,
                                            "cancelled": 39_538},
    }  # fmt: skip
    watch_a_finished_job(gateway)
    over = event("status", cancelled) + event("end", {})
    gateway.answers["GET /v1/jobs/j1/events"] = lambda asked: Reply(iter([over]))
    gateway.say("GET /v1/jobs/j1", cancelled)
    browser.open(f"{gateway.address}#/jobs/j1")
    # then its scores are there, but nothing of what the fleet does now
    browser.wait(".job-page > .chart .column")
    assert not browser.run("return document.querySelector('.charts').checkVisibility()")
    # and what was cancelled was not done
    assert browser.texts(".figure-box strong")[0] == "462 / 40,000"


@browsed
def test_files_that_cannot_be_read_are_named(
    browser: Browser, gateway: CannedGateway, pictures: Files
) -> None:
    browser.open(gateway.address)
    # given a picture, a broken one and a film, dropped together
    broken = ("broken.jpg", "image/jpeg", b"no picture")
    browser.drop("#candidate-drop", [("pairs.csv", "text/csv", b"query,text")])
    browser.wait_text(".unreadable", "Cannot read pairs.csv. Tables and JSON Lines are")
    browser.drop("#video-drop", [pictures[0], broken, ("film.mp4", "video/mp4", b"film")])
    # then the good one is taken, and the others are named, with what to do
    browser.wait(".with-video")
    browser.wait_text(".unreadable", "Cannot read film.mp4, broken.jpg. Video files")
    # and no more of them is said when the next ones are well
    browser.drop("#candidate-drop", pictures[1:2])
    browser.wait_gone(".unreadable")


# ---- hundreds of pictures -----------------------------------------------------------------------

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


@browsed
def test_hundreds_of_pictures_are_taken_in_a_few_at_a_time(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given a page whose object URLs are counted, and three hundred small pictures, two equal
    browser.open(gateway.address)
    browser.run(COUNT_URLS)
    count = 300
    many = [(f"{n}.png", "image/png", png(n, (48, 32))) for n in range(count - 1)]
    # when they are dropped at once
    browser.drop("#candidate-drop", [*many, ("again.png", "image/png", many[0][2])])
    # then cards come while others are still read, and all of them in the end
    browser.wait_text(".candidates .count", "reading")
    browser.wait_text(".candidates .count", f"{count} candidates")
    browser.wait_gone_text(".candidates .count", "reading")
    same = browser.run("return document.querySelector('.duplicate').closest('.card').dataset.id")
    assert same == browser.all(".card")[-1].get_attribute("data-id")
    # and all are judged
    browser.wait_text("#threshold-effect", f"0 of {count} would be rejected.")
    browser.wait_gone_text("#threshold-effect", "not assessed")
    # and those are drawn that are near the window, no others
    wait_until(lambda: browser.run("return urls.live") == 0, WAIT_S, "no URL is held")
    assert browser.wait(".card:first-child img").get_property("naturalWidth") == 48
    drawn = browser.run("return [...document.querySelectorAll('.card img[src]')].length")
    assert 0 < drawn < count
    # and never more than a few were held at once
    assert browser.run("return urls.most") <= 3 + 8
    # when all are removed, then nothing of them is left
    browser.click(".candidates .panel-head button")
    wait_until(lambda: not browser.all(".card"), WAIT_S, "no card")
    assert browser.run("return urls.live") == 0


# ---- for everyone -------------------------------------------------------------------------------


@browsed
@pytest.mark.parametrize("tab", ["rerank", "jobs", "fleet", "jobs/j1"])
def test_every_control_has_a_name(browser: Browser, gateway: CannedGateway, tab: str) -> None:
    watch_a_finished_job(gateway)
    browser.open(f"{gateway.address}#/{tab}")
    browser.wait(f"#tab-{tab.split('/')[0]}[aria-current=page]")
    # given the tree that a screen reader sees
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    wanted = {"button", "textbox", "slider", "combobox", "checkbox", "radio", "link", "spinbutton"}
    controls = [node for node in tree if node.get("role", {}).get("value") in wanted]
    assert controls
    # then each control in it has a name
    assert [c for c in controls if not c.get("ignored") and not c["name"].get("value")] == []


WALK = """
window.walked = new Set();
window.ringless = [];
addEventListener("focusin", ({target}) => {
  walked.add(target);
  const shown = target.classList.contains("visually-hidden") ? target.nextElementSibling : target;
  const {outlineStyle, outlineWidth} = getComputedStyle(shown);
  if (outlineStyle === "none" || parseFloat(outlineWidth) < 2) ringless.push(shown.outerHTML);
});
"""
LEFT_OUT = """
const controls = document.querySelectorAll("a[href], button, input, select, textarea, summary");
return [...controls].filter((control) =>
  control.checkVisibility() && !control.disabled && control.getAttribute("aria-hidden") !== "true"
  && !(control.type === "radio" && !control.checked)  // the arrows lead to it from the one that is
  && !walked.has(control)).map((control) => control.outerHTML);
"""


@browsed
@pytest.mark.parametrize("tab", ["rerank", "jobs", "fleet", "jobs/j1"])
def test_tab_leads_to_every_control_and_each_shows_that_it_is_there(
    browser: Browser, gateway: CannedGateway, pictures: Files, tab: str
) -> None:
    watch_a_finished_job(gateway)
    browser.open(f"{gateway.address}#/{tab}")
    if tab == "rerank":  # cards, a video and results
        fill_in(browser)
        browser.drop("#candidate-drop", pictures[:2])
        browser.drop("#video-drop", pictures[2:4])
        browser.wait(".with-video .quality")
        browser.press(Keys.CONTROL, Keys.ENTER)
        browser.wait(".result")
    elif tab == "jobs/j1":
        browser.wait("#downloads a")
    # when somebody goes through all of it by Tab, from the first link until it comes again
    browser.run(f"document.querySelector('.skip').focus(); {WALK}")
    for _ in range(150):
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement.className === 'skip'"):
            break
    # then every control was there, and each had its ring
    assert browser.run(LEFT_OUT) == []
    assert browser.run("return ringless") == []


FOCUSED = "return document.activeElement.id || document.activeElement.className.baseVal || ''"


@browsed
def test_the_focus_outlives_what_is_drawn_anew(browser: Browser, gateway: CannedGateway) -> None:
    # given two runs, of which the second lacks two
    open_ranked(browser, gateway)
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:1], errors=lambda whole: failed(1, 2)
    )
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    # when the view is changed, and another run is put beside it
    for control in ("#view-grid", "#view-list"):
        browser.run(f"document.querySelector('{control}').focus()")
        browser.press(Keys.ENTER)
        browser.wait(f"{control}[aria-pressed=true]")
        assert f"#{browser.run(FOCUSED)}" == control
    browser.run("document.querySelector('#compare').focus()")
    browser.choose("#compare", "1")
    browser.wait(".compare")
    assert browser.run(FOCUSED) == "compare"
    browser.choose("#compare", "0")
    # and when one is tried again, then the focus goes to what became of it
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.run("document.querySelector('.unscored .again').focus()")
    browser.press(Keys.ENTER)
    wait_until(lambda: len(browser.all(".result")) == 2, WAIT_S, "it is ranked")
    wait_until(lambda: browser.run(FOCUSED).startswith("head-"), WAIT_S, "the result has it")


@browsed
def test_what_is_looked_at_is_not_drawn_anew(browser: Browser, gateway: CannedGateway) -> None:
    # given a table of jobs, one of whose links has the focus
    gateway.say("GET /v1/jobs", {"data": [JOB]})
    browser.open(f"{gateway.address}#/jobs")
    browser.wait("[data-job=j1]")
    browser.run("window.link = document.querySelector('[data-job=j1] a'); link.focus()")
    # when the job goes on and another one comes
    later = JOB | {"progress": JOB["progress"] | {"scored": 9999}}
    gateway.say("GET /v1/jobs", {"data": [JOB | {"id": "j2", "name": "later"}, later]})
    browser.wait_text(".jobs", "later")
    browser.wait_text("[data-job=j1]", "10,399")
    # then the link has it still
    assert browser.run("return document.activeElement === link")
    # and a chart is not drawn under somebody's focus, but once that has gone
    browser.click("#tab-fleet")
    browser.wait(".chart .mark")
    browser.run("window.mark = document.querySelector('.chart .mark'); mark.focus()")
    looked = gateway.asked.count(("GET /v1/fleet", None))
    wait_until(
        lambda: gateway.asked.count(("GET /v1/fleet", None)) > looked + 1, WAIT_S, "two looks more"
    )
    assert browser.run("return document.activeElement === mark")
    assert "tokens" in browser.text(".chart .tip:not([hidden])")
    browser.run("mark.blur()")
    wait_until(lambda: not browser.run("return mark.isConnected"), WAIT_S, "it is drawn anew")


@browsed
def test_the_whole_way_by_keyboard(browser: Browser, gateway: CannedGateway) -> None:
    open_ranked(browser, gateway)
    # when the first result is opened without a mouse
    browser.run("document.querySelector('.result-head').focus()")
    browser.press(Keys.ENTER)
    # then it is open, and says so
    assert browser.wait(".score-panel")
    (head, *_) = browser.all(".result-head")
    assert head.get_attribute("aria-expanded") == "true"
    # and the end of the run was announced
    assert "ranked in" in browser.run("return document.querySelector('#announcer').textContent")


# ---- without a browser --------------------------------------------------------------------------

SOURCES = sorted(PAGE.rglob("*.js")) + sorted(PAGE.rglob("*.css")) + [PAGE / "index.html"]
NO_HOSTS = {"http://www.w3.org/2000/svg"}  # a name, not an address


def entries(language: str) -> dict[str, str]:
    """A dictionary of the page."""
    text = (PAGE / "js" / "words" / f"{language}.js").read_text()
    return dict(re.findall(r'"([\w.-]+)": "((?:[^"\\]|\\.)*)"', text))


def test_both_languages_say_the_same_with_the_same_gaps() -> None:
    english, chinese = entries("en"), entries("zh")
    assert set(english) - set(chinese) <= {"instruction.default"}  # instructions are English
    assert set(chinese) <= set(english)
    for key, text in chinese.items():
        gaps = set(re.findall(r"{\w+}", english[key]))
        assert set(re.findall(r"{\w+}", text)) <= gaps, key


def test_every_word_that_is_asked_for_exists() -> None:
    code = "\n".join(path.read_text() for path in SOURCES if "words" not in path.parts)
    asked = set(re.findall(r'\b(?:t|counted|field|row|figure|part)\("([\w.]+)"', code))
    asked |= {f"provenance.{name}" for name in Provenance.model_fields}
    asked |= {f"step.{stage}" for (stage,) in STAGES.all_labels}
    assert asked - set(entries("en")) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_comes_from_another_host(path: Path) -> None:
    found = set(re.findall(r"""(?:https?:)?//[\w-]+\.[\w./-]+""", without_comments(path)))
    assert found <= NO_HOSTS | {name.removeprefix("http:") for name in NO_HOSTS}


def without_comments(path: Path) -> str:
    text = path.read_text()
    return re.sub(r"^\s*(//|\*|/\*).*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_what_lies_behind_it(theme: str) -> None:
    colours = theme_colours(theme)
    inks = ("ink", "muted", "accent", "good", "warn", "bad")
    pairs = [(ink, back) for ink in inks for back in ("bg", "surface")]
    pairs += [("ink", "sunken"), ("muted", "sunken"), ("bg", "ink"), ("accent-ink", "accent")]
    pairs += [(name, f"{name}-soft") for name in ("accent", "good", "warn", "bad")]
    pairs += [("ink", f"{name}-soft") for name in ("accent", "good", "warn", "bad")]
    for ink, back in pairs:
        assert contrast(colours[ink], colours[back]) >= 4.5, f"{ink} on {back} in {theme}"
    # and the edges of fields, the curves and the columns
    drawn = ["edge", "accent", *(f"series-{number}" for number in range(4))]
    for line in drawn:
        assert contrast(colours[line], colours["surface"]) >= 3, f"{line} in {theme}"


def theme_colours(theme: str) -> dict[str, str]:
    text = (PAGE / "style" / "base.css").read_text()
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", text)
    assert found
    return {name: light if theme == "light" else dark for name, light, dark in found}


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    levels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
