"""States of the page: no worker, a loading model, no connection, no key, settings in links."""

from __future__ import annotations

from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.support.wait import wait_until
from tests.web.browser import WAIT_S, Browser
from tests.web.canned import MODEL, CannedGateway, Reply, error, fleet_of
from tests.web.steps import Files, Keep, fill_in

pytestmark = pytest.mark.browser


def test_an_empty_page_offers_examples(
    browser: Browser, gateway: CannedGateway, keep: Keep
) -> None:
    browser.open(gateway.address)
    browser.wait(".offer img")
    keep("empty")
    # then the page says what is missing, and the run button is disabled
    assert "Enter a query first." in browser.text("#run-status")
    assert not browser.wait("#run-button").is_enabled()


def test_no_worker(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    # given a fleet without workers
    gateway.reply("GET /v1/models", {"data": []})
    gateway.reply("GET /v1/fleet", fleet_of())
    browser.open(gateway.address)
    # then every tab shows the command to run
    browser.wait_text("[data-state=no-worker]", "rerank worker --model")
    keep("no-worker")
    browser.click("#tab-fleet")
    browser.wait_text("[data-state=no-worker]", "rerank worker --model")
    # when a worker appears, then the notice disappears
    gateway.reply("GET /v1/models", {"data": [MODEL]})
    browser.click("#tab-rerank")
    browser.wait_gone("[data-state=no-worker]")


def test_a_loading_model(browser: Browser, gateway: CannedGateway, keep: Keep) -> None:
    gateway.reply("GET /v1/models", {"data": [{**MODEL, "state": "loading"}]})
    browser.open(gateway.address)
    browser.wait_text("[data-state=loading]", "pocket-vl is loading")
    browser.wait(".fleet-chip .lamp.warn")
    keep("loading")


def test_a_text_only_model(browser: Browser, gateway: CannedGateway, images: Files) -> None:
    # given two models, with the text-only one chosen
    text_only = {**MODEL, "id": "pocket-text", "sees": False}
    gateway.reply("GET /v1/models", {"data": [text_only, MODEL]})
    browser.open(gateway.address)
    browser.choose("#model", "pocket-text")
    browser.drop("#candidate-drop", images[:1])
    # when the notice is used to switch to the other model
    browser.click("[data-state=text-only] button")
    # then the notice disappears and the image is assessed
    browser.wait_gone("[data-state=text-only]")
    browser.wait(".card .quality")


def test_a_lost_connection_is_restored(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors += ["ERR_", "502"]

    # given a page in use, and a gateway that drops connections
    def drop_connection(_: Any) -> Reply:
        raise ConnectionAbortedError

    gateway.handle_error = lambda *about: None  # type: ignore[method-assign]
    browser.open(gateway.address)
    fill_in(browser)
    answers = dict(gateway.answers)
    gateway.answers.update(dict.fromkeys(answers, drop_connection))
    # then a banner appears, and the candidates stay
    browser.wait_text("[data-state=unreachable]", "Connection lost.")
    assert len(browser.all(".card")) == 3
    keep("connection-lost")
    # when the gateway is back, then the banner disappears
    gateway.answers.update(answers)
    browser.wait_gone("[data-state=unreachable]")
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")


def test_a_gateway_that_hangs_is_detected(browser: Browser, gateway: CannedGateway) -> None:
    # given a page in use with shortened timeouts, and a gateway that no longer answers
    let_through: list[bool] = []

    def hang(body: Any) -> Reply:
        wait_until(lambda: let_through, WAIT_S, "the test continues")
        return Reply({"data": [MODEL]})

    browser.open(gateway.address)
    browser.wait(".fleet-chip .lamp")
    browser.run(
        "const later = setTimeout;"
        "window.setTimeout = (work, ms) => later(work, ms > 5000 ? ms / 20 : ms)"
    )
    gateway.answers["GET /v1/models"] = hang
    # then the banner appears
    browser.wait_text("[data-state=unreachable]", "Connection lost.")
    # when it answers again, then the banner disappears
    let_through.append(True)
    browser.wait_gone("[data-state=unreachable]")


def test_a_key_is_requested(
    browser: Browser, gateway: CannedGateway, keep: Keep, allowed_errors: list[str]
) -> None:
    allowed_errors.append("401")
    # given a gateway that requires a key
    answers = dict(gateway.answers)
    for route in answers:
        gateway.reply(route, error("a key is needed"), 401)
    browser.open(gateway.address)
    browser.wait("#key-dialog")
    keep("unauthorised")
    # when Escape is pressed, then the dialog stays
    browser.press(Keys.ESCAPE)
    browser.press(Keys.ESCAPE)
    browser.wait("#key-dialog")
    # when the key is entered
    gateway.answers.update(answers)
    browser.write("#key", "secret")
    browser.press(Keys.ENTER)
    # then the page works, and the key is neither in the storage nor in the address
    browser.wait_gone("#key-dialog")
    browser.wait(".offer")
    stored = browser.run("return [Object.values(localStorage).join(), location.href].join()")
    assert "secret" not in stored


def test_a_key_that_no_header_can_hold(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("401")
    gateway.reply("GET /v1/models", error("a key is needed"), 401)
    browser.open(gateway.address)
    browser.write("#key", "wröng 心")
    browser.press(Keys.ENTER)
    # then the dialog refuses it, and it is not stored
    browser.wait_text("#key-dialog", "ASCII")
    assert browser.run("return sessionStorage.length") == 0
    assert not browser.run("return document.querySelector('.banner').checkVisibility()")


def test_an_address_with_invalid_encoding(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("404")
    gateway.reply("GET /v1/jobs/100%25/events", error("there is no job 100%"), 404)
    browser.open(f"{gateway.address}#/jobs/100%")
    browser.wait_text(".job-page", "there is no job 100%")


def settings_of(browser: Browser) -> list[str]:
    """The values of the query and of the settings' fields."""
    fields = ["query-text", "preset", "threshold", "temperature", "top-n"]
    return list(browser.run(f"return {fields}.map((id) => document.getElementById(id).value)"))


def test_a_link_that_is_opened_in_the_same_tab(browser: Browser, gateway: CannedGateway) -> None:
    # given a page in use
    browser.open(f"{gateway.address}#/rerank?threshold=0.3")
    browser.write("#query-text", "a ring")
    # when a link is opened in the same tab, then its settings apply, and the others are defaults
    link = "#/rerank?query=a+heart&preset=product&top_n=2"
    browser.run("location.hash = arguments[0]", link)
    assert settings_of(browser) == ["a heart", "product", "0.65", "1", "2"]
    assert browser.driver.current_url.endswith("preset=product&top_n=2&query=a+heart")
    # and switching tabs changes nothing
    browser.click("#tab-jobs")
    browser.click("#tab-rerank")
    browser.wait("#query-text")
    assert settings_of(browser) == ["a heart", "product", "0.65", "1", "2"]


@pytest.mark.parametrize("tab", ["new", "same"])
def test_a_link_with_invalid_settings(browser: Browser, gateway: CannedGateway, tab: str) -> None:
    link = "#/rerank?query=a+heart&temperature=0&threshold=7&preset=zzz&top_n=-3"
    browser.open(f"{gateway.address}{link if tab == 'new' else ''}")
    browser.wait("#preset")
    browser.run("location.hash = arguments[0]", link)
    assert settings_of(browser) == ["a heart", "general", "0.65", "1", ""]


def test_a_profile_fills_in_its_settings(browser: Browser, gateway: CannedGateway) -> None:
    browser.open(gateway.address)
    browser.choose("#instruction-preset", "profiles/ecommerce")
    values = browser.run(
        "return ['instruction', 'preset', 'temperature'].map(i => document.getElementById(i).value)"
    )
    assert values == ["Given a shopping query, find products", "product", "0.8"]
    # and choosing an instruction alone changes nothing else
    browser.choose("#instruction-preset", "instruction/web search")
    assert browser.run("return document.getElementById('preset').value") == "product"


MAY_NOT = "the key reader may not look at the workers: it has the right rerank"


def test_what_a_key_may_not_see_is_said_and_the_rest_works(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("403")
    # given a key that may only have requests scored
    refusal = error(MAY_NOT, "this needs the right admin", "missing_right")
    answers = dict(gateway.answers)
    for route in ("GET /v1/fleet", "GET /v1/jobs", "GET /v1/jobs/j1/events"):
        gateway.reply(route, refusal, 403)
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")
    # then the other tabs say what it may not do, and show neither empty charts nor "no jobs yet"
    browser.click("#tab-fleet")
    browser.wait_text("[data-state=refused]", MAY_NOT)
    browser.wait_text("[data-state=refused]", "needs the right admin")
    assert not browser.run("return document.querySelector('.charts').checkVisibility()")
    browser.click("#tab-jobs")
    browser.wait_text(".jobs-page [data-state=refused]", MAY_NOT)
    assert not browser.wait("#new-job").is_enabled()
    assert not browser.run("return document.querySelector('.empty').checkVisibility()")
    browser.run("location.hash = '#/jobs/j1'")
    browser.wait_text(".job-page [data-state=refused]", MAY_NOT)
    # when the right is given, then opening the tab shows it
    gateway.answers.update(answers)
    browser.click("#tab-fleet")
    browser.wait(".worker")
    browser.wait_gone(".fleet-page [data-state=refused]")


def test_a_key_over_its_rate_is_told_so_and_waits(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors.append("429")
    said = "the key slow may send 3 requests a day"
    limited = error(said, "try again in 2 s", "rate_limited")
    # given a page in use, whose key comes over its rate
    browser.open(gateway.address)
    fill_in(browser)
    gateway.reply("POST /v1/rerank", limited, 429, Retry_After="3600")
    browser.press(Keys.CONTROL, Keys.ENTER)
    # then the run ends with the reason, instead of waiting for an hour
    browser.wait_text("#run-status", said)
    # and so does what is asked for again and again, no sooner than it may be
    models = gateway.answers["GET /v1/models"]
    gateway.reply("GET /v1/models", limited, 429, Retry_After="1")
    browser.wait_text(".banner[data-state=refused]", said)
    gateway.answers["GET /v1/models"] = models
    browser.wait_gone(".banner[data-state=refused]")


def test_a_refused_key_is_not_sent_again_and_again(
    browser: Browser, gateway: CannedGateway, allowed_errors: list[str]
) -> None:
    allowed_errors += ["401", "429"]
    # given a gateway that has heard too many wrong keys from here
    answers = dict(gateway.answers)
    many = error("too many wrong API keys came from this address", "", "too_many_wrong_keys")
    for route in answers:
        gateway.reply(route, error("a key is needed"), 401)
    browser.open(gateway.address)
    browser.wait("#key-dialog")
    for route in answers:
        gateway.reply(route, many, 429, Retry_After="1")
    # when another wrong one is entered, then the dialog asks for the right one at once
    browser.write("#key", "wrong")
    browser.press(Keys.ENTER)
    browser.wait_text("#key-dialog", "rejected")
    # and the wrong one is not sent any more
    browser.run(
        "window.sent = []; const send = fetch;"
        "window.fetch = (path, how) => { sent.push(how?.headers?.Authorization ?? ''); "
        "return send(path, how); }"
    )
    wait_until(lambda: len(browser.run("return sent")) > 1, WAIT_S, "the page asks again")
    assert set(browser.run("return sent")) == {""}
    gateway.answers.update(answers)
    browser.write("#key", "right")
    browser.press(Keys.ENTER)
    browser.wait_gone("#key-dialog")
    browser.wait(".offer")
