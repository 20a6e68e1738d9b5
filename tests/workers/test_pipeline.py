"""Slices -> outcomes: what fails is its own pair's outcome, and each score stays with its pair."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from rerankfleet.shared.content.content import Content, Document
from rerankfleet.shared.content.outcomes import Failure, Scored, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.errors import DeviceBroken, ItemError, OutOfDeviceMemory
from rerankfleet.shared.job_spec import InputRef, JobSpec, make_spec
from rerankfleet.shared.metrics import BATCH_SPLITS, RETRIES
from rerankfleet.shared.score_distribution import ScoreDistribution
from rerankfleet.workers.batching.batcher import Batcher
from rerankfleet.workers.batching.packing import Limit, Pack, Prices
from rerankfleet.workers.pipeline import PAIRS_AHEAD, Scorer, Stopped, in_runs, poisoned, summarize
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens
from rerankfleet.workers.recorder import Recorder
from tests.support.wait import patient

WAIT_S = patient(10)


class Prompter:
    """A prompt of a document "17" has the one token 17; a query "bad" has none."""

    def __init__(self) -> None:
        self.encoded: list[tuple[str, int]] = []

    def encode_all(self, requests, *, max_length, max_tokens_per_doc=None, stop=None):
        return [self._encode(request, max_length) for request in requests]

    def _encode(self, request, max_length):
        self.encoded.append((request.instruction, max_length))
        if request.query.text == "bad":
            error = ItemError("query_too_long", "the query alone is too long", hint="shorten it")
            return [error] * len(request.documents)
        return [
            Prompt(
                Tokens.of([1]),
                Tokens.of([2, 2]),
                Tokens.of([int(text)]),
                truncated_tokens=int(text) % 2,
                crowded=text == "8",
            )
            for text in (side.text for side in request.documents)
        ]


class Engine:
    """The margin of a document is its token; some tokens break a pack or do not fit."""

    prices = Prices()

    def __init__(self) -> None:
        self.breaks: set[int] = set()
        self.too_large: set[int] = set()
        self.packs: list[list[int]] = []

    def score(self, pack: Pack) -> list[float]:
        numbers = [next(iter(document)) for document in pack.documents()]
        self.packs.append(numbers)
        if self.breaks & set(numbers):
            raise RuntimeError(f"a kernel failed on {sorted(self.breaks & set(numbers))}")
        if self.too_large & set(numbers):
            raise OutOfDeviceMemory("full")
        return [float(number) for number in numbers]

    def free(self) -> None:
        pass


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def prompter() -> Prompter:
    return Prompter()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def scorer(engine, prompter, recorder):
    batcher = Batcher(engine, Limit(10_000))
    yield Scorer(prompter, batcher, recorder=recorder)
    batcher.close(drain=False)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def spec_of(**options) -> JobSpec:
    return make_spec(model="m", input=InputRef(uri="", size=0, tag=""), **options)


def a_slice(line: int, *numbers: int, query: str = "q", **fields) -> Slice:
    return Slice(
        line=line,
        query=query,
        documents=[Document(id=f"d{n}", text=str(n)) for n in numbers],
        indices=list(range(len(numbers))),
        **fields,
    )


def margins(outcome: SliceOutcome) -> dict[int, float]:
    return {result.index: result.margin for result in outcome.results}


def test_scores_stay_with_their_pairs(scorer, stop):
    slices = [a_slice(1, 5, 8, id="r", top_n=1, metadata={"k": 1}), a_slice(2, 7)]

    (first, second), tokens = scorer.score(slices, spec_of(), stop)

    assert margins(first) == {0: 5.0, 1: 8.0}
    assert margins(second) == {0: 7.0}
    assert first.results == [
        Scored(index=0, id="d5", margin=5.0, truncated_tokens=1),
        Scored(index=1, id="d8", margin=8.0, crowded=True),
    ]
    assert (first.id, first.top_n, first.metadata, first.line) == ("r", 1, {"k": 1}, 1)
    assert tokens == 2 + 2 + 2 + 1  # each query once, each document


def test_failures_of_a_slice_are_passed_on(scorer, stop):
    failure = Failure(line=1, index=1, code="invalid_document", message="m")
    only = Failure(line=2, code="malformed_line", message="m")
    slices = [a_slice(1, 5, failures=[failure]), Slice(line=2, failures=[only])]

    (first, second), _ = scorer.score(slices, spec_of(), stop)

    assert margins(first) == {0: 5.0}
    assert first.errors == [failure]
    assert second.errors == [only]


def test_a_query_without_a_prompt_fails_its_own_pairs(scorer, stop):
    slices = [a_slice(1, 5, 6, query="bad"), a_slice(2, 7)]

    (first, second), tokens = scorer.score(slices, spec_of(), stop)

    assert [(e.index, e.code, e.hint) for e in first.errors] == [
        (0, "query_too_long", "shorten it"),
        (1, "query_too_long", "shorten it"),
    ]
    assert margins(second) == {0: 7.0}
    assert tokens == 3


def test_the_most_specific_instruction_is_used(scorer, prompter, stop):
    slices = [a_slice(1, 1), a_slice(2, 2, instruction="its own")]
    prompter.encoded.clear()

    scorer.score(slices, spec_of(max_length=256), stop)
    scorer.score(slices[:1], spec_of(instruction="the job's"), stop)

    assert prompter.encoded == [(None, 256), ("its own", 256), ("the job's", 8192)]


@pytest.mark.parametrize("breaks", [{13}, {0}, {99}, {3, 4, 50}, set(range(100))])
def test_a_pair_that_breaks_its_pack_fails_alone(scorer, engine, stop, breaks):
    engine.breaks = breaks

    (outcome,), _ = scorer.score([a_slice(1, *range(100))], spec_of(), stop)

    assert {e.index for e in outcome.errors} == breaks
    assert {e.code for e in outcome.errors} == {"engine_error"}
    assert all("a kernel failed on" in e.message for e in outcome.errors)
    assert margins(outcome) == {n: float(n) for n in range(100) if n not in breaks}


def test_how_the_pair_that_breaks_its_pack_is_found_is_counted(scorer, engine, stop, recorder):
    engine.breaks = {3}

    scorer.score([a_slice(1, *range(4))], spec_of(), stop)

    counts = recorder.counts()
    assert counts[RETRIES.name][("pack_failed",)] == 1
    assert counts[BATCH_SPLITS.name][("poison",)] == 2  # 4 pairs, then the latter 2


def test_a_broken_device_fails_no_pair(scorer, engine, stop):
    """Given a device that fails on everything after its first error."""

    def broken(pack):
        engine.packs.append(pack)
        raise RuntimeError("CUDA error: unspecified launch failure")

    engine.score = broken

    with pytest.raises(DeviceBroken, match=r"fails on any pair .*unspecified launch failure"):
        scorer.score([a_slice(1, *range(64))], spec_of(), stop)

    assert len(engine.packs) < 12


def test_a_pair_does_not_fail_for_its_neighbours_in_a_pack(scorer, engine, stop):
    """Given a pair that fails once, in company, and never again."""
    score = engine.score

    def once(pack):
        engine.score = score
        raise RuntimeError("another shard's pair")

    engine.score = once

    (outcome,), _ = scorer.score([a_slice(1, 5)], spec_of(), stop)

    assert margins(outcome) == {0: 5.0}


def test_a_pair_that_does_not_fit_the_device_fails_alone(scorer, engine, stop):
    engine.too_large = {3}

    (outcome,), _ = scorer.score([a_slice(1, *range(10))], spec_of(), stop)

    assert [e.index for e in outcome.errors] == [3]
    assert len(outcome.results) == 9


def test_pairs_that_break_and_pairs_that_do_not_fit_may_meet(scorer, engine, stop):
    engine.breaks, engine.too_large = {3}, {7}

    (outcome,), _ = scorer.score([a_slice(1, *range(10))], spec_of(), stop)

    assert sorted(e.index for e in outcome.errors) == [3, 7]
    assert len(outcome.results) == 8


def test_cancelled_work_is_stopped(scorer, stop):
    stop.set()
    with pytest.raises(Stopped):
        scorer.score([a_slice(1, 5)], spec_of(), stop)


def test_work_in_the_queue_is_stopped(scorer, engine, stop):
    """Given a device that is busy until the work is stopped."""
    score, entered = engine.score, threading.Event()

    def busy(pack):
        entered.set()
        assert stop.wait(WAIT_S)
        return score(pack)

    engine.score = busy
    first = scorer.begin([a_slice(1, 5)], spec_of(), stop)
    assert entered.wait(WAIT_S)
    second = scorer.begin([a_slice(2, 6)], spec_of(), stop)
    stop.set()

    with pytest.raises(Stopped):
        list(scorer.collect(second, spec_of().priority, stop))
    del first


def test_a_shard_that_waits_for_its_images_is_stopped(engine, stop):
    """Given images that never come."""
    asked = threading.Event()

    class Images:
        def load(self, refs, caller=None):
            asked.set()
            assert caller.stop is stop
            assert caller.turn == "job"
            assert caller.stop.wait(WAIT_S)
            raise CancelledError

    scorer = Scorer(Prompter(), Batcher(engine, Limit(1000)), Images())
    piece = a_slice(1, 5).model_copy(update={"query": Content(image=("s3://b/q.jpg",))})
    with ThreadPoolExecutor(1) as threads:
        scoring = threads.submit(scorer.score, [piece], spec_of(), stop, "job")
        assert asked.wait(WAIT_S)
        stop.set()
        assert isinstance(scoring.exception(WAIT_S), Stopped)


def test_a_large_shard_is_prepared_in_runs(scorer, engine, stop):
    slices = [a_slice(line, *range(100)) for line in range(1, 8)]

    assert [len(run) for run in in_runs(slices)] == [3, 3, 1]
    assert PAIRS_AHEAD == 256
    outcomes, _ = scorer.score(slices, spec_of(), stop)
    assert [o.line for o in outcomes] == [1, 2, 3, 4, 5, 6, 7]
    assert all(len(o.results) == 100 for o in outcomes)


def test_lines_without_pairs_fill_a_run_too():
    slices = [Slice(line=n, failures=[Failure(line=n, code="c", message="m")]) for n in range(600)]
    assert [len(run) for run in in_runs(slices)] == [256, 256, 88]
    assert list(in_runs([])) == []


def test_the_pairs_of_a_poisonous_slice_say_what_happened():
    failure = Failure(line=1, index=1, code="invalid_document", message="m")

    outcome = poisoned(a_slice(1, 5, failures=[failure], id="r"))

    assert {e.index: e.code for e in outcome.errors} == {0: "worker_died", 1: "invalid_document"}
    assert outcome.id == "r"


def test_a_summary_counts_each_item_once():
    results = [
        Scored(index=0, margin=1),
        Scored(index=1, margin=9, truncated_tokens=3, crowded=True),
    ]
    errors = [Failure(line=1, index=2, code="c", message="m")]
    outcomes = [
        SliceOutcome(line=1, results=results, errors=errors),
        SliceOutcome(line=2, errors=errors),
    ]

    spec = spec_of(temperature=2.0, profile="shop")

    summary = summarize(outcomes, spec, tokens=7, requests=2)

    assert (summary.scored, summary.errors, summary.truncated, summary.tokens) == (2, 2, 1, 7)
    assert (summary.crowded, summary.requests, summary.profile) == (1, 2, "shop")
    assert summary.scores == ScoreDistribution.of([1, 9], temperature=2.0)
