"""The Rerank tab with a real stack: Redis, coordinator, gateway and a worker of `pocket-vl`."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import pytest
from selenium.webdriver.common.keys import Keys

from rerankfleet.shared.content.images import PRESETS, ImageSpec
from rerankfleet.workers.images.resize import plan_size
from tests.support.stack import Stack
from tests.support.wait import wait_until
from tests.web.browser import NARROW, WAIT_S, Browser
from tests.web.conftest import EXAMPLE

pytestmark = pytest.mark.browser

Files = list[tuple[str, str, bytes]]
BLURRED, WIDE_ONE = "red-heart-blurred.jpg", "two-red-hearts.jpg"


@pytest.fixture
def page(stack: Stack, browser: Browser) -> Browser:
    """The page as it opens."""
    browser.open(f"{stack.gateway}/")
    browser.wait(".offer")
    return browser


def enter_hearts(page: Browser, images: Files) -> None:
    """Enter a query and ten images, and wait until the worker has assessed them."""
    page.write("#query-text", "a red heart")
    page.drop("#candidate-drop", images)
    wait_until(lambda: len(page.all(".card .quality")) == len(images), WAIT_S, "all are assessed")


def run_and_wait(page: Browser) -> None:
    """Press Ctrl+Enter and wait for the ranking."""
    runs = page.run("return document.querySelectorAll('#run option').length")
    page.press(Keys.CONTROL, Keys.ENTER)
    page.wait(".result")
    page.wait_text("#run-status", "Ranked in")
    assert runs == 0 or len(page.all("#run option")) == runs + 1


def card(page: Browser, images: Files, name: str) -> str:
    """The selector of a dropped image's card."""
    return f".card:nth-child({[file[0] for file in images].index(name) + 1})"


# ---- ranking ------------------------------------------------------------------------------------


def test_an_image_query_ranks_ten_dropped_candidates(
    page: Browser, images: Files, keep: Callable[[str], None]
) -> None:
    # given an image dropped on the query and ten on the candidates
    page.drop("#query", [file for file in images if file[0] == "red-heart.jpg"])
    page.wait(".query-image .quality")
    page.drop("#candidate-drop", images)
    wait_until(lambda: len(page.all(".card .quality")) == 10, WAIT_S, "all are assessed")
    # then each card describes the image and the input of the model
    facts = page.texts(f"{card(page, images, WIDE_ONE)} .facts p")
    assert facts[:2] == ["320 × 192 · 5:3 · 3.9 kB", "Model input 320 × 192"]
    assert facts[2:] == ["60 tokens · 6% cropped", "quality 1.00"]
    # when they are ranked
    run_and_wait(page)
    # then the list is sorted, and nothing is missing
    scores = [float(score) for score in page.texts(".result .score")]
    assert len(scores) == 9
    assert scores == sorted(scores, reverse=True)
    # and a panel explains the score
    page.click(".result:first-child .result-head")
    panel = page.text(".result:first-child .score-panel")
    for part in ("Overall", "Visual match", "Text alignment", "Consistency", "Used size", "fp32"):
        assert part in panel
    assert page.text(".result:first-child .overall .part-value") == f"{scores[0]:.3f}"
    keep("image-query")


def test_a_text_query_ranks_the_images_that_it_describes_first(
    page: Browser, images: Files, keep: Callable[[str], None]
) -> None:
    # given ten images and a query that describes some of them
    enter_hearts(page, images)
    keep("candidates")
    # when they are ranked
    run_and_wait(page)
    # then those come first
    names = page.texts(".result .name")
    assert all("red-heart" in name or "red-hearts" in name for name in names[:3])
    page.click(".result:first-child .result-head")
    keep("results")
    page.click(".result:first-child .result-head")
    # and the grid shows the same order
    page.click("#view-grid")
    page.wait(".ranking.as-grid")
    assert page.texts(".result .name") == names
    keep("results-grid")


def test_the_part_that_crop_removes_is_shaded(
    page: Browser, images: Files, keep: Callable[[str], None]
) -> None:
    # given an image of 320 × 192 under `crop`
    enter_hearts(page, images)
    crop = f"{card(page, images, WIDE_ONE)} .crop"
    left, top, right, bottom = plan_size(320, 192, ImageSpec()).box
    # then the box that is kept is drawn where the worker crops
    drawn = page.run(
        "const style = document.querySelector(arguments[0]).style;"
        "return ['--left', '--top', '--right', '--bottom'].map(n => style.getPropertyValue(n))",
        crop,
    )
    kept = [100 * left / 320, 100 * top / 192, 100 - 100 * right / 320, 100 - 100 * bottom / 192]
    assert [float(share.rstrip("%")) for share in drawn] == pytest.approx(kept)
    assert page.wait(crop)
    keep("crop")
    # when the resize mode keeps the whole image
    page.click("[name=mode][value=fit] + span")
    # then nothing is shaded
    page.wait_gone(".crop")


def test_the_threshold_rejects_a_blurred_image_until_it_is_scored_anyway(
    page: Browser, images: Files, keep: Callable[[str], None]
) -> None:
    # given ten images, one of them blurred
    enter_hearts(page, images)
    assert page.text("#threshold-effect") == "1 of 10 would be rejected."
    # when the threshold is moved, then the count follows
    page.slide("#threshold", 0.3)
    page.wait_text("#threshold-effect", "0 of 10")
    page.slide("#threshold", 0.65)
    page.wait_text("#threshold-effect", "1 of 10")
    # when they are ranked
    run_and_wait(page)
    # then the blurred one is listed separately, with a hint
    assert BLURRED in page.text(".unscored.rejected")
    assert "below the threshold of 0.65" in page.text(".unscored.rejected")
    assert BLURRED not in page.text(".ranking")
    keep("rejected")
    # when it is scored anyway
    page.click(".unscored.rejected .again")
    # then it is in the ranking, and marked
    page.wait_gone(".unscored.rejected")
    (item,) = [text for text in page.texts(".result .name") if BLURRED in text]
    assert "scored anyway" in item
    scores = [float(score) for score in page.texts(".result .score")]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    keep("scored-anyway")


def test_a_blurred_query_rejects_all_until_they_are_scored_anyway(
    page: Browser, images: Files
) -> None:
    # given a blurred image as query
    page.drop("#query", [file for file in images if file[0] == BLURRED])
    page.wait(".query-image .quality.poor")
    page.drop("#candidate-drop", images[:2])
    wait_until(lambda: len(page.all(".card .quality")) == 2, WAIT_S, "all are assessed")
    page.wait_text("#threshold-effect", "nothing would be scored")
    # when it is run, then it is rejected, and nothing is scored
    page.press(Keys.CONTROL, Keys.ENTER)
    page.wait_text(".unscored.rejected", "2 rejected")
    assert page.texts(".unscored .name") == ["The query"]
    # when it is scored anyway, then both are ranked
    page.click(".unscored.rejected .again")
    page.wait_gone(".unscored.rejected")
    assert len(page.all(".result")) == 2


def test_two_runs_are_compared(page: Browser, images: Files, keep: Callable[[str], None]) -> None:
    # given two runs with different queries
    enter_hearts(page, images)
    run_and_wait(page)
    page.write("#query-text", "four yellow stars")
    run_and_wait(page)
    page.wait("#compare")
    # then each result says how its rank changed
    assert page.text(".result:first-child .change") == "▲" + str(changed_up(page))
    # when they are compared side by side
    page.choose("#compare", "1")
    page.wait(".compare")
    # then a line connects the two ranks of each candidate
    assert len(page.all(".compare .links path")) == 9
    keep("compare")


def changed_up(page: Browser) -> int:
    """How many ranks the first result has risen, by its accessible label."""
    (change,) = page.all(".result:first-child .change")
    return int((change.get_attribute("aria-label") or "").split()[0])


# ---- what is brought ----------------------------------------------------------------------------


def test_candidates_are_pasted_typed_and_dropped_in_pairs(page: Browser, images: Files) -> None:
    # given a pasted image, the same once more, and an image with a caption file
    page.paste("body", images[:1])
    page.wait(".card")
    page.paste("body", images[:1])
    caption = (images[1][0].replace(".jpg", ".txt"), "text/plain", b"triangles, all green")
    page.drop(".top", [images[1], caption])  # wherever it falls
    # and two lines of text
    page.click("#add-text")
    page.write("#candidate-lines", "a red heart\n\na blue ring")
    page.click("#add-lines")
    # then there are five: the second is a duplicate, the third has its caption
    wait_until(lambda: len(page.all(".card")) == 5, WAIT_S, "five cards")
    assert page.text(".card:nth-child(2) .duplicate") == "Duplicate of 1"
    values = page.run("return [...document.querySelectorAll('.card .words')].map(e => e.value)")
    assert values == ["", "", "triangles, all green", "a red heart", "a blue ring"]
    # when one is replaced, then its card shows the new image
    field = page.all(".card:nth-child(2) input[type=file]")[0]
    field.send_keys(str(EXAMPLE / "pink-circle.jpg"))
    page.wait(".card:nth-child(2) img[alt='pink-circle.jpg']")
    page.wait_gone(".duplicate")
    # when one is removed, then its card is gone
    page.click(".card:nth-child(2) [aria-label^=Remove]")
    wait_until(lambda: len(page.all(".card")) == 4, WAIT_S, "four cards")
    # and a mix of images, pairs and text is ranked
    page.write("#query-text", "a red heart")
    run_and_wait(page)
    assert len(page.all(".result")) == 4


def test_frames_of_a_video_are_a_query(page: Browser, images: Files) -> None:
    page.click("[name=query-kind][value=video] + span")
    page.drop("#query", [images[0], images[3], images[7]])
    wait_until(lambda: len(page.all(".frames .quality")) == 3, WAIT_S, "three frames judged")
    page.drop("#candidate-drop", images[:2])
    run_and_wait(page)
    assert len(page.all(".result")) == 2


def test_frames_of_a_video_are_a_candidate(
    page: Browser, images: Files, keep: Callable[[str], None]
) -> None:
    # given frames of one shape, dropped in any order as one video
    frames = [(f"frame-{n}.jpg", kind, data) for n, (_, kind, data) in enumerate(images[2:8], 8)]
    page.drop("#video-drop", frames[::-1])
    page.wait(".card.with-video .quality")
    # then they are in the order of their names, with the size of the model's input
    names = page.run("return [...document.querySelectorAll('.frame-item img')].map(i => i.alt)")
    assert names == [name for name, *_ in frames]
    assert "6 frames · 256 × 192 · 4:3" in page.text(".with-video .facts")
    assert "Model input" in page.text(".with-video .facts")
    assert "3 s" in page.text(".with-video .facts")
    # when one is removed by keyboard, and the frame rate is set
    page.run("document.querySelector('.frame-item:nth-child(5) button').focus()")
    page.press(Keys.ENTER)
    wait_until(lambda: len(page.all(".frame-item")) == 5, WAIT_S, "five frames")
    assert page.run("return document.activeElement.closest('.with-video') !== null")
    page.wait(".card.with-video .quality")
    page.write(".with-video .fps", "5")
    page.press(Keys.TAB)
    page.wait_text(".with-video .facts", "· 1 s")
    keep("video")
    # and the video is ranked with an image and a text
    page.drop("#candidate-drop", images[:1])
    page.write("#query-text", "a red heart")
    run_and_wait(page)
    assert len(page.all(".result")) == 2
    assert "frame-8.jpg · 5 frames" in page.text(".ranking")
    # and removing the last frame removes the video
    for left in range(4, -1, -1):
        page.click(".frame-item button")
        wait_until(lambda left=left: len(page.all(".frame-item")) == left, WAIT_S, "one less")
    assert len(page.all(".card")) == 1


def test_an_example_fills_everything_in_and_runs(page: Browser) -> None:
    page.click("[data-example='1']")
    wait_until(lambda: len(page.all(".card")) == 6, WAIT_S, "six passages")
    run_and_wait(page)
    assert len(page.all(".result")) == 6


# ---- what is taken away -------------------------------------------------------------------------


def test_a_run_is_copied_and_saved(page: Browser) -> None:
    # given a run of an example
    page.click("[data-example='1']")
    wait_until(lambda: len(page.all(".card")) == 6, WAIT_S, "six passages")
    run_and_wait(page)
    # when it is exported in each format, with downloads and the clipboard intercepted
    page.run(
        "window.taken = [];"
        "document.execCommand = () => true;"
        "navigator.clipboard.writeText = async (text) => void window.taken.push(text);"
        "const make = URL.createObjectURL;"
        "URL.createObjectURL = (blob) => (blob.text().then(t => window.taken.push(t)), make(blob));"
        "HTMLAnchorElement.prototype.click = () => {};"
    )
    for action in ("copy.curl", "copy.python", "copy.line", "export.json", "export.csv"):
        page.click("#export")
        page.click(f"[data-action='{action}']")
    wait_until(lambda: page.run("return window.taken.length") == 5, WAIT_S, "all are taken")
    curl, python, line, saved, table = page.run("return window.taken")
    # then each export has the right content
    assert curl.startswith("curl -sS http://127.0.0.1:")
    compile(python, "copied", "exec")
    assert len(json.loads(line)["documents"]) == 6
    assert len(json.loads(saved)["answer"]["results"]) == 6
    assert len(table.strip().split("\r\n")) == 7


def test_settings_are_in_the_address(page: Browser, stack: Stack) -> None:
    # given a query and settings other than the defaults
    page.write("#query-text", "a red heart")
    page.choose("#preset", "product")
    page.slide("#threshold", 0.4)
    address = page.driver.current_url
    # when its address is opened in a new page
    page.open(address)
    # then they are restored
    assert page.run("return document.querySelector('#query-text').value") == "a red heart"
    assert page.run("return document.querySelector('#preset').value") == "product"
    assert page.run("return document.querySelector('#threshold').value") == "0.4"


# ---- image sizes, planned by page and worker ----------------------------------------------------


def test_the_page_plans_sizes_as_the_worker_does(page: Browser) -> None:
    # given many sizes under all presets
    sides = (31, 64, 192, 256, 333, 640, 768, 1000, 1024, 1599, 2048, 4032)
    cases = [
        (width, height, name, mode)
        for width, height in product(sides, sides)
        for name, mode in product(PRESETS, ("crop", "fit"))
        if name != "reference" or mode == "crop"
    ]
    sizes = [(w, h, PRESETS[name].target, mode) for w, h, name, mode in cases]
    # when the page plans them
    planned = page.run(
        "const [sizes] = arguments;"
        "return import('/js/sizes.js').then(({planSize}) => sizes.map(([w, h, target, mode]) => {"
        "  const {box, used} = planSize(w, h, {target, mode, maxCrop: 0.15});"
        "  return [...box, ...used]; }))",
        sizes,
    )
    # then it plans what the worker does
    for (width, height, name, mode), box_and_size in zip(cases, planned, strict=True):
        plan = plan_size(width, height, ImageSpec(name, mode))
        assert box_and_size == [*plan.box, *plan.size], (width, height, name, mode)


# ---- on a phone ---------------------------------------------------------------------------------


def test_everything_fits_on_a_narrow_screen(
    page: Browser, stack: Stack, images: Files, keep: Callable[[str], None]
) -> None:
    page.open(f"{stack.gateway}/", NARROW)
    enter_hearts(page, images)
    run_and_wait(page)
    page.click(".result:first-child .result-head")
    keep("results-narrow")
    for tab in ("jobs", "fleet", "rerank"):
        page.click(f"#tab-{tab}")
        page.wait(f"#tab-{tab}[aria-current=page]")
        assert page.run("return document.documentElement.scrollWidth") <= NARROW[0], tab
