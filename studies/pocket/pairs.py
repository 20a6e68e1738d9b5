"""Training groups: one query, the passage it was drawn from, and passages it was not drawn from.

Queries are drawn from the passage (a span, a sample of its rarer words, a question around them, its
first sentence), then noise is added: lower case, another ending, a word that is not in the passage.
To transfer the skill of finding words to other scripts, part of the groups is rewritten with the
letters of another alphabet, by a new mapping for each group.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from rerankfleet.studies.pocket.corpus import Passage
from rerankfleet.studies.pocket.prompt import DEFAULT_INSTRUCTION

INSTRUCTIONS = (
    "Given a question, retrieve passages that answer the question",
    "Given the user query, retrieval the relevant passages",
    "Given a search query, retrieve relevant passages from the documentation",
    "Retrieve passages that are relevant to the query",
    "Find the text that the query is about",
    "Given a product search query, retrieve matching product descriptions",
    "Given a scientific claim, retrieve documents that support or refute the claim",
    "Given a query, find documents in the same language that answer it",
    "Rank by relevance",
)
QUESTIONS = (
    "How do I {}?",
    "How can I {}?",
    "How do you {} in Python?",
    "How does {} work?",
    "What is {}?",
    "What does {} mean?",
    "What are {}?",
    "Why does {}?",
    "Why is {}?",
    "When should I use {}?",
    "Where is {}?",
    "Is there a way to {}?",
    "Can I {}?",
    "Which {}?",
    "what happens when {}",
    "difference between {} and {}",
)
ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "er")
WORD = re.compile(r"[^\W\d_][\w.]*\w|\w")


@dataclass(frozen=True, slots=True)
class Group:
    """One query and its documents; the first document is the one that answers."""

    instruction: str
    query: str
    documents: list[str]


class Sampler:
    """Draws queries and groups from a fixed set of passages with its own random generator."""

    def __init__(self, passages: list[Passage], seed: int) -> None:
        self.random = random.Random(seed)
        self.passages = passages
        self.by_topic: dict[str, list[int]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for index, passage in enumerate(passages):
            self.by_topic[passage.topic].append(index)
            counts.update({word.lower() for word in WORD.findall(passage.text)})
        self.rarity = {word: math.log(len(passages) / n) for word, n in counts.items()}
        self.words = list(counts)

    def group(self, size: int, max_words: int, hard: bool, foreign: float) -> Group:
        """`size` documents of up to `max_words`, some of one topic where `hard`; a share `foreign`
        of the groups is rewritten in another script."""
        rewrite: Callable[[str], str] | None = None
        if self.random.random() < foreign:
            rewrite = foreign_script(self.random)
            max_words = min(max_words, 32)
        chosen = self._documents(size, hard)
        texts = [self._crop(self.passages[index].text, max_words) for index in chosen]
        query, texts[0] = self._query_and_answer(texts[0])
        if rewrite:
            query, *texts = [rewrite(text) for text in (query, *texts)]
        instruction = DEFAULT_INSTRUCTION
        if self.random.random() < 0.3:
            instruction = self.random.choice(INSTRUCTIONS)
        return Group(instruction, query, texts)

    def query(self, text: str) -> str:
        """A query drawn from the text, with noise added."""
        draw = self.random.random()
        if draw < 0.3:
            words = self._span(text)
        elif draw < 0.65:
            words = self._sample(text, self.random.randint(2, 8))
        else:
            words = self._question(text)
        return self._roughen(words)

    def _documents(self, size: int, hard: bool) -> list[int]:
        """Indices of an answer and its negatives, about half of these near ones where `hard`."""
        answer = self.random.randrange(len(self.passages))
        neighbours = [i for i in self.by_topic[self.passages[answer].topic] if i != answer]
        count = min(len(neighbours), self.random.randint(0, size - 1)) if hard else 0
        chosen = [answer, *self.random.sample(neighbours, count)]
        while len(chosen) < size:
            other = self.random.randrange(len(self.passages))
            if other not in chosen:
                chosen.append(other)
        return chosen

    def _crop(self, text: str, max_words: int) -> str:
        """A span of the text's words, of random length."""
        words = text.split()
        size = self.random.randint(min(len(words), 15), min(len(words), max_words))
        start = self.random.randint(0, len(words) - size)
        return " ".join(words[start : start + size])

    def _query_and_answer(self, text: str) -> tuple[str, str]:
        """A query and the text that answers it, perhaps without the sentence used as query."""
        first, _, rest = text.partition(". ")
        if self.random.random() < 0.12 and 3 <= len(first.split()) <= 16 and len(rest.split()) > 12:
            return self._roughen(first), text if self.random.random() < 0.6 else rest
        return self.query(text), text

    def _span(self, text: str) -> str:
        words = text.split()
        size = min(len(words), self.random.randint(3, 12))
        start = self.random.randint(0, len(words) - size)
        return " ".join(words[start : start + size]).strip(".,;:()\"'`*")

    def _sample(self, text: str, count: int) -> str:
        """Words of the text, rare ones more likely, sometimes in its order."""
        words = list(dict.fromkeys(WORD.findall(text)))
        weights = [max(0.1, self._rarity(word) - 1.0) ** 2 for word in words]
        picked = list(dict.fromkeys(self.random.choices(words, weights, k=count)))
        if self.random.random() < 0.5:
            picked.sort(key=words.index)
        return " ".join(picked)

    def _question(self, text: str) -> str:
        """A question's words around a short span or a few words of the text."""

        def topic() -> str:
            if self.random.random() < 0.4:
                return " ".join(self._span(text).split()[:6])
            glue = self.random.choice((" ", " ", " the ", " a ", " of ", " in "))
            return glue.join(self._sample(text, self.random.randint(1, 4)).split())

        shape = self.random.choice(QUESTIONS)
        question = shape.format(*(topic() for _ in range(shape.count("{}"))))
        return question if self.random.random() < 0.7 else question.rstrip("?")

    def _roughen(self, query: str) -> str:
        """Lower case half of the time; occasionally another ending or a word from elsewhere."""
        words = query.split() or ["the"]
        if self.random.random() < 0.3:
            place = self.random.randrange(len(words))
            words[place] = self._another_ending(words[place])
        if self.random.random() < 0.25:
            words.insert(self.random.randint(0, len(words)), self.random.choice(self.words))
        text = " ".join(words[:20])
        return text.lower() if self.random.random() < 0.5 else text

    def _another_ending(self, word: str) -> str:
        for ending in ENDINGS:
            if word.endswith(ending) and len(word) > len(ending) + 3:
                return word.removesuffix(ending) + self.random.choice(("", *ENDINGS))
        return word + self.random.choice(ENDINGS[:5]) if len(word) > 3 and word.isalpha() else word

    def _rarity(self, word: str) -> float:
        return self.rarity.get(word.lower(), 6.0)


ALPHABETS = (
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρστυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "कखगघचछजझटठडढतथदधनपफबभमयरलवशसह",
    "àáâäçèéêëìíîïñòóôöùúûüß",
)
KANA = (
    "あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほまみむめもやゆよらりるれろわをん"
)
HAN_FIRST, HAN_LAST, HANGUL_FIRST, HANGUL_LAST = 0x4E00, 0x9FA5, 0xAC00, 0xD7A3


def foreign_script(generator: random.Random) -> Callable[[str], str]:
    """A rewriting of English text with another script's letters, fixed for its lifetime."""
    draw = generator.random()
    if draw < 0.5:
        return _alphabet(generator)
    first, last = (HANGUL_FIRST, HANGUL_LAST) if draw < 0.6 else (HAN_FIRST, HAN_LAST)
    return _ideographs(generator, first, last, spaces=draw < 0.65, kana=draw > 0.8)


def _alphabet(generator: random.Random) -> Callable[[str], str]:
    letters = generator.choice(ALPHABETS)
    targets = [generator.choice(letters) for _ in range(26)]
    table = {ord("a") + i: target for i, target in enumerate(targets)}
    table |= {ord("A") + i: target.upper()[0] for i, target in enumerate(targets)}
    return lambda text: text.translate(table)


def _ideographs(
    generator: random.Random, first: int, last: int, *, spaces: bool, kana: bool
) -> Callable[[str], str]:
    """Each word becomes one to three characters; short words optionally become kana."""
    words: dict[str, str] = {}
    # Real text uses few of the characters, and neighbours share their leading bytes.
    inventory = [chr(generator.randint(first, last)) for _ in range(400)]

    def spell(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word not in words:
            letters = KANA if kana and len(word) < 5 else inventory
            words[word] = "".join(generator.choices(letters, k=1 + min(len(word), 9) // 4))
        return words[word]

    def rewrite(text: str) -> str:
        text = re.sub(r"[^\W\d_]+", spell, text)
        text = text.replace(". ", "。").replace(", ", "、")
        return text if spaces else text.replace(" ", "")

    return rewrite
