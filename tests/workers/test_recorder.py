"""Counters, gauges and histograms of a worker."""

from __future__ import annotations

import ast
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rerankfleet.shared.content.content import Document, Video
from rerankfleet.shared.content.outcomes import Failure, Scored, SliceOutcome
from rerankfleet.shared.content.requests import Slice
from rerankfleet.shared.metrics import (
    BAD_LINES,
    BATCH_SPLITS,
    FAMILIES,
    IMAGES_REJECTED,
    LOAD_SECONDS,
    PAIRS,
    QUEUE_WAIT,
    RETRIES,
    STAGES,
    TOKENS,
    dump_counts,
)
from rerankfleet.workers import images
from rerankfleet.workers.recorder import Recorder
from tests.support.fleet import an_observation

IMAGE = "https://host/a.png"


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def counted(recorder: Recorder, family) -> dict:
    """The samples of a family that are not 0."""
    return {labels: value for labels, value in recorder.counts()[family.name].items() if value}


def test_counters_begin_at_0_and_the_rest_when_there_is_something(recorder):
    counts = recorder.counts()

    for family in FAMILIES:
        zeros = dict.fromkeys(family.all_labels, 0) if family.kind == "counter" else {}
        assert counts[family.name] == zeros


def test_a_value_falls_into_the_bucket_that_it_does_not_exceed(recorder):
    first, second, *_, last = QUEUE_WAIT.buckets
    for value in (0, first, first * 1.01, second, last, last * 2):
        recorder.observe(QUEUE_WAIT, "bulk", value=value)

    *counts, total = recorder.counts()[QUEUE_WAIT.name][("bulk",)]

    assert counts == [2, 2, *[0] * (len(QUEUE_WAIT.buckets) - 3), 1, 1]
    assert total == pytest.approx(first * 2.01 + second + last * 3, abs=1e-5)


def test_what_is_not_listed_is_not_counted(recorder):
    recorder.add(RETRIES, "boredom")
    recorder.add(RETRIES)

    assert counted(recorder, RETRIES) == {}


def test_threads_lose_nothing(recorder):
    def work(_: int) -> None:
        for _ in range(500):
            recorder.add(RETRIES, "fetch")
            recorder.observe(QUEUE_WAIT, "bulk", value=0.5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))

    assert counted(recorder, RETRIES) == {("fetch",): 4000}
    assert sum(recorder.counts()[QUEUE_WAIT.name][("bulk",)][:-1]) == 4000


def test_a_snapshot_stays_as_it_was(recorder):
    recorder.observe(QUEUE_WAIT, "bulk", value=0.5)
    before = recorder.counts()
    written = dump_counts(before)
    recorder.observe(QUEUE_WAIT, "bulk", value=0.5)
    recorder.add(RETRIES, "fetch")

    assert dump_counts(before) == written


def test_a_stage_is_timed_however_it_ends(recorder):
    with pytest.raises(OSError, match="gone"), recorder.timed("fetch"):
        raise OSError("gone")

    ((labels, counts),) = counted(recorder, STAGES).items()
    assert labels == ("fetch",)
    assert sum(counts[:-1]) == 1


def test_tokens_of_packs_and_splits_of_those_that_did_not_fit_are_counted(recorder):
    recorder.pack(
        an_observation(text_tokens=10, image_tokens=8, video_tokens=6, shared_tokens=3, pairs=2)
    )
    recorder.pack(an_observation(oom=True, pairs=2))
    recorder.pack(an_observation(oom=True, pairs=1))  # an error: nothing to split

    kinds = {("text",): 10, ("image",): 2, ("video",): 6, ("shared",): 3}
    assert counted(recorder, TOKENS) == kinds
    assert counted(recorder, BATCH_SPLITS) == {("oom",): 1}
    assert sum(counted(recorder, STAGES)[("forward",)][:-1]) == 3


def test_pairs_are_counted_by_what_they_hold_and_what_became_of_them(recorder):
    # given a shard of three lines: texts and an image, texts to an image, and one that is malformed
    video = Video(frames=("https://host/1.png",))
    slices = [
        Slice(
            line=1,
            query="q",
            documents=[Document(text="a"), Document(image=(IMAGE,)), Document(video=video)],
            indices=[0, 1, 2],
        ),
        Slice(line=2, query={"image": [IMAGE]}, documents=[Document(text="a")], indices=[4]),
        Slice(line=3, failures=[failure(3, None, "invalid")]),
    ]
    # when they are committed, in other cuts than they came in
    outcomes = [
        SliceOutcome(line=1, results=[Scored(index=0, margin=1.0)]),
        SliceOutcome(
            line=1,
            results=[Scored(index=2, margin=1.0)],
            errors=[failure(1, 1, "not_found")],
        ),
        SliceOutcome(line=2, errors=[failure(2, 4, "low_quality_query")]),
        SliceOutcome(line=3, errors=[failure(3, None, "invalid")]),
    ]
    recorder.pairs(slices, outcomes)
    # then each pair is counted once
    assert counted(recorder, PAIRS) == {
        ("text", "ok"): 1,
        ("video", "ok"): 1,
        ("image", "error"): 1,
        ("image", "rejected"): 1,
    }
    # and a line without pairs is none
    assert counted(recorder, BAD_LINES) == {(): 1}


def failure(line: int, index: int | None, code: str) -> Failure:
    return Failure(line=line, index=index, code=code, message="no")


def test_every_error_of_an_image_is_a_reason_that_is_counted():
    """Given each code that comes first in an ItemError of `workers/images`."""
    codes = {
        node.args[0].value
        for path in Path(images.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "ItemError"
        and isinstance(node.args[0], ast.Constant)
    }
    assert len(codes) > 8
    assert codes | {"low_quality"} == set(IMAGES_REJECTED.labels["reason"])


def test_a_heartbeat_stays_small(recorder):
    """Given a worker that counted something of everything, in large numbers."""
    for family in FAMILIES:
        for labels in family.all_labels:
            if family.kind == "histogram":
                for value in (*family.buckets, 2 * family.buckets[-1]) * 99:
                    recorder.observe(family, *labels, value=value)
            else:
                recorder.set(family, *labels, value=123_456_789_012)
    recorder.set(LOAD_SECONDS, value=61.25)

    text = dump_counts(recorder.counts())

    assert json.loads(text)
    assert len(text) < 4_000
