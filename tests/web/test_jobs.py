"""The Jobs and Fleet tabs with a real stack."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from pyarrow import parquet

from tests.support.stack import Stack
from tests.support.wait import patient, wait_until
from tests.web.browser import WAIT_S, Browser

pytestmark = pytest.mark.browser

Files = list[tuple[str, str, bytes]]
REQUESTS, DOCUMENTS = 150, 20
END_S = 300.0
FETCHED = "return fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => [...new Uint8Array(b)])"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """At least ten seconds of work, with an invalid line and an image that may not be read."""
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
    """Start a job from a file in the dialog."""
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
def test_a_job_is_followed_to_its_end_although_its_worker_dies(
    browser: Browser, stack: Stack, source: Path, keep: Callable[[str], None]
) -> None:
    # given a job from a file
    begin(browser, stack, source, "hearts")
    # when it is running, then progress and charts are updated
    wait_until(lambda: pairs_done(browser) > DOCUMENTS, END_S, "pairs are scored")
    browser.wait(".chart .line")
    assert state(browser) == "running"
    keep("job-running")
    # when the worker is killed
    before = pairs_done(browser)
    stack.kill("-m rerankfleet.workers ")
    # then the page says that no worker is running, unless a new one starts first
    wait_until(
        lambda: re.search("no worker|loading|^$", browser.text(".reason")),
        END_S,
        "the reason is shown",
    )
    keep("worker-killed")
    # and the job runs to its end
    wait_until(lambda: state(browser) == "done", END_S, "the job is done")
    total = REQUESTS * DOCUMENTS + 1  # a line without documents has no pair
    browser.wait_text(".figure-box:first-child strong", f"{total:,} / {total:,}")
    assert pairs_done(browser) > before
    # and the page lists what has no score, and why
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
    # and the table lists it, but only under the matching filter
    browser.click(".back")
    browser.wait_text(".jobs", "steered")
    browser.click(".segments [data-state=paused]")
    wait_until(lambda: "steered" not in browser.text(".jobs tbody"), WAIT_S, "none is paused")


def test_a_catalog_is_downloaded_as_parquet(
    browser: Browser, stack: Stack, tmp_path: Path, images: Files, keep: Callable[[str], None]
) -> None:
    # given a listing of uploaded images, and one that may not be read
    with httpx.Client(base_url=stack.gateway, timeout=patient(30)) as http:
        uploads = [
            http.post("/v1/uploads", params={"name": name}, content=data).json()["uri"]
            for name, _, data in images[:3]
        ]
    listing = tmp_path / "shop.txt"
    listing.write_text("".join(f"{uri}\n" for uri in [*uploads, "s3://other/a.jpg"]))
    # when every query is scored with every image, as rows of Parquet
    browser.open(f"{stack.gateway}/#/jobs")
    browser.click("#new-job")
    browser.wait("#job-file").send_keys(str(listing))
    browser.click("#job-dialog summary")
    browser.write("#job-queries", "a red heart\nyellow stars")
    browser.choose("#job-format", "parquet")
    browser.click("#start-job")
    wait_until(lambda: browser.all("#downloads [data-file]"), END_S, "there is something to take")
    assert state(browser) == "done"
    keep("downloads")
    # then its parts, its manifest and its errors can be downloaded
    names = [link.get_attribute("data-file") or "" for link in browser.all("#downloads a")]
    assert names[:2] == ["manifest.json", "errors.jsonl"]
    assert all(name.endswith(".parquet") for name in names[2:])
    # and each link leads to its file
    data = {
        name: bytes(browser.run(FETCHED, link.get_property("href")))
        for name, link in zip(names, browser.all("#downloads a"), strict=True)
    }
    tables = [parquet.read_table(io.BytesIO(data[name])) for name in names[2:]]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len(rows) == 8
    assert sum(row["margin"] is not None for row in rows) == 6
    assert b"not allowed" in data["errors.jsonl"]
    assert json.loads(data["manifest.json"])["scored"] == 6
    # and a catalog offers no retry
    assert not browser.all("[data-action=retry]")


def test_the_fleet_is_shown(browser: Browser, stack: Stack) -> None:
    wait_until(stack.ready_workers, END_S, "a worker is ready")
    (worker,) = stack.ready_workers()
    browser.open(f"{stack.gateway}/#/fleet")
    browser.wait_text(".worker", f"pid {worker.pid}")
    assert "1,024 pairs" in browser.text(".worker")
    assert "Reason" in browser.text(".worker")
    assert browser.wait(".chart .line")
