"""Which pairs go into a pack, and what a pack is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.workers.batching.packing import (
    Limit,
    Pack,
    PackTokens,
    Prices,
    cost,
    document_cost,
    pack_cost,
    plan,
)
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens, Visual

TEXT = Prices()
"""Of a model without images."""


@dataclass(frozen=True)
class Item:
    prompt: Prompt
    lane: int = 1


def item(query: int, length: int, lane: int = 1, prefix: int = 5) -> Item:
    part = Tokens.of(range(prefix))
    return Item(Prompt(part, Tokens.of([query] * 4), Tokens.of([length] * length)), lane)


def lengths(items: list[Item]) -> list[int]:
    return [len(i.prompt.document) for i in items]


items = st.lists(
    st.builds(item, st.integers(0, 4), st.integers(1, 60), st.integers(0, 2), st.integers(1, 2)),
    max_size=40,
)
limits = st.builds(Limit, st.integers(1, 200), st.none() | st.integers(1, 10))


@given(items, limits, st.booleans())
def test_packs_take_every_item_once_and_keep_to_the_limit(waiting, limit, last_lane_first):
    rest = list(waiting)
    taken_all = []
    while rest:
        taken, _ = plan(rest, limit, TEXT, last_lane_first=last_lane_first)
        assert taken
        price = pack_cost((i.prompt for i in taken), TEXT)
        assert price <= limit.tokens + 1e-6 or len(taken) == 1
        assert limit.pairs is None or len(taken) <= limit.pairs
        gone = set(map(id, taken))
        assert len(gone) == len(taken)
        rest = [i for i in rest if id(i) not in gone]
        taken_all += taken
    assert sorted(map(id, taken_all)) == sorted(map(id, waiting))


@given(items, limits)
def test_the_same_items_give_the_same_pack(waiting, limit):
    assert plan(waiting, limit, TEXT) == plan(list(waiting), limit, TEXT)


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 2, st.integers(0, 30)), min_size=1))
def test_a_pack_is_a_tree_that_keeps_every_document(triples):
    prompts = [
        Prompt(Tokens.of([100 + k]), Tokens.of([200 + q]), Tokens.of([i] * n))
        for i, (k, q, n) in enumerate(triples)
    ]
    pack, order = Pack.of(prompts)
    assert sorted(order) == list(range(len(prompts)))
    assert list(pack.documents()) == [prompts[i].document for i in order]
    assert len(pack.parts) == len({p.prefix for p in prompts})
    assert len(list(pack.queries())) == len({(p.prefix, p.query) for p in prompts})
    assert pack.pairs == len(prompts)
    for prefix in ((), {p.prefix.key for p in prompts}):
        tokens = pack.tokens(Prices(cached_prefixes=prefix))
        assert tokens.text + tokens.shared == sum(map(len, prompts))
    assert tokens.text == sum(len(q.tokens) for _, q in pack.queries()) + sum(
        map(len, pack.documents())
    )
    alone = list(pack.apart())
    assert [next(p.documents()) for p in alone] == list(pack.documents())
    assert all(p.pairs == 1 for p in alone)


def test_a_pair_over_the_budget_gets_a_pack_of_its_own():
    taken, limited_by = plan([item(0, 500), item(0, 3)], Limit(100), TEXT)
    assert lengths(taken) == [500]
    assert limited_by == "limit"


def test_documents_go_from_long_to_short_and_small_ones_fill_the_gap():
    taken, limited_by = plan([item(0, n) for n in (30, 80, 70, 5)], Limit(125), TEXT)
    assert lengths(taken) == [80, 30, 5]
    assert limited_by == "limit"


def test_what_all_fits_is_limited_by_the_queue():
    assert plan([item(0, 3), item(1, 4)], Limit(1000), TEXT)[1] == "empty"
    assert plan([], Limit(1000), TEXT) == ([], "empty")


def test_a_shared_query_costs_once():
    one, two, other = item(0, 10), item(0, 20), item(1, 10)
    assert pack_cost([one.prompt, two.prompt], TEXT) < pack_cost([two.prompt, other.prompt], TEXT)
    assert pack_cost([one.prompt], TEXT) > document_cost(one.prompt)


def test_the_query_that_waits_longest_goes_first():
    taken, _ = plan([item(3, 10), item(1, 50), item(3, 20)], Limit(10_000, pairs=2), TEXT)
    assert lengths(taken) == [20, 10]


def test_an_image_goes_with_all_its_queries():
    """Given a catalog: its features are used and done with, whatever the number of images."""
    prefix = Tokens.of([1])
    images = [Visual(str(n), (np.zeros((32, 32, 3), np.uint8),)) for n in range(3)]
    waiting = [
        Item(Prompt(prefix, Tokens.of([query]), Tokens.of([9, 8], [(0, image)])))
        for query in range(4)
        for image in images
    ]
    taken, _ = plan(waiting, Limit(13), TEXT)
    keys = [i.prompt.document.visuals[0][1].key for i in taken]
    assert keys == ["0"] * 4


def test_tokens_of_images_and_of_video_frames_are_counted_apart():
    pixels = np.zeros((32, 64, 3), np.uint8)
    image, step = Visual("image", (pixels,)), Visual("step", (pixels, pixels))
    document = Tokens.of(range(9), [(0, image), (2, step), (4, step)])

    pack, _ = Pack.of([Prompt(Tokens.of([1]), Tokens.of([2]), document)])

    assert pack.tokens(TEXT) == PackTokens(text=5, image=6, video=4, shared=0)


def test_a_query_with_an_image_is_computed_once_and_then_cached():
    prefix = Tokens.of([1, 2], [(1, Visual("q", (np.zeros((32, 32, 3), np.uint8),)))])
    pack, _ = Pack.of([Prompt(prefix, Tokens.of([]), Tokens.of([3] * n)) for n in (4, 5)])

    assert pack.tokens(TEXT) == PackTokens(text=10, image=1, video=0, shared=2)
    later = pack.tokens(Prices(cached_prefixes={prefix.key}))
    assert later == PackTokens(text=9, image=0, video=0, shared=4)


def test_interactive_goes_before_bulk_that_waited_longer():
    taken, _ = plan(
        [item(0, 40, lane=2), item(1, 20, lane=1), item(2, 10, lane=0)], Limit(99, 2), TEXT
    )
    assert lengths(taken) == [10, 20]


def test_on_its_turn_bulk_goes_first():
    waiting = [item(2, 10, lane=0), item(1, 20, lane=1), item(0, 40, lane=2)]
    taken, _ = plan(waiting, Limit(99, 2), TEXT, last_lane_first=True)
    assert lengths(taken) == [40, 20]


@pytest.mark.parametrize("length", [10, 1000, 30_000])
def test_attention_makes_long_documents_dearer(length):
    assert cost(length, 0) > length
    assert cost(length, 100) > cost(length, 0)
    assert cost(2 * length, 0) > 2 * cost(length, 0)


def test_a_query_with_an_image_is_paid_for_once_a_pack():
    """Given requests that each bring an image as their query: packs stay as small as others."""
    image = [Visual(str(n), (np.zeros((64, 64, 3), np.uint8),)) for n in range(5)]
    waiting = [
        Item(Prompt(Tokens.of([1, *[2] * 4], [(1, p)]), Tokens.of([]), Tokens.of([3])))
        for p in image
        for _ in range(2)
    ]
    taken, _ = plan(waiting, Limit(15), TEXT)
    assert len(taken) == 4  # two queries of 5 tokens, with two documents of 1 token each
    assert pack_cost((i.prompt for i in taken), TEXT) == pytest.approx(14, rel=0.01)


def test_an_image_that_is_not_cached_costs_the_tower_once_per_pack():
    """Given a tower that costs ten tokens an image, and one of two images that is cached."""
    new, old = (Visual(name, (np.zeros((32, 32, 3), np.uint8),)) for name in ("new", "old"))
    prices = Prices(tower=lambda tokens: 10.0 * tokens, cached_images={"old"})

    def of(visual: Visual, queries: int) -> list[Item]:
        document = Tokens.of([9, 8], [(0, visual)])
        return [Item(Prompt(Tokens.of([1]), Tokens.of([q]), document)) for q in range(queries)]

    def price(*waiting: Item) -> float:
        return pack_cost((i.prompt for i in waiting), prices)

    assert price(*of(new, 1)) - price(*of(old, 1)) == pytest.approx(10)
    assert price(*of(new, 3)) - price(*of(old, 3)) == pytest.approx(10)
    taken, limited_by = plan([*of(new, 1), *of(old, 9)], Limit(14), prices)
    assert (len(taken), limited_by) == (1, "limit")
    taken, _ = plan(of(old, 9), Limit(14), prices)
    assert len(taken) == 4


def test_a_query_with_an_image_is_free_once_it_is_cached():
    prefix = Tokens.of([1, 2], [(1, Visual("q", (np.zeros((32, 32, 3), np.uint8),)))])
    prompt = Prompt(prefix, Tokens.of([]), Tokens.of([3]))
    before = Prices(tower=lambda tokens: 10.0 * tokens)
    after = Prices(tower=lambda tokens: 10.0 * tokens, cached_prefixes={prefix.key})
    spent = pack_cost([prompt], before) - pack_cost([prompt], after)
    assert spent == pytest.approx(12, rel=0.01)  # its two tokens, and the tower
