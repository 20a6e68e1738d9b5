"""Keyboard, focus, and names of controls."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, Browser
from tests.web.canned import CannedGateway, failed, rerank
from tests.web.canned_jobs import JOB, serve_finished_job
from tests.web.steps import Files, fill_in, open_ranked

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("tab", ["rerank", "jobs", "fleet", "jobs/j1"])
def test_every_control_has_a_name(browser: Browser, gateway: CannedGateway, tab: str) -> None:
    serve_finished_job(gateway)
    browser.open(f"{gateway.address}#/{tab}")
    browser.wait(f"#tab-{tab.split('/')[0]}[aria-current=page]")
    # given the accessibility tree
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "textbox", "slider", "combobox", "checkbox", "radio", "link", "spinbutton"}
    controls = [node for node in tree if node.get("role", {}).get("value") in roles]
    assert controls
    # then every control in it has a name
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
  && !(control.type === "radio" && !control.checked)  // reached by arrow keys from the checked one
  && !walked.has(control)).map((control) => control.outerHTML);
"""


@pytest.mark.parametrize("tab", ["rerank", "jobs", "fleet", "jobs/j1"])
def test_tab_reaches_every_control_and_each_shows_a_focus_ring(
    browser: Browser, gateway: CannedGateway, images: Files, tab: str
) -> None:
    serve_finished_job(gateway)
    browser.open(f"{gateway.address}#/{tab}")
    if tab == "rerank":  # cards, a video and results
        fill_in(browser)
        browser.drop("#candidate-drop", images[:2])
        browser.drop("#video-drop", images[2:4])
        browser.wait(".with-video .quality")
        browser.press(Keys.CONTROL, Keys.ENTER)
        browser.wait(".result")
    elif tab == "jobs/j1":
        browser.wait("#downloads a")
    # when Tab is pressed from the first link until focus comes back to it
    browser.run(f"document.querySelector('.skip').focus(); {WALK}")
    for _ in range(150):
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement.className === 'skip'"):
            break
    # then every control had the focus, and showed a focus ring
    assert browser.run(LEFT_OUT) == []
    assert browser.run("return ringless") == []


FOCUSED = "return document.activeElement.id || document.activeElement.className.baseVal || ''"


def test_the_focus_survives_a_redraw(browser: Browser, gateway: CannedGateway) -> None:
    # given two runs, the second with two failures
    open_ranked(browser, gateway)
    gateway.answers["POST /v1/rerank"] = rerank(
        results=lambda whole: whole["results"][:1], errors=lambda whole: failed(1, 2)
    )
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".unscored.errors")
    # when the view is changed, and a run is compared with another
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
    # and after a retry the focus moves to its result
    gateway.answers["POST /v1/rerank"] = rerank()
    browser.run("document.querySelector('.unscored .again').focus()")
    browser.press(Keys.ENTER)
    wait_until(lambda: len(browser.all(".result")) == 2, WAIT_S, "both are ranked")
    wait_until(lambda: browser.run(FOCUSED).startswith("head-"), WAIT_S, "the result has the focus")


def test_a_focused_element_is_not_redrawn(browser: Browser, gateway: CannedGateway) -> None:
    # given a table of jobs with the focus on a link
    gateway.reply("GET /v1/jobs", {"data": [JOB]})
    browser.open(f"{gateway.address}#/jobs")
    browser.wait("[data-job=j1]")
    browser.run("window.link = document.querySelector('[data-job=j1] a'); link.focus()")
    # when the job progresses and another one appears
    later = JOB | {"progress": JOB["progress"] | {"scored": 9999}}
    gateway.reply("GET /v1/jobs", {"data": [JOB | {"id": "j2", "name": "later"}, later]})
    browser.wait_text(".jobs", "later")
    browser.wait_text("[data-job=j1]", "10,399")
    # then the link keeps the focus
    assert browser.run("return document.activeElement === link")
    # and a chart is redrawn only once the focus has left it
    browser.click("#tab-fleet")
    browser.wait(".chart .mark")
    browser.run("window.mark = document.querySelector('.chart .mark'); mark.focus()")
    before = gateway.requests.count(("GET /v1/fleet", None))
    wait_until(
        lambda: gateway.requests.count(("GET /v1/fleet", None)) > before + 1,
        WAIT_S,
        "two more requests",
    )
    assert browser.run("return document.activeElement === mark")
    assert "tokens" in browser.text(".chart .tip:not([hidden])")
    browser.run("mark.blur()")
    wait_until(lambda: not browser.run("return mark.isConnected"), WAIT_S, "the chart is redrawn")


def test_a_run_is_operated_by_keyboard_alone(browser: Browser, gateway: CannedGateway) -> None:
    open_ranked(browser, gateway)
    # when the first result is opened with the keyboard
    browser.run("document.querySelector('.result-head').focus()")
    browser.press(Keys.ENTER)
    # then it is open, and aria-expanded says so
    assert browser.wait(".score-panel")
    (head, *_) = browser.all(".result-head")
    assert head.get_attribute("aria-expanded") == "true"
    # and the end of the run was announced
    assert "ranked in" in browser.run("return document.querySelector('#announcer').textContent")
