"""Errors have a path and a text; their codes are from fixed lists, documented in docs/errors.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rerankfleet.producer.gateway.errors import STATUS_CODES
from rerankfleet.shared import metrics
from rerankfleet.shared.content.outcomes import REJECTIONS, RETRYABLE
from rerankfleet.shared.errors import (
    ITEM_CODES,
    InvalidOption,
    ItemError,
    RerankError,
    UnknownModel,
    UsageError,
    dotted,
)

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for side in ("shared", "producer", "workers") for path in (ROOT / side).rglob("*.py")
]
BODY_CODES = {"invalid_json", "internal", "http_error", "rate_limited", "too_many_wrong_keys"}
"""Codes of errors over HTTP that have no class."""


IMAGE = ("documents", 3, "image", 0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RerankError("it is broken"), "it is broken"),
        (RerankError("it is broken", hint="mend it"), "it is broken: mend it"),
        (UsageError("expected text", path=("query", "text")), "query.text: expected text"),
        (ItemError("c", "no", hint="h", path=IMAGE), "documents.3.image.0: no: h"),
        (ItemError("c", "no query", path=("query",), names_field=True), "no query"),
        (UnknownModel("no such model"), "no such model"),
        (InvalidOption("pad_color", "pad_color is wrong", inside=(1,)), "pad_color is wrong"),
    ],
)
def test_an_error_says_where_what_and_what_to_do(error, text):
    assert str(error) == text
    assert error.text() == text.removesuffix(f": {error.hint}" if error.hint else "")


def test_a_path_is_rendered_where_it_is_shown():
    error = ItemError("c", "no", path=("documents", 3))
    assert error.text(lambda path: "/".join(map(str, path))) == "documents/3: no"
    assert error.at("items", 4).text() == "items.4: no"
    assert UnknownModel("m").path == ("model",)
    assert dotted(InvalidOption("pad_color", "m", inside=(1,)).path) == "pad_color.1"


TREES = {path: ast.parse(path.read_text()) for path in SOURCES}


def texts_in(node: ast.AST) -> set[str]:
    constants = (each for each in ast.walk(node) if isinstance(each, ast.Constant))
    return {each.value for each in constants if isinstance(each.value, str)}


def item_codes() -> set[str]:
    """The codes that the source writes: in the first place of an ItemError, or as `code=`."""
    codes: set[str] = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id == "ItemError":
                codes |= texts_in(node.args[0])
            for keyword in node.keywords:
                if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                    codes |= texts_in(keyword.value)
    return codes


def class_codes() -> set[str]:
    """The codes of classes of errors."""
    return {
        text
        for tree in TREES.values()
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for line in kind.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "code"
        for text in texts_in(line.value)
    }


def documented(heading: str) -> dict[str, str]:
    """The rows of a section's table: code -> meaning."""
    page = (ROOT / "docs" / "errors.md").read_text()
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return dict(re.findall(r"^\| `(\w+)` \|.*?([^|]*?) \|$", section, re.M))


def test_every_item_code_is_in_the_list_and_each_in_the_list_is_used():
    assert item_codes() <= set(ITEM_CODES)
    others = {path: tree for path, tree in TREES.items() if path != ROOT / "shared" / "errors.py"}
    assert set(ITEM_CODES) <= set().union(*map(texts_in, others.values()))
    (reasons,) = metrics.IMAGES_REJECTED.labels.values()
    assert REJECTIONS | RETRYABLE | set(reasons) <= set(ITEM_CODES)


def test_every_code_is_documented_with_its_meaning():
    items = {code: meaning.strip() for code, meaning in documented("Items").items()}
    assert items == ITEM_CODES
    requests = class_codes() | set(STATUS_CODES.values()) | BODY_CODES
    assert set(documented("Requests and commands")) == requests - {"error"}


# ---- hints fit every door -----------------------------------------------------------------------

OF_THE_COMMAND_LINE = {
    *(ROOT / "producer" / "cli").rglob("*.py"),
    *(ROOT / "producer" / "terminal").rglob("*.py"),
    *(ROOT / "workers" / "diagnostics").rglob("*.py"),
    *(ROOT / "producer" / name for name in ("local.py", "demo.py", "api_keys.py")),
    *(ROOT / "workers" / name for name in ("cli.py", "launcher.py", "__main__.py")),
    *(ROOT / "shared" / name for name in ("cli.py", "command_options.py", "advice.py")),
}
"""What nothing but the command line shows."""
SHELL = re.compile(r"(?<![\w-])--[a-z]|\brerank [a-z]+\b(?= -|`|$)")
"""A flag, or a command of `rerank`."""


def told_to_type(tree: ast.AST) -> set[str]:
    """The texts that name a flag or a command, and are no documentation."""
    silent = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            silent |= set(ast.walk(node))  # docstrings
        if isinstance(node, ast.keyword) and node.arg in ("command", "description"):
            silent |= set(ast.walk(node))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node not in silent
        if isinstance(node.value, str) and SHELL.search(node.value)
    }


def test_only_the_command_line_is_told_what_to_type():
    """Python and HTTP have other doors: there, `--model` and `rerank worker` mean nothing."""
    told = {path: told_to_type(tree) for path, tree in TREES.items()}
    assert told_to_type(ast.parse('raise E("x", hint="use --force")')) == {"use --force"}
    assert told_to_type(ast.parse('raise E("x", hint="start `rerank up`")'))
    assert not told_to_type(ast.parse('raise E("x", command="--force")'))
    assert {path: texts for path, texts in told.items() if texts} == {
        path: told[path] for path in OF_THE_COMMAND_LINE if told.get(path)
    }


def test_the_command_line_shows_what_to_type():
    error = UsageError("it exists", hint="set `force`", command="--force")
    assert str(error) == "it exists: set `force`"
    assert error.at_the_shell == "it exists: set `force` (--force)"
    assert UsageError("it exists").at_the_shell == "it exists"


def test_an_error_can_be_written_anywhere_whatever_it_quotes():
    """Names of columns and files may hold halves of characters, which no record or answer takes."""
    error = UsageError("no column 'image', only \udc8f", hint="rename \ud800")
    assert str(error) == "no column 'image', only ?: rename ?"
    assert error.args == ("no column 'image', only ?",)
