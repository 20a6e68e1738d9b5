"""English passages from text that ships with Python, the only training text of `pocket-text`.

Docstrings and longer comments of the standard library's modules, docstrings of the built-in types,
and the language reference in `pydoc_data.topics`, cut into passages of 20 to 200 words. Each
passage has a topic (a module, a built-in, a help topic), so that held-out topics are entirely
unseen, and passages of one topic make hard negatives. Independent of tokens and queries.

    python -m rerankfleet.studies.pocket.corpus        # counts and a few samples
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import groupby
from pathlib import Path

MIN_WORDS, MAX_WORDS = 20, 200
HELD_OUT_PERCENT = 8
# Generated tables and vendored installers: long and repetitive.
SKIPPED_PARTS = {"site-packages", "idlelib", "lib2to3", "ensurepip", "encodings", "pydoc_data"}


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of prose and the topic it comes from."""

    topic: str
    text: str


def passages() -> list[Passage]:
    """All passages, each text once, in an order that depends on the Python release only."""
    passages: dict[str, Passage] = {}
    for topic, text in _sources():
        for piece in cut(text):
            passages.setdefault(_fingerprint(piece), Passage(topic, piece))
    return list(passages.values())


def split(items: Iterable[Passage]) -> tuple[list[Passage], list[Passage]]:
    """(training, held out), divided by topic: no module or help page is in both."""
    train: list[Passage] = []
    held_out: list[Passage] = []
    for item in items:
        bucket = int(hashlib.sha256(item.topic.encode()).hexdigest(), 16) % 100
        (held_out if bucket < HELD_OUT_PERCENT else train).append(item)
    return train, held_out


def cut(text: str) -> Iterator[str]:
    """Join paragraphs until a passage is long enough; cut one that is too long at a word."""
    pending: list[str] = []
    target = MIN_WORDS
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        words = paragraph.split()
        if not _is_prose(paragraph):
            continue
        pending += words
        while len(pending) > MAX_WORDS:
            yield " ".join(pending[:MAX_WORDS])
            pending = pending[MAX_WORDS:]
        if len(pending) >= target:
            yield " ".join(pending)
            # Passages vary in length: each has a different minimum number of words.
            target = MIN_WORDS + (len(pending) * 37) % 110
            pending = []
    if len(pending) >= MIN_WORDS:
        yield " ".join(pending)


def _is_prose(paragraph: str) -> bool:
    letters = sum(c.isalpha() or c == " " for c in paragraph)
    return ">>>" not in paragraph and letters >= 0.75 * (len(paragraph.strip()) or 9)


def _fingerprint(text: str) -> str:
    """The first thirty words without case: a docstring repeated in a subclass counts once."""
    return " ".join(re.findall(r"\w+", text.lower())[:30])


def _sources() -> Iterator[tuple[str, str]]:
    """(topic, text) of all sources."""
    topics: dict[str, str] = import_module("pydoc_data.topics").topics
    for name in sorted(topics):
        yield f"help:{name}", topics[name]
    yield from _builtin_docstrings()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not SKIPPED_PARTS & set(relative.parts):
            yield from _module_text(path, str(relative))


def _module_text(path: Path, topic: str) -> Iterator[tuple[str, str]]:
    """Docstrings and comment blocks of one source file, by parsing alone: nothing is imported."""
    try:
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        comments = list(_comment_blocks(source))
    except (SyntaxError, UnicodeDecodeError, tokenize.TokenError):
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield topic, text
    for text in comments:
        yield topic, text


def _comment_blocks(source: str) -> Iterator[str]:
    """Runs of whole-line comments as text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = [
        (token.start[0], token.string)
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    ]
    for _, run in groupby(enumerate(lines), key=lambda pair: pair[1][0] - pair[0]):
        yield "\n".join(line.lstrip("#").strip() for _, (_, line) in run)


def _builtin_docstrings() -> Iterator[tuple[str, str]]:
    """Docstrings of the modules compiled into the interpreter, which have no source to parse."""
    for module_name in sorted(sys.builtin_module_names):
        module = import_module(module_name)
        for name, value in sorted(vars(module).items()):
            members = sorted(vars(value).items()) if isinstance(value, type) else []
            for _, member in [(name, value), *members]:
                text = getattr(member, "__doc__", None)
                if isinstance(text, str) and callable(member):
                    yield f"builtin:{module_name}.{name}", text


def main() -> None:
    """Print the size of the corpus."""
    train, held_out = split(passages())
    for name, part in (("train", train), ("held out", held_out)):
        words = sum(len(p.text.split()) for p in part)
        print(f"{name}: {len(part)} passages, {len({p.topic for p in part})} topics, {words} words")
    for item in held_out[:: max(1, len(held_out) // 8)]:
        print(f"[{item.topic}] {item.text[:160]}")


if __name__ == "__main__":
    main()
