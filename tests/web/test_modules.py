"""The modules of the page: imported names exist, and no imports are circular."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rerankfleet.shared.content.options import PLAIN_OPTIONS, ScoringOptions

SCRIPTS = Path(__file__).parents[2] / "producer" / "web" / "js"
MODULES = sorted(SCRIPTS.rglob("*.js"))

COMMENTS = re.compile(r"(?<!\w)/\*.*?\*/", re.DOTALL)  # "image/*" starts no comment
IMPORT = re.compile(r'^import\s+(?:([^"]*?)\s+from\s+)?"([^"]+)";', re.MULTILINE)
DYNAMIC_IMPORT = re.compile(r"\bimport\(")
EXPORT = re.compile(
    r"^export\s+(?:async\s+)?(?:function\s*\*?|class|const|let)\s+([\w$]+)", re.MULTILINE
)


class Import(NamedTuple):
    """One import statement: the module, and the names imported from it."""

    module: Path
    names: frozenset[str]


def source(path: Path) -> str:
    """The code of a module without comments, whose types import other modules too."""
    return COMMENTS.sub("", path.read_text())


def imports(path: Path) -> Iterator[Import]:
    """What a module imports. `import * as name` lists no names."""
    for clause, module in IMPORT.findall(source(path)):
        listed = re.search(r"{([^}]*)}", clause)
        names = [name.split(" as ")[0].strip() for name in listed[1].split(",")] if listed else []
        yield Import((path.parent / module).resolve(), frozenset(filter(None, names)))


def name_of(path: Path) -> str:
    return path.relative_to(SCRIPTS).as_posix()


def circle(
    graph: dict[Path, list[Path]], at: Path, path: tuple[Path, ...], checked: set[Path]
) -> tuple[Path, ...]:
    """The first circle of imports reachable from `at`, itself reached over `path`, or ()."""
    if at in path:
        return (*path[path.index(at) :], at)
    if at in checked:
        return ()
    for module in graph.get(at, []):
        if closed := circle(graph, module, (*path, at), checked):
            return closed
    checked.add(at)
    return ()


def test_there_are_no_circular_imports() -> None:
    graph = {path: [module for module, _ in imports(path)] for path in MODULES}
    checked: set[Path] = set()
    for path in MODULES:
        assert [name_of(module) for module in circle(graph, path, (), checked)] == []


def test_a_circle_is_detected() -> None:
    one, two, three = (SCRIPTS / f"{name}.js" for name in "abc")
    assert circle({one: [two], two: [three], three: [two]}, one, (), set()) == (two, three, two)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_name_that_is_imported_is_exported(path: Path) -> None:
    for module, names in imports(path):
        assert module.is_file(), module
        assert names - set(EXPORT.findall(source(module))) == set(), name_of(module)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_are_written_so_that_these_tests_read_them(path: Path) -> None:
    code = source(path)
    assert len(re.findall(r"^import\b", code, re.MULTILINE)) == len(IMPORT.findall(code))
    assert not DYNAMIC_IMPORT.search(code)


def test_defaults_and_ranges_of_the_page_are_those_of_the_options():
    """Rejecting poor images and sub-scores are the page's own defaults."""
    text = (SCRIPTS / "rerank" / "session.js").read_text()
    block = text.split("DEFAULTS = {")[1].split("};")[0]
    defaults = dict(re.findall(r"^  (\w+): (.+),$", block, re.MULTILINE))
    threshold = re.search(r"QUALITY_THRESHOLD = ([\d.]+)", text)
    assert threshold
    assert json.loads(defaults["preset"]) == PLAIN_OPTIONS.image_preset
    assert json.loads(defaults["mode"]) == PLAIN_OPTIONS.resize_mode
    assert float(threshold[1]) == PLAIN_OPTIONS.quality_threshold
    assert float(defaults["temperature"]) == PLAIN_OPTIONS.temperature
    ranges = re.search(r"temperature: (\[[\d., ]+\])", text)
    assert ranges
    bounds = ScoringOptions.model_json_schema()["properties"]["temperature"]
    assert json.loads(ranges[1]) == [bounds["minimum"], bounds["maximum"]]
