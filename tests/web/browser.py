"""Headless Chromium, and what users do with a page."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from shutil import which
from typing import Any
from urllib.parse import urlsplit

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support.wait import patient, wait_until

WAIT_S = 30.0
COLOURS = 256
"""Of a screenshot."""
WIDE, NARROW = (1400, 900), (390, 844)

_VISIBLE = "return [...document.querySelectorAll(arguments[0])].find(e => e.checkVisibility())"
_DRAWN = "return [...document.images].every(i => !i.checkVisibility() || (i.src && i.complete))"
_FRAME = "return new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))"
_DROP = """
const [target, kind, files] = arguments;
const transfer = new DataTransfer();
for (const [name, type, data] of files) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name, {type}));
}
const event = kind === "paste"
  ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true, cancelable: true})
  : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
target.dispatchEvent(event);
"""


def missing_program() -> str:
    """The first required program that is not installed, or an empty text."""
    return next((name for name in ("chromium", "chromedriver") if not which(name)), "")


class Browser:
    """Headless Chromium, one page at a time."""

    def __init__(self, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = str(which("chromium"))
        for word in (
            *("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
            *("--no-sandbox", "--lang=en", "--force-color-profile=srgb", "--no-first-run"),
            f"--user-data-dir={profile}",
        ):
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, Service(which("chromedriver")))
        self.driver.set_page_load_timeout(patient(WAIT_S))
        self.driver.set_script_timeout(patient(WAIT_S))

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()

    # ---- reading

    def open(self, address: str, size: tuple[int, int] = WIDE) -> None:
        """Open a page, with all storage of earlier visits cleared."""
        self.resize(size)
        self.driver.get("about:blank")
        self.read_logs()
        self.driver.execute_cdp_cmd(
            "Storage.clearDataForOrigin",
            {"origin": address.rstrip("/").split("/#")[0], "storageTypes": "all"},
        )
        self.driver.get(address)
        self.wait("main")

    def resize(self, size: tuple[int, int]) -> None:
        """Set the size of the page, in pixels."""
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def all(self, selector: str) -> list[WebElement]:
        """All current matches."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector: str) -> WebElement:
        """Wait for a visible match, and return the first one."""
        element = wait_until(lambda: self.run(_VISIBLE, selector), WAIT_S, f"{selector} is shown")
        assert isinstance(element, WebElement)
        return element

    def wait_gone(self, selector: str) -> None:
        """Wait until nothing that matches is visible."""
        wait_until(lambda: not self.run(_VISIBLE, selector), WAIT_S, f"{selector} is gone")

    def wait_text(self, selector: str, text: str) -> None:
        """Wait until a match contains a text."""
        wait_until(lambda: text in self.text(selector), WAIT_S, f"{selector} says {text!r}")

    def wait_gone_text(self, selector: str, text: str) -> None:
        """Wait until no match contains a text."""
        wait_until(
            lambda: text not in self.text(selector), WAIT_S, f"{selector} no longer says {text!r}"
        )

    def text(self, selector: str) -> str:
        """The texts of all matches."""
        return "\n".join(self.texts(selector))

    def texts(self, selector: str) -> list[str]:
        """The text of each match."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText)"
        return [str(text) for text in self.run(script, selector)]

    def run(self, script: str, *arguments: Any) -> Any:
        """The result of a script; of a promise, its value."""
        return self.driver.execute_script(script, *arguments)

    def screenshot(self, path: Path) -> None:
        """Save the whole page as a small PNG."""
        width, height = self.run("return [innerWidth, innerHeight]")
        self.driver.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": "mouseMoved", "x": 1, "y": 1}
        )
        for _ in range(3):  # the page may grow while it is drawn
            whole = self.run("return document.documentElement.scrollHeight")
            self.resize((width, max(height, whole)))
            self.run(_FRAME)
            wait_until(lambda: self.run(_DRAWN), WAIT_S, "all images are drawn")
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        drawn = Image.open(BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        few = drawn.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=4)
        few.save(path, optimize=True)
        self.resize((width, height))

    # ---- acting

    def click(self, selector: str) -> None:
        """Click on the first visible match."""
        target = self.wait(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", target)
        target.click()

    def write(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        field = self.wait(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys together."""
        self.driver.switch_to.active_element.send_keys("".join(keys) + Keys.NULL)

    def slide(self, selector: str, value: float) -> None:
        """Move a slider."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.run(script, self.wait(selector), value)

    def choose(self, selector: str, value: str) -> None:
        """Choose an option by its value."""
        script = (
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('change'))"
        )
        self.run(script, self.wait(selector), value)

    def drop(self, selector: str, files: Sequence[tuple[str, str, bytes]]) -> None:
        """Drop files, each (name, type, bytes), on an element."""
        self._transfer(selector, "drop", files)

    def paste(self, selector: str, files: Sequence[tuple[str, str, bytes]]) -> None:
        """Paste files into an element."""
        self._transfer(selector, "paste", files)

    def _transfer(self, selector: str, kind: str, files: Sequence[tuple[str, str, bytes]]) -> None:
        coded = [[name, type_, base64.b64encode(data).decode()] for name, type_, data in files]
        self.run(_DROP, self.wait(selector), kind, coded)

    # ---- logs

    def read_logs(self) -> tuple[list[str], set[str]]:
        """Console errors and requested hosts since the last call."""
        errors = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
        hosts = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = urlsplit(message["params"]["request"]["url"])
                if url.scheme not in ("data", "blob", "about"):
                    hosts.add(url.netloc)
        return errors, hosts


def screenshots() -> Path | None:
    """The folder for screenshots, from PAGE_SCREENSHOTS, if set."""
    named = os.environ.get("PAGE_SCREENSHOTS")
    return Path(named) if named else None
