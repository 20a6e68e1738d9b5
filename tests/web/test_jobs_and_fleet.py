"""The Jobs and Fleet tabs with canned answers of the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, Browser
from tests.web.canned import OTHER_WORKER, WORKER, CannedGateway, Reply, error, event, fleet_of
from tests.web.canned_jobs import DONE_JOB, FAILED_LINE, FILES, JOB, events, serve_finished_job
from tests.web.steps import Keep

pytestmark = pytest.mark.browser


def test_the_page_of_a_job_shows_charts_errors_and_files(
    browser: Browser, gateway: CannedGateway, keep: Keep
) -> None:
    gateway.reply("GET /v1/jobs", {"data": [JOB, {**DONE_JOB, "id": "j2", "name": "yesterday"}]})
    gateway.reply("GET /v1/jobs/j1", DONE_JOB)
    gateway.answers["GET /v1/jobs/j1/events"] = lambda _: Reply(events())
    gateway.reply("GET /v1/jobs/j1/errors", FAILED_LINE)
    gateway.reply("GET /v1/jobs/j1/files", FILES)
    browser.open(f"{gateway.address}#/jobs")
    browser.wait_text(".jobs", "yesterday")
    keep("jobs")
    # when a file is dropped on the page, then the dialog of a new job opens with it
    browser.drop("main", [("pairs.jsonl", "", b"{}")])
    browser.wait("#job-dialog")
    assert browser.run("return document.querySelector('#job-file').files[0].name") == "pairs.jsonl"
    browser.click("#job-dialog summary")
    keep("new-job")
    browser.press(Keys.ESCAPE)
    browser.wait_gone("#job-dialog")
    # when a job is opened, then its charts show each change of batch size with its reason
    browser.click("[data-job=j1] a")
    browser.wait(".job-page > .chart .column")
    browser.wait(".chart .mark")
    marks = [m.get_attribute("aria-label") for m in browser.all(".chart .mark")]
    assert "12,288 tokens: out of memory: three quarters of the last size" in marks
    browser.wait_text(".job-errors", "low_quality")
    browser.wait_text("#downloads", "part-000000004000.parquet")
    assert "and 32 more parts" in browser.text("#downloads")
    keep("job-charts")
    # and its final errors, although they were not requested at every increase
    browser.wait_text(".job-errors", "1,100")
    assert gateway.requests.count(("GET /v1/jobs/j1/errors", None)) <= 3


def test_a_double_click_on_retry_is_one_retry(browser: Browser, gateway: CannedGateway) -> None:
    # given a finished job, and a gateway that is slow to answer
    serve_finished_job(gateway)
    let_through: list[bool] = []

    def slow_retry(body: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test continues")
        return Reply(JOB)

    gateway.answers["POST /v1/jobs/j1/retry"] = slow_retry
    browser.open(f"{gateway.address}#/jobs/j1")
    browser.wait("[data-action=retry]")
    wait_until(
        lambda: gateway.requests.count(("GET /v1/jobs/j1", None)), WAIT_S, "the job is loaded"
    )
    before = gateway.requests.count(("GET /v1/jobs/j1/events", None))
    # when Retry is clicked twice
    browser.run(
        "const [b] = document.querySelectorAll('[data-action=retry]'); b.click(); b.click();"
    )
    let_through.append(True)
    # then one retry was requested, and its events are followed once
    wait_until(
        lambda: gateway.requests.count(("GET /v1/jobs/j1/events", None)) > before,
        WAIT_S,
        "its events are followed",
    )
    browser.wait_text(".title .chip", "Done")
    assert gateway.requests.count(("POST /v1/jobs/j1/retry", None)) == 1
    assert gateway.requests.count(("GET /v1/jobs/j1/events", None)) == before + 1


@pytest.mark.parametrize("picker", [True, False], ids=["to disk", "via memory"])
def test_files_are_downloaded_with_a_key(
    browser: Browser, gateway: CannedGateway, picker: bool
) -> None:
    # given a key, which a link cannot send, in a browser with and without a file picker
    serve_finished_job(gateway)
    gateway.reply("GET /v1/jobs/j1/files/manifest.json", {"lines": 500})
    browser.open(gateway.address)
    browser.run("sessionStorage.setItem('rerankfleet.key', 'k')")
    browser.run(CATCH_FILES, picker)
    browser.run("location.hash = '#/jobs/j1'")
    # when a file is downloaded
    browser.click("#downloads button[data-file='manifest.json']")
    # then its contents are saved
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


def test_more_errors_than_are_shown(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("503")
    # given a finished job with 1,100 errors, which cannot be loaded at first
    serve_finished_job(gateway)
    gateway.reply("GET /v1/jobs/j1/errors", error("busy"), 503)
    browser.open(f"{gateway.address}#/jobs/j1")
    browser.wait_text(".job-errors", "could not be loaded")
    # when they are loaded again
    (failure,) = FAILED_LINE["errors"]
    gateway.reply("GET /v1/jobs/j1/errors", FAILED_LINE | {"errors": [failure] * 200})
    browser.click(".job-errors button")
    # then the first are shown, and the page says that there are more
    browser.wait_text(".job-errors", "Only the first 100 are shown")
    assert len(browser.all(".error-list li")) == 100


def test_a_finished_job_shows_no_charts_of_the_fleet(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given a job that was cancelled early
    cancelled = DONE_JOB | {
        "state": "cancelled",
        "progress": DONE_JOB["progress"] | {"scored": 460, "rejected": 2, "errors": 0,
                                            "cancelled": 39_538},
    }  # fmt: skip
    serve_finished_job(gateway)
    stream = event("status", cancelled) + event("end", {})
    gateway.answers["GET /v1/jobs/j1/events"] = lambda _: Reply(iter([stream]))
    gateway.reply("GET /v1/jobs/j1", cancelled)
    browser.open(f"{gateway.address}#/jobs/j1")
    # then its scores are shown, but no charts of the fleet
    browser.wait(".job-page > .chart .column")
    assert not browser.run("return document.querySelector('.charts').checkVisibility()")
    # and cancelled pairs do not count as done
    assert browser.texts(".figure-box strong")[0] == "462 / 40,000"


def test_a_job_that_is_refused_names_the_file(
    browser: Browser, gateway: CannedGateway, tmp_path: Path, allowed_errors: list[str]
) -> None:
    allowed_errors.append("422")
    gateway.reply("POST /v1/jobs", error("upload:u1 is not JSON Lines"), 422)
    browser.open(f"{gateway.address}#/jobs")
    browser.click("#new-job")
    source = tmp_path / "pairs.jsonl"
    source.write_text("no")
    # when both a file and a URI are entered, then the dialog refuses
    browser.wait("#job-file").send_keys(str(source))
    browser.write("#job-uri", "s3://bucket/pairs.jsonl")
    browser.click("#start-job")
    browser.wait_text("#job-dialog .form-message", "not both")
    browser.write("#job-uri", " ")
    # and an error of the file names it
    browser.click("#start-job")
    browser.wait_text("#job-dialog .form-message", "pairs.jsonl is not JSON Lines")


def test_a_job_of_which_nothing_is_scored_looks_like_a_failure(
    browser: Browser, gateway: CannedGateway
) -> None:
    # given a job of three pairs and two lines that could not be read
    serve_finished_job(gateway)
    counts = {"total": 5, "fed": 5, "scored": 0, "errors": 5, "bad_lines": 2, "rejected": 0}
    failed = {
        **DONE_JOB,
        "nothing_scored": True,
        "passed_over": "7 passed over: 5 .psd, 2 without suffix",
        "reason": "nothing could be scored, most often because of not_found",
        "progress": DONE_JOB["progress"] | counts,
    }
    gateway.reply("GET /v1/jobs", {"data": [failed]})
    gateway.reply("GET /v1/jobs/j1", failed)
    stream = f"event: status\ndata: {json.dumps(failed)}\n\nevent: end\ndata: {{}}\n\n"
    gateway.answers["GET /v1/jobs/j1/events"] = lambda _: Reply(iter([stream]))
    # then the list says so, and tells its pairs from its bad lines
    browser.open(f"{gateway.address}#/jobs")
    browser.wait_text("[data-job=j1]", "3 / 3")
    assert "Failed" in browser.text("[data-job=j1]")
    assert "2 bad lines" in browser.text("[data-job=j1]")
    # and its own page gives the reason
    browser.click("[data-job=j1] a")
    browser.wait_text(".job-page .reason", "most often because of not_found")
    browser.wait_text("#job-passed-over", "7 passed over: 5 .psd")
    assert browser.text(".job-page .state") == "Failed"
    assert "3 / 3" in browser.text(".job-page .figures")


def test_a_filter_without_jobs_says_so(browser: Browser, gateway: CannedGateway) -> None:
    gateway.reply("GET /v1/jobs", {"data": [JOB]})
    browser.open(f"{gateway.address}#/jobs")
    browser.wait("[data-job=j1]")
    browser.click(".segments [data-state=paused]")
    browser.wait_text(".jobs-page > .empty", "No jobs in this state.")


def test_the_fleet_in_chinese_and_dark(
    browser: Browser, gateway: CannedGateway, keep: Keep
) -> None:
    gateway.reply("GET /v1/fleet", fleet_of(WORKER, OTHER_WORKER))
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
    # and both survive a reload
    browser.driver.refresh()
    browser.wait_text(".tabs", "集群")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"


def test_refreshes_of_the_fleet_add_up(browser: Browser, gateway: CannedGateway) -> None:
    # given a gateway that answers with what is new, and repeats some of it
    browser.open(gateway.address)
    script = """
    const [answers] = arguments;
    return import("/js/fleet_history.js").then(async ({FleetHistory}) => {
      const since = [], refreshes = [];
      const api = {fleet: async (since_s) => (since.push(since_s), answers.shift())};
      const fleet = new FleetHistory(api);
      while (answers.length) refreshes.push(await fleet.refresh());
      return [since, refreshes.map(({packs, history}) => [packs, history.map((one) => one.at_s)])];
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
    # when the history is refreshed three times
    since, refreshes = browser.run(script, answers)
    # then each refresh starts where the one before ended, and nothing is kept twice
    assert since == [0, 10, 12]
    assert refreshes[1] == [{"a": [{"at_s": 6}, {"at_s": 7}], "b": []}, [1, 3]]
    # and workers that are gone are dropped
    assert refreshes[2] == [{"b": []}, [1, 3]]
