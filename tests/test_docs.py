"""The documentation says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from rerankfleet.shared.cli import build
from rerankfleet.shared.settings import SECTIONS, Settings
from tools.reference import PAGES as PAGES_MADE

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
JOBS = (ROOT / "docs/jobs.md").read_text()
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


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"rerank (up|demo|[a-z]+)\b", "\n".join(code_blocks(README))))
    assert shown <= set(COMMANDS), shown - set(COMMANDS)


def test_every_option_that_the_readme_shows_exists() -> None:
    for line in "\n".join(code_blocks(README)).splitlines():
        found = re.search(r"\brerank ([a-z]+)(.*)", line.split("#")[0])
        if not found or "|" in found[2]:
            continue
        known = {name for option in COMMANDS[found[1]].params for name in option.opts}
        for option in re.findall(r"(--[a-z-]+|-o)\b", found[2]):
            assert option in known, f"rerank {found[1]} has no {option}"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_and_is_in_the_docs(name: str) -> None:
    assert "Example: " in (COMMANDS[name].help or "")
    assert re.search(rf"^\$ rerank {name}\b", JOBS, re.MULTILINE)


PAGES = ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_folder_of_the_readme_tree_exists() -> None:
    tree = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"^ *(\w+)/ ", tree, re.MULTILINE):
        assert list(ROOT.glob(f"{name}/")) or list(ROOT.glob(f"*/{name}/")), name


def code_blocks(text: str) -> list[str]:
    """The bodies of fenced blocks of shell commands."""
    return re.findall(r"```console\n(.*?)```", text, re.DOTALL)
