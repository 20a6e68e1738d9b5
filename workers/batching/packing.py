"""Which waiting pairs go into the next pack: group by shared prefix, fill by cost. Pure.

A pack is a tree of three levels, since a part that pairs share is computed once:

    Pack
    └── KeptPart       system turn and instruction     computed once and kept
        └── QueryPart  query                           computed once in the pack
            └── documents                              computed for each pair

Knows nothing of devices, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens

#: Context length at which reading it costs a token as much as all linear layers: about 4 × the
#: hidden size in Qwen3; 3,000 to 20,000 over the family. Matters for long documents only.
ATTENTION_TOKENS = 4096

LimitedBy = Literal["limit", "empty"]


@dataclass(frozen=True, slots=True)
class Limit:
    """The size of a pack: a budget of token-equivalents, and a cap on pairs."""

    tokens: int
    pairs: int | None = None


def _blind(tokens: int) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What an engine computes beyond the tokens of a pack: its images, unless it kept them."""

    tower: Callable[[int], float] = _blind
    """Token-equivalents of the vision tower for an image of so many visual tokens."""
    kept_images: Container[object] = ()
    """Keys of the images whose features are kept."""
    kept_parts: Container[object] = ()
    """Keys of the kept parts."""

    def of_images(self, tokens: Tokens) -> dict[object, float]:
        """What each image costs that is not kept: once a pack, however often it stands there."""
        return {
            visual: self.tower(visual.tokens)
            for _, visual in tokens.visuals
            if visual.key not in self.kept_images
        }


class Waiting(Protocol):
    """What is planned: a prompt and its lane (0 goes first)."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def lane(self) -> int: ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class QueryPart:
    """A query and the documents of this pack that stand after it."""

    tokens: Tokens
    documents: tuple[Tokens, ...]


@dataclass(frozen=True, slots=True)
class KeptPart:
    """A system turn with its instruction, and the queries of this pack that stand after it."""

    tokens: Tokens
    queries: tuple[QueryPart, ...]


@dataclass(frozen=True, slots=True)
class PackTokens:
    """Tokens of a pack by kind."""

    text: int
    image: int
    """Of images, those of videos among them."""
    video: int
    shared: int
    """What its pairs have beyond the computed ones: what sharing and keeping saved."""


@dataclass(frozen=True, slots=True)
class Pack:
    """What one forward pass scores. Scores come in the order of `documents()`."""

    parts: tuple[KeptPart, ...]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> tuple[Pack, list[int]]:
        """The pack of these prompts, and which prompt stands at each of its documents."""
        tree: dict[Tokens, dict[Tokens, list[tuple[int, Tokens]]]] = {}
        for index, p in enumerate(prompts):
            tree.setdefault(p.kept, {}).setdefault(p.query, []).append((index, p.document))
        order = [i for queries in tree.values() for leaves in queries.values() for i, _ in leaves]
        parts = tuple(
            KeptPart(
                kept,
                tuple(QueryPart(q, tuple(d for _, d in leaves)) for q, leaves in queries.items()),
            )
            for kept, queries in tree.items()
        )
        return cls(parts), order

    def queries(self) -> Iterator[tuple[KeptPart, QueryPart]]:
        """All queries, each with the part it stands after."""
        return ((part, query) for part in self.parts for query in part.queries)

    def documents(self) -> Iterator[Tokens]:
        """All documents, in the order of the scores."""
        return (d for _, query in self.queries() for d in query.documents)

    def apart(self) -> Iterator[Pack]:
        """Its documents as packs of one, in their order."""
        for part, query in self.queries():
            for document in query.documents:
                alone = QueryPart(query.tokens, (document,))
                yield Pack((KeptPart(part.tokens, (alone,)),))

    @property
    def pairs(self) -> int:
        """How many scores it gives."""
        return sum(len(query.documents) for _, query in self.queries())

    def tokens(self, prices: Prices) -> PackTokens:
        """Its tokens by kind: a kept part is computed here unless it was kept already."""
        new = [part for part in self.parts if part.tokens.key not in prices.kept_parts]
        computed = [part.tokens for part in new]
        for _, query in self.queries():
            computed += [query.tokens, *query.documents]
        stand = sum(
            len(part.tokens) * len(query.documents) + len(query.tokens) * len(query.documents)
            for part, query in self.queries()
        ) + sum(map(len, self.documents()))
        visuals = [visual for part in computed for _, visual in part.visuals]
        image = sum(visual.tokens for visual in visuals)
        every = sum(map(len, computed))
        return PackTokens(
            text=every - image,
            image=image,
            video=sum(visual.tokens for visual in visuals if len(visual.frames) > 1),
            shared=stand - every,
        )


def cost(length: int, context: int) -> float:
    """Token-equivalents of `length` tokens after `context` others."""
    return length * (1 + (context + length / 2) / ATTENTION_TOKENS)


def query_cost(prompt: Prompt) -> float:
    """What a prompt's query costs the pack in which it comes first."""
    return cost(len(prompt.query), len(prompt.kept))


def document_cost(prompt: Prompt) -> float:
    """What a prompt's document costs a pack that has its query."""
    return cost(len(prompt.document), len(prompt.kept) + len(prompt.query))


def pack_cost(prompts: Iterable[Prompt], prices: Prices) -> float:
    """Token-equivalents of a pack of these prompts, as long as no more is kept."""
    shared: dict[object, float] = {}
    own = 0.0
    for p in prompts:
        own += document_cost(p)
        shared |= _shared_costs(p, prices)
    return own + sum(shared.values())


def _shared_costs(prompt: Prompt, prices: Prices) -> dict[object, float]:
    """What a prompt's shared parts cost the first pair of a pack that has them.

    A kept part is free, since it is computed once for all packs; but one with images is a query,
    of which there may be as many as pairs.
    """
    costs: dict[object, float] = {(prompt.kept, prompt.query): query_cost(prompt)}
    if prompt.document.visuals:
        costs |= prices.of_images(prompt.document)
    if prompt.kept.visuals and prompt.kept.key not in prices.kept_parts:
        costs |= prices.of_images(prompt.kept)
        costs[prompt.kept] = cost(len(prompt.kept), 0)
    return costs


def plan(
    waiting: Sequence[W], limit: Limit, prices: Prices, *, last_lane_first: bool = False
) -> tuple[list[W], LimitedBy]:
    """The next pack's items out of those waiting (oldest first), and what ended it.

    Lanes are served in order, or in reverse with `last_lane_first`: a caller that sets it now and
    then guarantees the last lane its share. Within a lane the query that waits longest comes
    first, with its documents from long to short (documents with images: image by image, with
    all their queries); what does not fit is passed over for smaller ones. The first item is always
    taken, so one pair over the budget gets a pack of its own.
    """
    taken: list[W] = []
    shared: set[object] = set()
    spent = 0.0
    full = False
    for item in _in_order(waiting, last_lane_first):
        if limit.pairs is not None and taken and len(taken) >= limit.pairs:
            return taken, "limit"
        if taken and spent + len(item.prompt.document) > limit.tokens:  # most do not fit: be quick
            full = True
            continue
        costs = _shared_costs(item.prompt, prices)
        price = document_cost(item.prompt) + sum(costs[key] for key in costs if key not in shared)
        if taken and spent + price > limit.tokens:
            full = True
            continue
        taken.append(item)
        shared.update(costs)
        spent += price
    return taken, "limit" if full else "empty"


def _in_order(waiting: Sequence[W], reverse: bool) -> Iterator[W]:
    lanes: dict[int, dict[object, list[W]]] = {}
    for item in waiting:
        prompt = item.prompt
        key: object = (prompt.kept, prompt.query)
        if prompt.document.visuals and not prompt.kept.visuals:
            # of all that is shared, the features of a document's images cost most to make again
            key = prompt.document.visuals
        lanes.setdefault(item.lane, {}).setdefault(key, []).append(item)
    for lane in sorted(lanes, reverse=reverse):
        for items in lanes[lane].values():
            yield from sorted(items, key=lambda item: -len(item.prompt.document))
