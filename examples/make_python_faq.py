"""Build the example input from the HTML pages of the Python FAQ.

A FAQ heading that is a question, with enough prose below it, becomes one request. Its documents are
the passages of its own answer (the relevant ones), passages that share words with the question (the
hard ones), and passages drawn by lot.

The same pages always give the same bytes: nothing here depends on the clock, on hash seeds or on
the version of the random module. Only the standard library is needed. DOCS_DIR is the folder that
holds `faq/design.html` and its neighbours:

    python examples/make_python_faq.py DOCS_DIR > examples/python-faq.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

PAGES = ("general", "programming", "design", "library", "extending", "windows", "gui")
MIN_WORDS, MAX_WORDS = 40, 180  #: of a passage
ENOUGH_WORDS = 60  #: a passage this long takes no further paragraph
ASKED_WORDS = 60  #: a question is asked when its answer holds this much prose,
ASKED_CODE = 0.5  #: and at most this many pieces of code for each of its paragraphs
MIN_DOCUMENTS, MAX_DOCUMENTS = 20, 30  #: candidates of a question, its own passages included
SAME_PAGE, ANY_PAGE = 8, 5  #: negatives chosen by shared words; the rest are drawn by lot
ENDINGS = (".", "!", "?", ")", '"', "'")  #: of a finished sentence
LEAD_IN_WORDS = 12  #: a last sentence this short, left open, only announces what follows
#: a clause that a full stop can close in place of its colon
CLOSABLE = re.compile(r"(?<!\blike)(?<!\btype)(?<!\bentered)(?<!\bis)(?<!\bof)(?<!\bwith):$")
SEED = "python-faq"

VOID_TAGS = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})
SKIPPED_CLASSES = frozenset(
    {"headerlink", "admonition-title", "topic-title", "attribution", "contents", "seealso"}
)
PLAIN_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d\u00a0", "''\"\" ")
STOP_WORDS = frozenset(
    "a an and any are as at be but by can do does for from have how i if in is it its my no not of "
    "on one or python s so t that the there this to use was what when where which why will with "
    "you your".split()
)


@dataclass(eq=False)
class Section:
    """A heading of a page and the paragraphs right below it; `None` stands for a piece of code."""

    page: str
    anchors: set[str]  #: all the names that links may know it by
    title: str = ""
    blocks: list[str | None] = field(default_factory=list)
    links: set[str] = field(default_factory=set)  #: the addresses it refers to

    @property
    def addresses(self) -> set[str]:
        return {f"{self.page}.html#{anchor}" for anchor in self.anchors}

    def is_linked(self, other: Section) -> bool:
        """Whether one of the two refers to the other."""
        return bool(self.links & other.addresses or other.links & self.addresses)


@dataclass(frozen=True, eq=False)
class Passage:
    """A stretch of one answer's prose."""

    id: str
    section: Section
    text: str
    words: Counter[str]


@dataclass(frozen=True)
class Answer:
    """What stands below one heading, cut into passages."""

    section: Section
    passages: tuple[Passage, ...]

    @property
    def asked(self) -> bool:
        """Whether its heading becomes a request, or only lends its passages to the others."""
        code = self.section.blocks.count(None)
        words = sum(len(passage.text.split()) for passage in self.passages)
        return (
            self.section.title.endswith("?")
            and words >= ASKED_WORDS
            and code <= ASKED_CODE * (len(self.section.blocks) - code)
        )


class FaqParser(HTMLParser):
    """Collects the sections of one FAQ page, in order, without navigation and code."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.page = page
        self.sections: list[Section] = []
        self._open_sections: list[Section] = []
        self._text: list[str] | None = None  #: the heading or paragraph being read
        self._skip_depth = 0  #: open tags since (and with) the one whose content is skipped

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in VOID_TAGS:
            return
        if self._skip_depth or not SKIPPED_CLASSES.isdisjoint((values.get("class") or "").split()):
            self._skip_depth += 1
        elif tag == "section":
            self._open_sections.append(Section(self.page, {values.get("id") or ""}))
            self.sections.append(self._open_sections[-1])
        elif tag in ("a", "span"):
            self._note_reference(values)
        elif tag == "pre":
            self._add_block(None)
            self._skip_depth = 1
        elif tag in ("p", "h1", "h2", "h3"):
            self._text = []

    def handle_endtag(self, tag: str) -> None:
        if self._skip_depth:
            self._skip_depth -= 1
        elif tag == "section":
            self._open_sections.pop()
        elif tag in ("h1", "h2", "h3") and self._open_sections:
            self._open_sections[-1].title = self._take_text()
        elif tag == "p":
            self._add_block(self._take_text())

    def handle_data(self, data: str) -> None:
        if self._text is not None and not self._skip_depth:
            self._text.append(data)

    def _note_reference(self, values: dict[str, str | None]) -> None:
        if self._open_sections and (href := values.get("href")):
            self._open_sections[-1].links.add(urljoin(f"{self.page}.html", href))
        if self._open_sections and (anchor := values.get("id")):
            self._open_sections[-1].anchors.add(anchor)

    def _add_block(self, block: str | None) -> None:
        if self._open_sections:
            self._open_sections[-1].blocks.append(block)

    def _take_text(self) -> str:
        text = " ".join("".join(self._text or ()).split())
        self._text = None
        return text.translate(PLAIN_QUOTES)


def read_sections(docs: Path) -> Iterator[Section]:
    """All sections of all FAQ pages, in a fixed order."""
    for page in PAGES:
        parser = FaqParser(page)
        parser.feed((docs / "faq" / f"{page}.html").read_text(encoding="utf-8"))
        yield from parser.sections


def split_sentences(text: str) -> list[str]:
    """Sentences, with common abbreviations left whole."""
    whole = r"(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)"
    return re.split(rf"(?<=[.!?]){whole} +(?=[A-Z\"'(])", text)


def close_open_end(text: str) -> str:
    """The text without the last words that only announce what is not shown after it."""
    text = re.sub(r"[;,] *(e\.g\.|for example):?$", ":", text)
    if not text or text[-1] in ENDINGS:
        return text
    text = re.sub(r"; [^;]{1,40}$", ":", text)
    sentences = split_sentences(text)
    if not CLOSABLE.search(text) or len(sentences[-1].split()) <= LEAD_IN_WORDS:
        return " ".join(sentences[:-1])
    return f"{text[:-1]}."


def prose(section: Section) -> list[str]:
    """The paragraphs of an answer that read well without its code."""
    paragraphs: list[str] = []
    before_code = False
    for previous, block in reversed(list(pairwise(["", *section.blocks]))):
        if block is None:
            before_code = True
            continue
        text = close_open_end(block) if before_code else block
        if text and not (previous is None and text[0].islower()):
            paragraphs.append(text if text[-1] in (*ENDINGS, ":", ";") else f"{text}.")
            before_code = False
    return paragraphs[::-1]


def bounded(paragraphs: Iterable[str]) -> Iterator[str]:
    """The same text; a paragraph above MAX_WORDS comes in even parts, cut between sentences."""
    for paragraph in paragraphs:
        total = len(paragraph.split())
        target = total / math.ceil(total / MAX_WORDS)
        part: list[str] = []
        for sentence in split_sentences(paragraph):
            part.append(sentence)
            if len(" ".join(part).split()) >= target:
                yield " ".join(part)
                part = []
        if part:
            yield " ".join(part)


def fits(text: str, most: int = MAX_WORDS) -> bool:
    return len(text.split()) <= most


def cut_passages(paragraphs: Iterable[str]) -> list[str]:
    """Neighbouring paragraphs joined into passages; what cannot reach MIN_WORDS is left out."""
    passages: list[str] = []
    for paragraph in bounded(paragraphs):
        joined = f"{passages[-1]} {paragraph}" if passages else paragraph
        if passages and fits(passages[-1], ENOUGH_WORDS - 1) and fits(joined):
            passages[-1] = joined
        else:
            passages.append(paragraph)
    joined = " ".join(passages[-2:])
    if len(passages) > 1 and fits(passages[-1], MIN_WORDS - 1) and fits(joined):
        passages[-2:] = [joined]
    closed = (close_open_end(passage) for passage in passages)
    return [text for text in closed if fits(text) and not fits(text, MIN_WORDS - 1)]


def stems(text: str) -> list[str]:
    """Lower-case words without stop words and plural endings, for counting overlap."""
    words = re.findall(r"[a-z_][a-z0-9_]*", text.lower())
    content = (word for word in words if word not in STOP_WORDS)
    return [re.sub(r"(?<=[a-z]{3})(ies|es|s)$", "", word) for word in content]


def read_answers(docs: Path) -> list[Answer]:
    """The sections that hold at least one passage, in reading order."""
    answers: list[Answer] = []
    count = 0
    for section in read_sections(docs):
        texts = enumerate(cut_passages(prose(section)), start=count + 1)
        passages = tuple(
            Passage(f"p-{number:04}", section, text, Counter(stems(text))) for number, text in texts
        )
        count += len(passages)
        if passages:
            answers.append(Answer(section, passages))
    return answers


def lot(*names: str) -> int:
    """A number drawn by hash: as good as random, and the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join((SEED, *names)).encode()).digest()[:8], "big")


class Overlap:
    """BM25: how much of a question's wording a passage shares, rare words counting more."""

    def __init__(self, passages: list[Passage]) -> None:
        self.total = len(passages)
        self.holders = Counter(word for passage in passages for word in passage.words)
        self.mean_length = sum(passage.words.total() for passage in passages) / max(1, self.total)

    def score(self, query: list[str], passage: Passage) -> float:
        length = 0.25 + 0.75 * passage.words.total() / self.mean_length
        matches = ((word, passage.words[word]) for word in query)
        return sum(self.weight(word) * 2.2 * n / (n + 1.2 * length) for word, n in matches)

    def weight(self, word: str) -> float:
        holders = self.holders[word]
        return math.log(1 + (self.total - holders + 0.5) / (holders + 0.5))


def negatives(title: str, page: str, others: list[Passage], overlap: Overlap) -> list[Passage]:
    """Passages of other answers: close ones of its page, close ones of any page, then by lot."""
    query = stems(title)
    closest = sorted(others, key=lambda passage: (-overlap.score(query, passage), passage.id))
    chosen = [passage for passage in closest if passage.section.page == page][:SAME_PAGE]
    chosen += [passage for passage in closest if passage not in chosen][:ANY_PAGE]
    rest = [passage for passage in others if passage not in chosen]
    return chosen + sorted(rest, key=lambda passage: lot("draw", title, passage.id))


def build_requests(answers: list[Answer]) -> Iterator[dict[str, object]]:
    """One request a question; answers that refer to each other never stand against each other."""
    passages = [passage for answer in answers for passage in answer.passages]
    overlap = Overlap(passages)
    for number, answer in enumerate((answer for answer in answers if answer.asked), start=1):
        section, title = answer.section, answer.section.title
        others = [
            passage
            for passage in passages
            if passage.section is not section and not section.is_linked(passage.section)
        ]
        count = MIN_DOCUMENTS + lot("size", title) % (MAX_DOCUMENTS - MIN_DOCUMENTS + 1)
        documents = [*answer.passages, *negatives(title, section.page, others, overlap)][:count]
        documents.sort(key=lambda passage: lot("place", title, passage.id))
        yield {
            "id": f"faq-{number:03}",
            "query": title,
            "documents": [{"id": passage.id, "text": passage.text} for passage in documents],
            "metadata": {"relevant": [passage.id for passage in answer.passages]},
        }


def main() -> None:
    """Read the pages, write JSON Lines to standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("docs_dir", type=Path, help="the folder that holds faq/design.html")
    for request in build_requests(read_answers(parser.parse_args().docs_dir)):
        sys.stdout.buffer.write((json.dumps(request, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    main()
