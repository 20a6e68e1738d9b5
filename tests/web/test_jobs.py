"""The Jobs and Fleet tabs before a real stack."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, Browser

pytestmark = pytest.mark.browser

REQUESTS, DOCUMENTS = 150, 20
END_S = 120.0


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten seconds of work or more, with a line that is none and an image that is refused."""
    lines = [
        {
            "id": f"r{number}",
            "query": "a red heart",
            "documents": [f"heart {number} {at} " + "red " * 30 for at in range(DOCUMENTS)],
        }
        for number in range(REQUESTS)
    ]
    lines += [
        {"id": "bad", "query": "no documents"},
        {"id": "far", "query": "a heart", "documents": [{"image": "s3://other/a.jpg"}]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def begin(browser: Browser, stack: Stack, source: Path, name: str) -> None:
    """Begin a job from a file, as a person does."""
    browser.open(f"{stack.gateway}/#/jobs")
    browser.click("#new-job")
    browser.wait("#job-file").send_keys(str(source))
    browser.write("#job-name", name)
    browser.click("#start-job")
    browser.wait(".job-facts .progress")


def state(browser: Browser) -> str:
    """The state that the page of a job shows."""
    return str(browser.run("return document.querySelector('.title .chip').dataset.state"))


def pairs_done(browser: Browser) -> int:
    """How many pairs the page says are done."""
    return int(browser.texts(".figure-box strong")[0].split(" / ")[0].replace(",", ""))


@pytest.mark.slow
def test_a_job_is_watched_to_its_end_over_the_death_of_its_worker(
    browser: Browser, stack: Stack, source: Path, keep: Callable[[str], None]
) -> None:
    # given a job from a file
    begin(browser, stack, source, "hearts")
    # when it is under way, then progress and charts move
    wait_until(lambda: pairs_done(browser) > DOCUMENTS, END_S, "pairs are scored")
    browser.wait(".chart .line")
    assert state(browser) == "running"
    keep("job-running")
    # when the worker is killed while somebody watches
    before = pairs_done(browser)
    stack.kill("-m workers ")
    # then the page goes on with the job to its end
    wait_until(lambda: state(browser) == "done", END_S, "the job is done")
    total = REQUESTS * DOCUMENTS + 2
    browser.wait_text(".figure-box:first-child strong", f"{total:,} / {total:,}")
    assert pairs_done(browser) > before
    # and tells what has no score, and why
    browser.wait_text(".job-errors", "not allowed")
    assert "documents" in browser.text(".job-errors")
    keep("job-done")


def test_a_job_is_paused_resumed_and_cancelled(
    browser: Browser, stack: Stack, source: Path
) -> None:
    begin(browser, stack, source, "steered")
    browser.click("[data-action=pause]")
    wait_until(lambda: state(browser) == "paused", WAIT_S, "it is paused")
    browser.click("[data-action=resume]")
    wait_until(lambda: state(browser) in ("running", "finishing"), WAIT_S, "it goes on")
    browser.click("[data-action=cancel]")
    wait_until(lambda: state(browser) == "cancelled", END_S, "it is cancelled")
    # and the table has it, and only where it is asked for
    browser.click(".back")
    browser.wait_text(".jobs", "steered")
    browser.click(".segments [data-state=paused]")
    wait_until(lambda: "steered" not in browser.text(".jobs tbody"), WAIT_S, "none is paused")


def test_the_fleet_is_shown(browser: Browser, stack: Stack) -> None:
    wait_until(stack.ready_workers, END_S, "a worker is ready")
    (worker,) = stack.ready_workers()
    browser.open(f"{stack.gateway}/#/fleet")
    browser.wait_text(".worker", f"pid {worker.pid}")
    assert "1,024 pairs" in browser.text(".worker")
    assert "Because" in browser.text(".worker")
    assert browser.wait(".chart .line")
