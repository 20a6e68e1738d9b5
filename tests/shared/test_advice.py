"""Advice: a symptom has its figures and its remedy; where nothing is wrong there is none."""

from __future__ import annotations

import pytest

from rerankfleet.shared import advice
from rerankfleet.shared.score_distribution import ScoreDistribution
from tests.support.fleet import MODEL, worker_row


def scores(*margins: float, times: int = 100) -> ScoreDistribution:
    return ScoreDistribution.of(list(margins) * times)


def only(advices):
    (one,) = advices
    return one


# ---- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "direction"), [(0.01, "lower"), (9.0, "higher"), (-9.0, "higher")]
)
def test_scores_that_are_all_alike_are_moved_apart_by_the_right_temperature(margin, direction):
    advised = only(advice.of_scores("job j", scores(margin, margin + 0.001)))

    assert advised.symptom == "scores all alike"
    assert "job j: 200 scores, mean" in advised.evidence
    assert f"a {direction} temperature" in advised.remedy
    assert "more strictly in the instruction" in advised.remedy


def test_scores_that_are_nearly_all_high_are_named():
    advised = only(advice.of_scores("job j", scores(1.0, *[5.0] * 19)))
    assert advised.symptom == "nearly every score is high"
    assert "temperature" in advised.remedy


def test_a_low_mean_is_reported_as_normal():
    advised = only(advice.of_scores("job j", scores(4.0, *[-4.0] * 9)))
    assert advised.symptom == "the mean score is low"
    assert "normal where most candidates are irrelevant" in advised.remedy
    assert advised.harmless


def test_healthy_or_few_scores_need_no_word():
    assert not list(advice.of_scores("job j", scores(-3.0, 0.0, 3.0)))
    assert not list(advice.of_scores("job j", scores(9.0, times=99)))


# ---- pairs --------------------------------------------------------------------------------------


def test_pairs_that_are_cut_and_queries_that_crowd_out_are_named():
    advised = {
        one.symptom: one for one in advice.of_pairs("job j", scored=100, truncated=2, crowded=1)
    }

    assert "2 of 100 pairs" in advised["pairs are truncated"].evidence
    assert "max_length" in advised["pairs are truncated"].remedy
    assert "shorten the queries" in advised["queries crowd out their documents"].remedy


def test_a_pair_in_a_hundred_may_be_cut():
    assert not list(advice.of_pairs("job j", scored=100, truncated=1, crowded=0))


# ---- workers ------------------------------------------------------------------------------------


def test_a_device_that_ran_out_of_memory_is_named():
    advised = only(advice.of_worker(worker_row("w7", ooms=3)))
    assert (advised.symptom, "worker w7: 3 packs" in advised.evidence) == (
        "the device ran out of memory",
        True,
    )
    assert "RERANK_BATCH_TOKENS" in advised.remedy
    assert "RERANK_DTYPE" in advised.remedy


def test_a_device_that_waits_more_than_it_computes_is_named():
    advised = only(advice.of_worker(worker_row(preparing_share=0.6, busy_share=0.3)))
    assert advised.symptom == "the device waits for its input"
    for remedy in ("RERANK_DECODE_PROCESSES", "RERANK_SHARDS_IN_HAND", "storage"):
        assert remedy in advised.remedy


@pytest.mark.parametrize(("preparing", "busy"), [(0.0, 0.0), (0.05, 0.0), (0.4, 0.5)])
def test_a_worker_that_computes_or_rests_needs_no_word(preparing, busy):
    assert not list(advice.of_worker(worker_row(preparing_share=preparing, busy_share=busy)))


def test_workers_of_one_model_that_differ_are_named():
    rows = [
        worker_row("w1"),
        worker_row("w2", fingerprint="other"),
        worker_row("w3", fingerprint=""),  # it loads still
        worker_row("w4", model="org/else", fingerprint="else"),
    ]
    advised = only(advice.of_models(rows, {}))
    assert advised.symptom == "workers of one model differ"
    assert "other: w2; weights-1: w1" in advised.evidence


def test_shards_that_nobody_can_score_are_named():
    advised = only(advice.of_models([worker_row()], {MODEL: 4, "org/empty": 0, "org/new": 2}))
    assert advised.symptom == "no worker"
    assert "2 shards of org/new wait" in advised.evidence
    assert "rerank worker --model org/new" in advised.remedy


def test_a_coordinator_that_is_silent_is_named():
    assert not list(advice.of_coordinator(5, tick_s=2))
    assert "has not ticked for 11 s" in only(advice.of_coordinator(11, tick_s=2)).evidence
    assert "has not ticked yet" in only(advice.of_coordinator(float("inf"), tick_s=2)).evidence
