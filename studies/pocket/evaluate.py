"""How well `pocket-text` finds the passage that a query was drawn from.

    python -m rerankfleet.studies.pocket.evaluate --model workers/models/pocket-text

English: topics of Python's own documentation that training never saw; 19 other passages drawn at
random, or up to 10 of them from the same topic. Questions by people: those of Python's
programming FAQ, with its answers. Russian and Japanese: paragraphs of translated manual pages.
The last three come from Debian packages (no root needed) and are skipped where they are absent:

    apt-get download python3.11-doc manpages-ru manpages-ja
    for deb in *.deb; do dpkg -x "$deb" debian; done
    python -m rerankfleet.studies.pocket.evaluate --model workers/models/pocket-text --debian debian

Scoring is the reference procedure: the whole prompt through the model that `from_pretrained`
loads, in fp32, and logit(yes) - logit(no) at its last position.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from rerankfleet.studies.pocket.corpus import Passage, passages, split
from rerankfleet.studies.pocket.pairs import Sampler
from rerankfleet.studies.pocket.prompt import Prompt

SEED = 7
CANDIDATES, QUERIES, FOREIGN_QUERIES = 20, 200, 100
TOGETHER = 4
FAQ = "usr/share/doc/python3.11/html/_sources/faq/programming.rst.txt"
FAQ_WORDS = 150
# Debian package, folder of its pages, and the share of letters that makes a paragraph foreign.
MANUALS = {
    "Russian": ("manpages-ru", "usr/share/man/ru", re.compile("[а-яё]", re.IGNORECASE)),
    "Japanese": ("manpages-ja", "usr/share/man/ja", re.compile("[ぁ-んァ-ヶ一-龥]")),
}
FOREIGN_SHARE = 0.6
MANUAL_WORDS = 20, 80


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its candidates; the first of them is the answer."""

    query: str
    candidates: list[str]


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of one set of questions."""

    name: str
    questions: int
    recall_at_1: float
    mrr: float
    answers_above_0: float
    others_below_0: float
    answer_margins: tuple[float, float, float]
    other_margins: tuple[float, float, float]

    def line(self) -> str:
        """One row of the printed table."""
        quantiles = " ".join(f"{m:6.1f}" for m in (*self.answer_margins, *self.other_margins))
        return (
            f"{self.name:34} {self.questions:5} {self.recall_at_1:6.3f} {self.mrr:6.3f} "
            f"{self.answers_above_0:7.3f} {self.others_below_0:7.3f}   {quantiles}"
        )


class Reranker:
    """Scores pairs with the model on disk."""

    def __init__(self, folder: Path) -> None:
        self.prompt = Prompt.of(Tokenizer.from_file(str(folder / "tokenizer.json")))
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def margins(self, query: str, documents: list[str]) -> torch.Tensor:
        """One margin per document, in batches of similar length."""
        head = self.prompt.head(query)
        rows = [head + self.prompt.document(text) + self.prompt.suffix for text in documents]
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        margins = torch.zeros(len(rows))
        for start in range(0, len(rows), TOGETHER):
            places = order[start : start + TOGETHER]
            margins[places] = self._margins([rows[place] for place in places])
        return margins

    @torch.inference_mode()
    def _margins(self, rows: list[list[int]]) -> torch.Tensor:
        """Padding is on the right, where causal attention never looks."""
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
        for line, row in enumerate(rows):
            tokens[line, : len(row)] = torch.tensor(row)
        states = self.model.model(tokens, use_cache=False).last_hidden_state
        logits = self.model.lm_head(states[torch.arange(len(rows)), lengths - 1])
        return logits[:, self.prompt.yes] - logits[:, self.prompt.no]


def evaluate(folder: Path, held_out: list[Passage], debian: Path | None = None) -> list[Quality]:
    """Evaluate all available sets of questions, and print each result."""
    reranker = Reranker(folder)
    columns = "set", "n", "r@1", "mrr", "yes>0", "no<0", "margins at 10/50/90 %: answers, others"
    print("{:34} {:>5} {:>6} {:>6} {:>7} {:>7}   {}".format(*columns), flush=True)
    results = []
    for name, questions in _sets(held_out, debian):
        result = measure(reranker, name, questions)
        print(result.line(), flush=True)
        results.append(result)
    return results


def measure(reranker: Reranker, name: str, questions: list[Question]) -> Quality:
    """Scores every question's candidates."""
    ranks, answers, others = [], [], []
    for question in questions:
        margins = reranker.margins(question.query, question.candidates)
        ranks.append(1 + int((margins[1:] >= margins[0]).sum()))
        answers.append(margins[:1])
        others.append(margins[1:])
    yes, no = torch.cat(answers), torch.cat(others)
    return Quality(
        name=name,
        questions=len(questions),
        recall_at_1=sum(rank == 1 for rank in ranks) / len(ranks),
        mrr=sum(1 / rank for rank in ranks) / len(ranks),
        answers_above_0=float((yes > 0).float().mean()),
        others_below_0=float((no < 0).float().mean()),
        answer_margins=_quantiles(yes),
        other_margins=_quantiles(no),
    )


def _quantiles(values: torch.Tensor) -> tuple[float, float, float]:
    low, middle, high = torch.quantile(values, torch.tensor([0.1, 0.5, 0.9])).tolist()
    return low, middle, high


def _sets(held_out: list[Passage], debian: Path | None) -> Iterator[tuple[str, list[Question]]]:
    sampler = Sampler(held_out, SEED)
    yield "English, others at random", _questions(held_out, sampler.query, QUERIES, hard=0)
    yield "English, 10 of the same topic", _questions(held_out, sampler.query, QUERIES, hard=10)
    if debian is None:
        print("FAQ, Russian, Japanese: skipped, no --debian folder (see --help)")
        return
    if (debian / FAQ).exists():
        yield "programming FAQ, asked by people", _faq_questions(debian / FAQ)
    else:
        print(f"programming FAQ: skipped, {debian / FAQ} is absent (package python3.11-doc)")
    for language, (package, folder, letters) in MANUALS.items():
        pages = manual_passages(debian / folder, letters)
        if not pages:
            print(f"{language}: skipped, no pages in {debian / folder} (package {package})")
            continue
        generator = random.Random(SEED)
        draw = (
            Sampler(pages, SEED).query
            if language == "Russian"
            else lambda text, generator=generator: unspaced_query(generator, text)
        )
        yield f"{language}, others at random", _questions(pages, draw, FOREIGN_QUERIES, hard=0)
        yield f"{language}, 10 of the same page", _questions(pages, draw, FOREIGN_QUERIES, hard=10)


def _questions(
    items: list[Passage], draw: Callable[[str], str], count: int, hard: int
) -> list[Question]:
    """`count` questions; up to `hard` of the wrong candidates share the answer's topic."""
    generator = random.Random(SEED)
    questions = []
    for answer in generator.sample(items, min(count, len(items))):
        near = [item for item in items if item.topic == answer.topic and item != answer]
        chosen = generator.sample(near, min(hard, len(near)))
        far = [item for item in items if item.topic != answer.topic]
        chosen += generator.sample(far, CANDIDATES - 1 - len(chosen))
        texts = [answer.text, *(item.text for item in chosen)]
        questions.append(Question(draw(answer.text), texts))
    return questions


def _faq_questions(path: Path) -> list[Question]:
    """Each heading that ends in a question mark asks for the text below it, among 19 others."""
    parts = re.split(r"\n([^\n]+\?)\n-{4,}\n", path.read_text("utf-8"))
    entries = []
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        words = re.sub(r"[`*]|\.\. [\w-]+::.*|:\w+:", "", body).split()
        entries.append((re.sub(r"[`*]|:\w+:", "", heading), " ".join(words[:FAQ_WORDS])))
    generator = random.Random(SEED)
    questions = []
    for index, (query, answer) in enumerate(entries):
        others = [text for i, (_, text) in enumerate(entries) if i != index]
        questions.append(Question(query, [answer, *generator.sample(others, CANDIDATES - 1)]))
    return questions


def manual_passages(folder: Path, letters: re.Pattern[str]) -> list[Passage]:
    """Paragraphs of the manual pages mostly written in the given script, each once."""
    passages: dict[str, Passage] = {}
    for page in sorted(folder.rglob("*.gz")):
        source = gzip.decompress(page.read_bytes()).decode("utf-8", "replace")
        for text in _paragraphs(source):
            solid = re.sub(r"[\s\d\W]", "", text)
            spaced = " " in text[:40]
            # Two and a half characters without spaces count as a word.
            size = len(text.split()) if spaced else len(text) / 2.5
            foreign = len(letters.findall(solid)) >= FOREIGN_SHARE * max(1, len(solid))
            if foreign and MANUAL_WORDS[0] <= size <= MANUAL_WORDS[1]:
                passages.setdefault(text[:60], Passage(page.name, text))
    return list(passages.values())


def _paragraphs(source: str) -> Iterator[str]:
    """Text between the macros of a page, without font changes."""
    for block in re.split(r"\n(?:\.(?:PP|P|LP|TP|IP|SH|SS|HP|sp|Pp)\b[^\n]*|\s*)(?=\n)", source):
        lines = [re.sub(r"^\.[BIR]+ ", "", line) for line in block.split("\n")]
        text = " ".join(line for line in lines if not line.startswith((".", "'")))
        text = re.sub(r"\\f.|\\[,/&%]|\\s[-+]?\d", "", text).replace("\\-", "-")
        yield " ".join(re.sub(r"\\\(..|\\\[.*?\]|\\e", " ", text).split())


def unspaced_query(generator: random.Random, text: str) -> str:
    """A query from text without spaces: one span, or a few short pieces separated by spaces."""
    if generator.random() < 0.5:
        return _piece(generator, text, 8, 20)
    return " ".join(_piece(generator, text, 3, 7) for _ in range(generator.randint(2, 4)))


def _piece(generator: random.Random, text: str, shortest: int, longest: int) -> str:
    size = generator.randint(shortest, longest)
    start = generator.randint(0, max(0, len(text) - size))
    return text[start : start + size].strip(" 。、,.()「」")


def _as_json(results: Iterable[Quality]) -> str:
    return json.dumps([asdict(result) for result in results], ensure_ascii=False)


def main() -> None:
    """Evaluate a finished model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--debian", type=Path, help="folder with the unpacked packages")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(_as_json(evaluate(options.model, split(passages())[1], options.debian)))


if __name__ == "__main__":
    main()
