"""What the jobs of a run are made of: a pool of queries and documents, drawn into requests.

Every request is drawn from one small pool, so that a few hundred margins, of an undisturbed job,
say what each of millions of pairs must come to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

NO_QUERY = -1
"""In place of a query: the line is no JSON, and has one error in place of its pairs."""
NO_DOCUMENT = -1
"""In place of a document: it is none, and has an error in place of a score."""

_WORDS = (
    "chair oak garden tools river stone copper lantern harbour wool bread market window ladder "
    "engine paper bridge meadow winter saddle barrel candle thread mirror orchard hammer feather "
    "basket anchor violin carpet kettle compass blanket pottery sundial vineyard quarry turbine "
    "glacier lighthouse workshop telescope almanac"
).split()


@dataclass(frozen=True, slots=True)
class Request:
    """One line of input, by the numbers of its query and documents in the pool."""

    id: str
    query: int
    documents: tuple[int, ...]

    @property
    def pairs(self) -> int:
        """Its pairs, those without a document included."""
        return 0 if self.query == NO_QUERY else len(self.documents)


@dataclass(frozen=True, slots=True)
class Pool:
    """Queries and documents, each of them some words long."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]

    @classmethod
    def drawn(cls, random: Random, *, queries: int, documents: int) -> Pool:
        """A pool of so many texts, all of them different."""
        return cls(
            tuple(_texts(random, queries, words=(3, 8))),
            tuple(_texts(random, documents, words=(6, 40))),
        )

    def all_pairs(self) -> list[Request]:
        """Each query with all documents, then a line and a document that are none: a job of these,
        left undisturbed, says what every other must come to."""
        everything = tuple(range(len(self.documents)))
        requests = [Request(f"q{n}", n, everything) for n in range(len(self.queries))]
        return [*requests, Request("", NO_QUERY, ()), Request("none", 0, (NO_DOCUMENT,))]

    def draw(self, random: Random, *, requests: int, documents_max: int) -> list[Request]:
        """A job's requests. Some lines and documents are none, and some documents come twice."""
        return [self._draw_one(random, f"r{n}", documents_max) for n in range(requests)]

    def _draw_one(self, random: Random, name: str, documents_max: int) -> Request:
        if random.random() < 0.02:
            return Request("", NO_QUERY, ())
        count = random.randint(1, min(documents_max, len(self.documents)))
        documents = random.sample(range(len(self.documents)), count)
        if random.random() < 0.1:
            documents.append(random.choice(documents))
        if random.random() < 0.05:
            documents[random.randrange(len(documents))] = NO_DOCUMENT
        return Request(name, random.randrange(len(self.queries)), tuple(documents))

    def line(self, request: Request) -> str:
        """A request as a line of input."""
        if request.query == NO_QUERY:
            return '{"query": "what is cut off here'
        documents = [self.document(number) for number in request.documents]
        query = self.queries[request.query]
        return json.dumps({"id": request.id, "query": query, "documents": documents})

    def document(self, number: int) -> Any:
        """A document as it stands in a line of input."""
        return {"text": 7} if number == NO_DOCUMENT else self.documents[number]


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """What a job came to that nothing disturbed."""

    margins: Mapping[tuple[int, int], float]
    """By the numbers of query and document."""
    line_code: str
    """The error of a line that is none."""
    document_code: str
    """The error of a document that is none."""

    @classmethod
    def read(cls, requests: Sequence[Request], lines: Iterable[Mapping[str, Any]]) -> Undisturbed:
        """From the output of a job of `Pool.all_pairs`. Raises ValueError where one is missing."""
        margins: dict[tuple[int, int], float] = {}
        line_code = document_code = ""
        for request, line in zip(requests, lines, strict=True):
            if request.query == NO_QUERY:
                line_code = line["errors"][0]["code"]
            elif request.documents == (NO_DOCUMENT,):
                document_code = line["errors"][0]["code"]
            else:
                for result in line["results"]:
                    pair = request.query, request.documents[result["index"]]
                    margins[pair] = result["margin"]
        if len(margins) != sum(r.pairs for r in requests if NO_DOCUMENT not in r.documents):
            raise ValueError("the undisturbed job scored not all of its pairs")
        return cls(margins, line_code, document_code)


def _texts(random: Random, count: int, *, words: tuple[int, int]) -> list[str]:
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(random.choices(_WORDS, k=random.randint(*words)))] = None
    return list(texts)
