"""First steps that many tests of the page share."""

from __future__ import annotations

from collections.abc import Callable

from selenium.webdriver.common.keys import Keys

from tests.web.browser import Browser
from tests.web.canned import CannedGateway

Keep = Callable[[str], None]
Files = list[tuple[str, str, bytes]]


def fill_in(browser: Browser, *lines: str) -> None:
    """Enter a query and text candidates."""
    browser.write("#query-text", "a red heart")
    if not browser.all("#candidate-lines:not([hidden] *)"):
        browser.click("#add-text")
    browser.write("#candidate-lines", "\n".join(lines or ("a heart", "a ring", "a star")))
    browser.click("#add-lines")
    browser.wait(".card")


def open_ranked(browser: Browser, gateway: CannedGateway) -> None:
    """Open the page and rank three candidates."""
    browser.open(gateway.address)
    fill_in(browser)
    browser.press(Keys.CONTROL, Keys.ENTER)
    browser.wait(".result")
