"""The device thread: results travel with their pairs, failures stay where they belong."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager

import numpy as np
import pytest

from rerankfleet.shared.errors import EngineError, ItemError
from rerankfleet.shared.job_spec import Priority
from rerankfleet.workers.batching.batcher import BULK_TURN, WARM_UP_PACKS, Batcher
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens, Visual
from tests.support.fake_engine import WAIT_S, FakeEngine, prompt
from tests.support.wait import wait_until


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def start(engine):
    """Makes batchers over `engine` and closes them."""
    made: list[Batcher] = []

    def make(limit: Limit | None = None, **options) -> Batcher:
        made.append(Batcher(engine, limit or Limit(1000), **options))
        return made[-1]

    yield make
    engine.gate.set()
    for batcher in made:
        batcher.close(drain=False)


@contextmanager
def held(engine: FakeEngine, batcher: Batcher):
    """The device is busy with a first pair while the body runs."""
    engine.gate.clear()
    engine.entered.clear()
    first = batcher.submit([prompt(500)])
    assert engine.entered.wait(WAIT_S)
    engine.packs.clear()
    yield
    engine.gate.set()
    first.result(WAIT_S)


def test_outcomes_come_in_the_order_of_the_submitted_pairs(start):
    batcher = start(Limit(20))
    futures = [
        batcher.submit([prompt(10 * i + j, length=1 + j % 5, query=i) for j in range(7)])
        for i in range(20, 26)
    ]
    for i, future in zip(range(20, 26), futures, strict=True):
        assert future.result(WAIT_S) == [10 * i + j for j in range(7)]


def test_no_pairs_give_no_outcomes(start):
    assert start().submit([]).result(WAIT_S) == []


def test_a_pack_takes_pairs_of_several_submits(engine, start):
    batcher = start()
    with held(engine, batcher):
        futures = [batcher.submit([prompt(i)]) for i in (1, 2, 3)]
    assert [f.result(WAIT_S) for f in futures] == [[1], [2], [3]]
    assert [sorted(p) for p in engine.packs] == [[1, 2, 3]]


def test_a_new_limit_holds_from_the_next_pack(engine, start):
    batcher = start(Limit(1000))
    with held(engine, batcher):
        future = batcher.submit([prompt(i) for i in range(1, 7)])
        batcher.limit = Limit(1000, pairs=2)
    assert future.result(WAIT_S) == [1, 2, 3, 4, 5, 6]
    assert [len(p) for p in engine.packs] == [2, 2, 2]


def test_interactive_pairs_overtake_bulk_but_bulk_keeps_its_share(engine, start):
    batcher = start(Limit(1000, pairs=1))
    with held(engine, batcher):
        bulk = batcher.submit([prompt(1), prompt(2)], priority=Priority.bulk)
        quick = batcher.submit([prompt(i) for i in range(100, 110)], priority=Priority.interactive)
    bulk.result(WAIT_S)
    quick.result(WAIT_S)
    order = [p[0] for p in engine.packs]
    assert order[0] >= 100
    assert 1 in order[:BULK_TURN]
    assert 2 in order[: 2 * BULK_TURN]


def test_out_of_memory_halves_the_pack_and_teaches_the_limit(engine, start):
    engine.fits = 3
    reports = []
    batcher = start(Limit(1000), on_pack=reports.append)
    with held(engine, batcher):
        future = batcher.submit([prompt(i, length=20) for i in range(10, 20)])
    assert future.result(WAIT_S) == list(range(10, 20))
    assert engine.freed
    assert batcher.limit.tokens < 60
    assert [r.oom for r in reports].count(True) == engine.freed
    before = len(engine.packs)
    batcher.submit([prompt(i, length=20) for i in range(20, 30)]).result(WAIT_S)
    assert len(engine.packs) - before == 5


def test_a_learned_limit_recovers_slowly(engine, start):
    engine.fits = 2
    batcher = start(Limit(160))
    batcher.submit([prompt(i, length=20) for i in range(1, 9)]).result(WAIT_S)
    learned = batcher.limit.tokens
    engine.fits = math.inf
    for _ in range(30):
        batcher.submit([prompt(i, length=20) for i in range(20, 32)]).result(WAIT_S)
    assert learned < batcher.limit.tokens <= 160


def test_one_pair_that_does_not_fit_alone_is_an_error_of_its_own(start):
    ok, bad, also_ok = start().submit([prompt(1), prompt(99), prompt(2)]).result(WAIT_S)
    assert (ok, also_ok) == (1, 2)
    assert isinstance(bad, ItemError)
    assert bad.code == "out_of_memory"


def test_a_margin_that_is_no_number_is_an_error_never_a_score(start):
    good, bad = start().submit([prompt(5), prompt(77)]).result(WAIT_S)
    assert good == 5
    assert isinstance(bad, ItemError)
    assert bad.code == "non_finite_score"


def test_a_failed_pack_fails_its_own_pairs_and_the_loop_lives_on(engine, start, caplog):
    engine.fail_with = ValueError("broken kernel")
    batcher = start(Limit(1000, pairs=1))
    with held(engine, batcher):
        bad = batcher.submit([prompt(13), prompt(14)])
        good = batcher.submit([prompt(15)])
    with pytest.raises(EngineError, match="broken kernel") as caught:
        bad.result(WAIT_S)
    assert caught.value.retryable
    assert good.result(WAIT_S) == [15]
    assert batcher.submit([prompt(16)]).result(WAIT_S) == [16]
    assert [14] not in engine.packs


def test_a_wrong_number_of_margins_is_a_failure(start, engine, monkeypatch):
    batcher = start()
    monkeypatch.setattr(engine, "score", lambda pack: [1.0])
    with pytest.raises(EngineError, match="1 margins for 2 pairs"):
        batcher.submit([prompt(1), prompt(2)]).result(WAIT_S)


def test_a_stopped_submit_is_cancelled_and_its_pairs_are_not_scored(engine, start):
    batcher = start(Limit(1000, pairs=1))
    stop = threading.Event()
    with held(engine, batcher):
        stopped = batcher.submit([prompt(1), prompt(2)], stop=stop)
        other = batcher.submit([prompt(3)])
        stop.set()
    assert other.result(WAIT_S) == [3]
    assert wait([stopped], WAIT_S).done
    with pytest.raises(CancelledError):
        stopped.result()
    assert engine.packs == [[3]]


def test_a_future_cancelled_by_its_caller_is_dropped(engine, start):
    batcher = start(Limit(1000, pairs=1))
    with held(engine, batcher):
        unwanted = batcher.submit([prompt(1)])
        assert unwanted.cancel()
    assert batcher.submit([prompt(2)]).result(WAIT_S) == [2]
    assert wait([unwanted], WAIT_S).done
    assert [1] not in engine.packs


def test_submit_blocks_while_too_much_waits_but_interactive_does_not(engine, start):
    batcher = start(Limit(1000), waiting_tokens_max=20)
    with held(engine, batcher):
        batcher.submit([prompt(1, length=15)])
        late = threading.Thread(target=batcher.submit, args=([prompt(2, length=15)],))
        late.start()
        quick = batcher.submit([prompt(3, length=15)], priority=Priority.interactive)
        late.join(0.1)
        assert late.is_alive()
    late.join(WAIT_S)
    assert not late.is_alive()
    assert quick.result(WAIT_S) == [3]


def test_a_blocked_submit_gives_up_when_stopped(engine, start):
    batcher = start(Limit(1000), waiting_tokens_max=20)
    stop = threading.Event()
    with held(engine, batcher):
        batcher.submit([prompt(1, length=15)])
        threading.Timer(0.05, stop.set).start()
        assert batcher.submit([prompt(2, length=15)], stop=stop).cancelled()


def test_one_submit_larger_than_the_bound_is_admitted_alone(start):
    batcher = start(Limit(10), waiting_tokens_max=5)
    assert batcher.submit([prompt(i, length=4) for i in range(1, 5)]).result(WAIT_S) == [1, 2, 3, 4]


def test_close_with_drain_scores_what_waits(engine, start):
    batcher = start(Limit(1000, pairs=1))
    with held(engine, batcher):
        future = batcher.submit([prompt(1), prompt(2)])
        threading.Thread(target=batcher.close).start()
    assert future.result(WAIT_S) == [1, 2]


def test_close_without_drain_cancels_what_waits_and_refuses_more(engine, start):
    batcher = start(Limit(1000, pairs=1))
    with held(engine, batcher):
        future = batcher.submit([prompt(1), prompt(2)])
        closing = threading.Thread(target=batcher.close, kwargs={"drain": False})
        closing.start()
    closing.join(WAIT_S)
    assert future.cancelled()
    with pytest.raises(EngineError, match="closed"):
        batcher.submit([prompt(3)])


def test_when_the_device_thread_dies_nobody_waits_in_vain(engine, start, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    batcher = start(Limit(1000, pairs=1))

    def die(*_, **__):
        raise SystemExit

    with held(engine, batcher):
        future = batcher.submit([prompt(1)])
        monkeypatch.setattr("rerankfleet.workers.batching.batcher.plan", die)
    with pytest.raises(EngineError, match="has ended"):
        future.result(WAIT_S)
    with pytest.raises(EngineError, match="closed"):
        batcher.submit([prompt(2)])


def test_a_failure_holds_no_frames_of_the_forward_pass(engine, start, caplog):
    engine.fail_with = ValueError("broken kernel")
    failure = start().submit([prompt(13)]).exception(WAIT_S)
    assert failure.__cause__ is None
    assert failure.__context__ is None


def test_what_is_observed_of_a_pack(engine, start):
    observations = []
    batcher = start(Limit(1000, pairs=7), on_pack=observations.append)
    before_s = time.time()
    batcher.submit([prompt(1, 4), prompt(2, 6)]).result(WAIT_S)
    wait_until(lambda: observations)

    (pack,) = observations
    assert before_s <= pack.at_s <= time.time()
    assert (pack.pairs, pack.text_tokens, pack.image_tokens, pack.shared_tokens) == (2, 14, 0, 4)
    assert (pack.limited_by, pack.limit_tokens, pack.limit_pairs) == ("empty", 1000, 7)
    assert pack.cost >= 12
    assert min(pack.forward_s, pack.waiting_s, pack.preparing_s) >= 0
    assert not pack.oom
    assert not pack.interactive


def test_tokens_of_images_are_counted_apart(start):
    visual = Visual("drawn", (np.zeros((64, 96, 3), np.uint8),))
    document = Tokens.of([9, *[0] * visual.tokens, 9], [(1, visual)])
    observations = []
    batcher = start(on_pack=observations.append)
    pairs = [Prompt(Tokens.of([1, 2]), Tokens.of([1] * 2), document)] * 2
    batcher.submit(pairs).result(WAIT_S)
    wait_until(lambda: observations)

    assert (observations[0].image_tokens, observations[0].text_tokens) == (12, 8)


def test_the_first_packs_are_a_warm_up_and_so_is_one_after_memory_was_freed(engine, start):
    engine.fits = 1
    observations = []
    batcher = start(on_pack=observations.append)
    for number in range(1, WARM_UP_PACKS + 2):
        batcher.submit([prompt(number)]).result(WAIT_S)
    batcher.submit([prompt(21), prompt(22)]).result(WAIT_S)
    wait_until(lambda: len(observations) == WARM_UP_PACKS + 4)

    marks = [(pack.oom, pack.warm_up) for pack in observations]
    assert marks[:WARM_UP_PACKS] == [(False, True)] * WARM_UP_PACKS
    assert marks[WARM_UP_PACKS:] == [(False, False), (True, False), (False, True), (False, False)]


def test_a_pack_with_interactive_pairs_is_marked(engine, start):
    observations = []
    batcher = start(on_pack=observations.append)
    with held(engine, batcher):
        batcher.submit([prompt(1)], priority=Priority.bulk)
        batcher.submit([prompt(2)], priority=Priority.interactive)
    wait_until(lambda: len(observations) == 2)

    assert [(pack.pairs, pack.interactive) for pack in observations] == [(1, False), (2, True)]


def test_a_pack_that_the_limit_did_not_bound_is_not_marked_as_limited(engine, start):
    """Given pairs that must not share a pack with others."""
    observations = []
    batcher = start(Limit(12), on_pack=observations.append)
    with held(engine, batcher):
        batcher.submit([prompt(1)], apart=True)
        batcher.submit([prompt(2), prompt(3), prompt(4), prompt(5)])
    wait_until(lambda: sum(pack.pairs for pack in observations) == 6)

    assert [(pack.pairs, pack.limited_by) for pack in observations[1:3]] == [
        (1, "empty"),
        (3, "limit"),
    ]


def test_a_pack_that_failed_is_no_measure(engine, start, caplog):
    engine.fail_with = ValueError("broken kernel")
    observations = []
    batcher = start(on_pack=observations.append)
    with pytest.raises(EngineError):
        batcher.submit([prompt(13)]).result(WAIT_S)
    batcher.submit([prompt(14)]).result(WAIT_S)
    wait_until(lambda: observations)

    assert len(observations) == 1


def test_out_of_memory_halves_at_once_and_a_larger_limit_that_is_set_does_not_undo_it(
    engine, start
):
    engine.fits = 3
    batcher = start(Limit(1000))
    assert batcher.ceiling == math.inf
    batcher.submit([prompt(i, length=20) for i in range(1, 7)]).result(WAIT_S)
    learned = batcher.limit.tokens

    batcher.limit = Limit(100_000)

    assert batcher.limit.tokens == learned == int(batcher.ceiling) < 1000
    batcher.limit = Limit(learned // 2)
    assert batcher.ceiling == math.inf  # it bounds nothing now


def test_a_report_that_is_refused_does_not_stop_the_loop(start, caplog):
    def refuse(report):
        raise RuntimeError("no")

    batcher = start(on_pack=refuse)
    assert batcher.submit([prompt(1)]).result(WAIT_S) == [1]
    assert batcher.submit([prompt(2)]).result(WAIT_S) == [2]


def test_the_watchdog_observes_progress_and_surrounds_each_pack(engine, start):
    inside = []

    @contextmanager
    def around():
        inside.append("in")
        yield
        inside.append("out")

    batcher = start(around_pack=around)
    begun = batcher.progress_s()
    with held(engine, batcher):
        assert batcher.busy
        assert inside == ["in"]
        batcher.submit([prompt(1)])
        assert len(batcher._waiting) == 1
    batcher.close()
    assert batcher.progress_s() >= begun
    assert not batcher.busy
    assert inside == ["in", "out"] * 2


def test_a_pack_in_flight_fails_when_the_device_thread_dies(engine, start, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    batcher = start()
    assert batcher.alive

    def die(*_, **__):
        raise SystemExit

    monkeypatch.setattr(engine, "score", die)
    future = batcher.submit([prompt(1)])

    with pytest.raises(EngineError, match="has ended"):
        future.result(WAIT_S)
    wait_until(lambda: not batcher.alive)


def test_memory_that_cannot_be_freed_does_not_end_the_loop(engine, start, monkeypatch, caplog):
    def refuse():
        raise RuntimeError("CUDA error")

    engine.fits = 1
    monkeypatch.setattr(engine, "free", refuse)

    assert start().submit([prompt(1), prompt(2)]).result(WAIT_S) == [1, 2]


def test_a_submit_apart_shares_no_pack_with_others(engine, start):
    batcher = start()
    with held(engine, batcher):
        futures = [
            batcher.submit([prompt(1), prompt(2)], apart=True),
            batcher.submit([prompt(3)]),
            batcher.submit([prompt(4)], apart=True),
            batcher.submit([prompt(5)]),
        ]
    assert [f.result(WAIT_S) for f in futures] == [[1, 2], [3], [4], [5]]
    assert sorted(sorted(p) for p in engine.packs) == [[1, 2], [3, 5], [4]]


def test_a_large_submit_is_not_overtaken_for_ever_by_small_ones(engine, start):
    """Given a full queue and a submission too large for it, later ones wait behind that one."""
    batcher = start(Limit(6), waiting_tokens_max=40)
    with held(engine, batcher):
        waiting = [batcher.submit([prompt(n)]) for n in (1, 2)]
        large = threading.Thread(target=lambda: batcher.submit([prompt(7)] * 20).result(WAIT_S))
        large.start()
        wait_until(lambda: len(batcher._blocked[1]) == 1)
        small = threading.Thread(target=lambda: batcher.submit([prompt(3)]).result(WAIT_S))
        small.start()
        wait_until(lambda: len(batcher._blocked[1]) == 2)
    for thread in (large, small):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert all(future.done() for future in waiting)
    order = [number for pack in engine.packs for number in pack]
    assert order.index(7) < order.index(3)
