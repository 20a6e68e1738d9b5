"""The documentation says what the program does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rerankfleet.shared.cli import build
from rerankfleet.shared.settings import SECTIONS, Settings
from tools.reference import PAGES as PAGES_MADE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(build()).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", PAGES_MADE)
def test_a_reference_page_says_what_the_code_declares(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    assert page == PAGES_MADE[name](), "run: make docs"


def test_every_setting_is_described_under_a_heading() -> None:
    page = PAGES_MADE["settings.md"]()
    listed = re.findall(r"^\| `RERANK_(\w+)` \|", page, re.MULTILINE)
    assert listed == [name.upper() for name in Settings.model_fields]
    assert all(field.description for field in Settings.model_fields.values())
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == list(SECTIONS.values())


PAGES = sorted(
    str(page.relative_to(ROOT)) for folder in (ROOT, ROOT / "docs") for page in folder.glob("*.md")
)
SHOWN = "\n".join(
    block
    for page in PAGES
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
)


def test_every_command_that_the_documentation_shows_exists() -> None:
    shown = set(re.findall(r"^\$ rerank ([a-z]+)\b", SHOWN, re.MULTILINE))
    assert shown <= set(COMMANDS), shown - set(COMMANDS)


def test_every_option_that_the_documentation_shows_exists() -> None:
    for line in SHOWN.splitlines():
        shown = re.search(r"\brerank ([a-z]+)(.*)", line.split("#")[0])
        if not shown or shown[1] not in COMMANDS:
            continue
        known = options_of(COMMANDS[shown[1]])
        for option in re.findall(r"(?<!\S)(--[a-z-]+|-o)\b", shown[2]):
            assert option in known, f"rerank {shown[1]} has no {option}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_and_is_documented(name: str) -> None:
    assert "Example: " in (COMMANDS[name].help or "")
    assert re.search(rf"\brerank {name}\b", SHOWN)


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text())):
        if "://" in link:
            continue
        file, _, heading = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if heading:
            assert heading in anchors(target.read_text()), link


def test_the_index_lists_every_page_of_the_documentation() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = re.findall(r"\]\((\w[\w-]*\.md)\)", index)
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert sorted(listed) == sorted(pages - {"README.md"})


def test_the_runbook_has_a_heading_for_every_alert() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]
    headings = anchors((ROOT / "docs" / "runbook.md").read_text())
    for alert in (rule for group in groups for rule in group["rules"]):
        file, _, heading = alert["annotations"]["runbook"].partition("#")
        assert file == "docs/runbook.md"
        assert heading == alert["alert"].lower()
        assert heading in headings


def test_the_example_environment_names_only_real_variables() -> None:
    variables = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.M)
    settings = {f"RERANK_{name.upper()}" for name in Settings.model_fields}
    compose = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", (ROOT / "docker-compose.yml").read_text()))
    assert len(variables) >= 15
    assert set(variables) <= settings | compose


def test_every_setting_that_the_documentation_names_exists() -> None:
    settings = {f"RERANK_{name.upper()}" for name in Settings.model_fields}
    compose = set(re.findall(r"\bRERANK_\w+\b", (ROOT / "docker-compose.yml").read_text()))
    for page in PAGES:
        named = set(re.findall(r"`(RERANK_[A-Z_]*[A-Z])[=`]", (ROOT / page).read_text()))
        assert named <= settings | compose | {"RERANK_TEST_PATIENCE"}, page


def test_every_folder_of_the_readme_tree_exists() -> None:
    blocks = README.split("```")[1::2]
    (tree,) = (block for block in blocks if re.search(r"^shared/ ", block, re.MULTILINE))
    names = re.findall(r"^ *(\w+)/ ", tree, re.MULTILINE)
    assert len(names) >= 5
    for name in names:
        assert list(ROOT.glob(f"{name}/")) or list(ROOT.glob(f"*/{name}/")), name


def options_of(command: Any) -> set[str]:
    """The options of a command and of its sub-commands."""
    own = {name for option in command.params for name in option.opts}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def without_code(text: str) -> str:
    """The text without fenced blocks and code spans, which may hold what looks like a link."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The fragments that lead to the headings of a Markdown page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
