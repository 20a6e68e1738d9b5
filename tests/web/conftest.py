"""A browser for all tests of the page, which are skipped with a reason where none is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.stack import Stack
from tests.web.browser import Browser, missing_program, screenshots
from tests.web.canned import CannedGateway, canned_gateway

EXAMPLE = Path(__file__).parents[2] / "producer" / "web" / "example"


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests. With NEED_CHROMIUM=1 its absence is a failure."""
    missing = missing_program()
    if missing and os.environ.get("NEED_CHROMIUM") == "1":
        pytest.fail(f"{missing} is not installed, and NEED_CHROMIUM is set")
    if missing:
        pytest.skip(f"{missing} is not installed: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def allowed_errors() -> list[str]:
    """Parts of console messages that a test expects, such as the status of an error it provokes."""
    return []


@pytest.fixture
def browser(chromium: Browser, allowed_errors: list[str]) -> Iterator[Browser]:
    """The browser; the test fails on console errors and on requests to more than one host."""
    chromium.read_logs()
    yield chromium
    errors, hosts = chromium.read_logs()
    chromium.driver.get("about:blank")
    assert [e for e in errors if not any(part in e for part in allowed_errors)] == []
    assert all(host.startswith("127.0.0.1:") for host in hosts), hosts
    assert len(hosts) <= 1, hosts


@pytest.fixture(scope="session")
def stack(vl_stack: Stack) -> Stack:
    """Redis, coordinator, gateway and a worker with `pocket-vl`."""
    return vl_stack


@pytest.fixture
def gateway(browser: Browser) -> Iterator[CannedGateway]:
    """A gateway with canned answers; the browser leaves the page before it stops."""
    with canned_gateway() as server:
        yield server
        browser.driver.get("about:blank")


@pytest.fixture
def keep(browser: Browser) -> Callable[[str], None]:
    """`keep("empty")` saves a screenshot under that name if PAGE_SCREENSHOTS is set."""
    folder = screenshots()
    if folder is None:
        return lambda name: None
    folder.mkdir(parents=True, exist_ok=True)
    return lambda name: browser.screenshot(folder / f"{name}.png")


@pytest.fixture(scope="session")
def images() -> list[tuple[str, str, bytes]]:
    """The ten example images as (name, type, bytes): one is blurred, two have unusual shapes."""
    return [(path.name, "image/jpeg", path.read_bytes()) for path in sorted(EXAMPLE.glob("*.jpg"))]
