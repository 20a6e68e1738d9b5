"""The source files of the page: translations, external hosts, contrast of colours."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.metrics import STAGES
from tests.web.canned import PAGE

SOURCES = sorted(PAGE.rglob("*.js")) + sorted(PAGE.rglob("*.css")) + [PAGE / "index.html"]
NO_HOSTS = {"http://www.w3.org/2000/svg"}  # an XML namespace, not an address


def entries(language: str) -> dict[str, str]:
    """The texts of the page in a language."""
    text = (PAGE / "js" / "words" / f"{language}.js").read_text()
    return dict(re.findall(r'"([\w.-]+)": "((?:[^"\\]|\\.)*)"', text))


def test_both_languages_have_the_same_texts_and_placeholders() -> None:
    english, chinese = entries("en"), entries("zh")
    assert set(english) - set(chinese) <= {"instruction.default"}  # instructions are English
    assert set(chinese) <= set(english)
    for key, text in chinese.items():
        placeholders = set(re.findall(r"{\w+}", english[key]))
        assert set(re.findall(r"{\w+}", text)) <= placeholders, key


def test_every_text_that_the_code_uses_exists() -> None:
    code = "\n".join(path.read_text() for path in SOURCES if "words" not in path.parts)
    used = set(re.findall(r'\b(?:t|counted|field|row|figure|part)\("([\w.]+)"', code))
    used |= {f"provenance.{name}" for name in Provenance.model_fields}
    used |= {f"step.{stage}" for (stage,) in STAGES.all_labels}
    assert used - set(entries("en")) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_comes_from_another_host(path: Path) -> None:
    hosts = set(re.findall(r"""(?:https?:)?//[\w-]+\.[\w./-]+""", without_comments(path)))
    assert hosts <= NO_HOSTS | {name.removeprefix("http:") for name in NO_HOSTS}


def without_comments(path: Path) -> str:
    text = path.read_text()
    return re.sub(r"^\s*(//|\*|/\*).*$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast_with_its_background(theme: str) -> None:
    colours = theme_colours(theme)
    inks = ("ink", "muted", "accent", "good", "warn", "bad")
    pairs = [(ink, back) for ink in inks for back in ("bg", "surface")]
    pairs += [("ink", "sunken"), ("muted", "sunken"), ("bg", "ink"), ("accent-ink", "accent")]
    pairs += [(name, f"{name}-soft") for name in ("accent", "good", "warn", "bad")]
    pairs += [("ink", f"{name}-soft") for name in ("accent", "good", "warn", "bad")]
    for ink, back in pairs:
        assert contrast(colours[ink], colours[back]) >= 4.5, f"{ink} on {back} in {theme}"
    # and borders of fields, and the lines and columns of charts
    drawn = ["edge", "accent", *(f"series-{number}" for number in range(4))]
    for line in drawn:
        assert contrast(colours[line], colours["surface"]) >= 3, f"{line} in {theme}"


def theme_colours(theme: str) -> dict[str, str]:
    text = (PAGE / "style" / "base.css").read_text()
    colours = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", text)
    assert colours
    return {name: light if theme == "light" else dark for name, light, dark in colours}


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    levels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
