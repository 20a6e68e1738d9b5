"""Which waiting pairs go into the next pack: grouped by shared prefix, filled by cost. Pure.

A pack is a tree of three levels, since a part that pairs share is computed once:

    Pack
    └── PrefixPart     system turn and instruction     computed once, then cached
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

#: Context length at which attending to it costs a token as much as all linear layers: about 4 × the
#: hidden size in Qwen3; 3,000 to 20,000 over the family. Matters for long documents only.
ATTENTION_TOKENS = 4096

LimitedBy = Literal["limit", "empty"]


@dataclass(frozen=True, slots=True)
class Limit:
    """The size of a pack: a budget of token-equivalents, and a cap on pairs."""

    tokens: int
    pairs: int | None = None


def _no_tower(tokens: int) -> float:
    return 0.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What an engine computes besides the tokens of a pack: its images, unless they are cached."""

    tower: Callable[[int], float] = _no_tower
    """Token-equivalents of the vision tower for an image, by its visual tokens."""
    cached_images: Container[object] = ()
    """Keys of the images whose features are cached."""
    cached_prefixes: Container[object] = ()
    """Keys of the prefixes that are cached."""
    gathered: float = 0.0
    """Token-equivalents of each token before a query or document that the attention copies for
    it: nothing where it reads them in place."""

    def of_images(self, tokens: Tokens) -> dict[object, float]:
        """The cost of each image that is not cached: once per pack, however often it occurs."""
        return {
            visual: self.tower(visual.tokens)
            for _, visual in tokens.visuals
            if visual.key not in self.cached_images
        }


NO_PRICES = Prices()
"""Of an engine without images, caches and copies."""


class Waiting(Protocol):
    """An item to plan: a prompt and its lane (0 goes first)."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def lane(self) -> int: ...


W = TypeVar("W", bound=Waiting)


@dataclass(frozen=True, slots=True)
class QueryPart:
    """A query, and the documents of this pack that follow it."""

    tokens: Tokens
    documents: tuple[Tokens, ...]


@dataclass(frozen=True, slots=True)
class PrefixPart:
    """A system turn with its instruction, and the queries of this pack that follow it."""

    tokens: Tokens
    queries: tuple[QueryPart, ...]


@dataclass(frozen=True, slots=True)
class PackTokens:
    """Tokens of a pack by kind."""

    text: int
    image: int
    """Of images, including those of videos."""
    video: int
    shared: int
    """The tokens that sharing and caching saved."""


@dataclass(frozen=True, slots=True)
class Pack:
    """What one forward pass scores. Scores come in the order of `documents()`."""

    parts: tuple[PrefixPart, ...]

    @classmethod
    def of(cls, prompts: Iterable[Prompt]) -> tuple[Pack, list[int]]:
        """The pack of these prompts, and the index of the prompt of each of its documents."""
        tree: dict[Tokens, dict[Tokens, list[tuple[int, Tokens]]]] = {}
        for index, p in enumerate(prompts):
            tree.setdefault(p.prefix, {}).setdefault(p.query, []).append((index, p.document))
        order = [i for queries in tree.values() for leaves in queries.values() for i, _ in leaves]
        parts = tuple(
            PrefixPart(
                prefix,
                tuple(QueryPart(q, tuple(d for _, d in leaves)) for q, leaves in queries.items()),
            )
            for prefix, queries in tree.items()
        )
        return cls(parts), order

    def queries(self) -> Iterator[tuple[PrefixPart, QueryPart]]:
        """All queries, each with its prefix."""
        return ((part, query) for part in self.parts for query in part.queries)

    def documents(self) -> Iterator[Tokens]:
        """All documents, in the order of the scores."""
        return (d for _, query in self.queries() for d in query.documents)

    def apart(self) -> Iterator[Pack]:
        """Its documents as packs of one, in order."""
        for part, query in self.queries():
            for document in query.documents:
                alone = QueryPart(query.tokens, (document,))
                yield Pack((PrefixPart(part.tokens, (alone,)),))

    @property
    def pairs(self) -> int:
        """How many scores it gives."""
        return sum(len(query.documents) for _, query in self.queries())

    def tokens(self, prices: Prices) -> PackTokens:
        """Its tokens by kind: a prefix is computed here unless it is cached already."""
        new = [part for part in self.parts if part.tokens.key not in prices.cached_prefixes]
        computed = [part.tokens for part in new]
        for _, query in self.queries():
            computed += [query.tokens, *query.documents]
        total = sum(
            len(part.tokens) * len(query.documents) + len(query.tokens) * len(query.documents)
            for part, query in self.queries()
        ) + sum(map(len, self.documents()))
        visuals = [visual for part in computed for _, visual in part.visuals]
        image = sum(visual.tokens for visual in visuals)
        computed_tokens = sum(map(len, computed))
        return PackTokens(
            text=computed_tokens - image,
            image=image,
            video=sum(visual.tokens for visual in visuals if len(visual.frames) > 1),
            shared=total - computed_tokens,
        )


def cost(length: int, context: int, gathered: float = 0.0) -> float:
    """Token-equivalents of `length` tokens after `context` others, each copied at a price."""
    if not length:
        return 0.0
    return length * (1 + (context + length / 2) / ATTENTION_TOKENS) + gathered * context


def query_cost(prompt: Prompt, prices: Prices = NO_PRICES) -> float:
    """The cost of a prompt's query, for the first pair of a pack that has it."""
    return cost(len(prompt.query), len(prompt.prefix), prices.gathered)


def document_cost(prompt: Prompt, prices: Prices = NO_PRICES) -> float:
    """The cost of a prompt's document in a pack that has its query."""
    context = len(prompt.prefix) + len(prompt.query)
    return cost(len(prompt.document), context, prices.gathered)


def pack_cost(prompts: Iterable[Prompt], prices: Prices) -> float:
    """Token-equivalents of a pack of these prompts, with what is cached now."""
    shared: dict[object, float] = {}
    own = 0.0
    for p in prompts:
        own += document_cost(p, prices)
        shared |= _shared_costs(p, prices)
    return own + sum(shared.values())


def _shared_costs(prompt: Prompt, prices: Prices) -> dict[object, float]:
    """The costs of a prompt's shared parts, for the first pair of a pack that has them.

    A prefix is free, since it is computed once for all packs; but one with images includes its
    query, and there may be as many of those as pairs.
    """
    costs: dict[object, float] = {(prompt.prefix, prompt.query): query_cost(prompt, prices)}
    if prompt.document.visuals:
        costs |= prices.of_images(prompt.document)
    if prompt.prefix.visuals and prompt.prefix.key not in prices.cached_prefixes:
        costs |= prices.of_images(prompt.prefix)
        costs[prompt.prefix] = cost(len(prompt.prefix), 0)
    return costs


def plan(
    waiting: Sequence[W], limit: Limit, prices: Prices, *, last_lane_first: bool = False
) -> tuple[list[W], LimitedBy]:
    """The next pack's items out of those waiting (oldest first), and what bounded it.

    Lanes are served in order, or in reverse with `last_lane_first`: a caller that sets it regularly
    guarantees the last lane its share. Within a lane the query that waits longest comes first, with
    its documents from long to short (documents with images: image by image, with all their
    queries); an item that does not fit is skipped for smaller ones. The first item is always taken,
    so a pair over the budget gets a pack of its own.
    """
    taken: list[W] = []
    shared: set[object] = set()
    spent = 0.0
    full = False
    for item in _in_order(waiting, last_lane_first):
        if limit.pairs is not None and taken and len(taken) >= limit.pairs:
            return taken, "limit"
        if taken and spent + len(item.prompt.document) > limit.tokens:  # quick, as most do not fit
            full = True
            continue
        costs = _shared_costs(item.prompt, prices)
        price = document_cost(item.prompt, prices) + sum(
            costs[key] for key in costs if key not in shared
        )
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
        key: object = (prompt.prefix, prompt.query)
        if prompt.document.visuals and not prompt.prefix.visuals:
            # of all shared parts, the features of a document's images are the dearest to recompute
            key = prompt.document.visuals
        lanes.setdefault(item.lane, {}).setdefault(key, []).append(item)
    for lane in sorted(lanes, reverse=reverse):
        for items in lanes[lane].values():
            yield from sorted(items, key=lambda item: -len(item.prompt.document))
