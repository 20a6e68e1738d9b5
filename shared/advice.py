"""Symptoms of a fleet or a job, their evidence, and the remedy. Pure: figures in, sentences out.

Each `of_…` checks one kind of fact and yields nothing where nothing is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from pydantic import BaseModel, ConfigDict

from rerankfleet.shared.score_distribution import HIGH, LOW, ScoreDistribution
from rerankfleet.shared.state.fleet import WorkerRow

SCORES_MIN = 100
"""Fewer scores allow no conclusion."""
SPREAD_MIN = 0.02
"""Scores with a smaller standard deviation are all alike."""
MEAN_LOW, MEAN_HIGH = 0.3, 0.9
TRUNCATED_SHARE = 0.01
PREPARING_SHARE = 0.1
"""A device that waits for less than this is not reported."""


class Advice(BaseModel):
    """One symptom."""

    model_config = ConfigDict(frozen=True)

    symptom: str
    evidence: str
    """The figures that show it, and what they belong to."""
    remedy: str
    harmless: bool = False
    """Reported so that it is not mistaken for a fault."""


def silent_limit_s(tick_s: float) -> float:
    """How long the coordinator may be silent before something is wrong."""
    return max(5 * tick_s, 10.0)


def of_scores(of: str, scores: ScoreDistribution) -> Iterator[Advice]:
    """Scores that are all alike, all high, or mostly low. `of` names what they belong to."""
    if scores.count < SCORES_MIN:
        return
    evidence = f"{of}: {scores.count:,} scores, {scores.describe()}"
    if scores.spread < SPREAD_MIN:
        yield Advice(symptom="scores all alike", evidence=evidence, remedy=_spread_out(scores))
    elif scores.mean > MEAN_HIGH:
        yield Advice(
            symptom="nearly every score is high",
            evidence=evidence,
            remedy="define relevance more strictly in the instruction; a higher "
            "temperature, or adaptive_temperature, separates such scores",
        )
    elif scores.mean < MEAN_LOW:
        yield Advice(
            symptom="the mean score is low",
            evidence=evidence,
            remedy="normal where most candidates are irrelevant: nothing to do. Only if documents "
            "that are known to answer score low too, look at the instruction and the model",
            harmless=True,
        )


def _spread_out(scores: ScoreDistribution) -> str:
    """The direction in which the temperature separates scores depends on where they are."""
    strict = "define relevance more strictly in the instruction"
    if LOW <= scores.mean <= HIGH:
        return f"a lower temperature separates them (the order stays); {strict}"
    return (
        f"a higher temperature separates them (the order stays); {strict}; and check with "
        "`rerank doctor --model M` that the model's template and token ids are right"
    )


def of_pairs(of: str, *, scored: int, truncated: int, crowded: int) -> Iterator[Advice]:
    """Pairs that max_length cut, and queries that left no room for their documents."""
    if crowded:
        yield Advice(
            symptom="queries crowd out their documents",
            evidence=f"{of}: of {crowded:,} of {scored:,} pairs no word of the document was read",
            remedy="shorten the queries and the instruction, or raise max_length",
        )
    if truncated > TRUNCATED_SHARE * scored:
        yield Advice(
            symptom="pairs are truncated",
            evidence=f"{of}: {truncated:,} of {scored:,} pairs were longer than max_length",
            remedy="raise max_length (up to 32,768 tokens are useful), or cut the documents into "
            "passages",
        )


def of_worker(worker: WorkerRow) -> Iterator[Advice]:
    """A device that ran out of memory, or that waits for its input."""
    if worker.ooms:
        yield Advice(
            symptom="the device ran out of memory",
            evidence=f"worker {worker.id}: {worker.ooms:,} packs did not fit; they were halved",
            remedy="no results are lost, only time: set RERANK_BATCH_TOKENS_MAX lower, "
            "RERANK_DTYPE=bf16, or RERANK_KEPT_BYTES and RERANK_SEEN_BYTES lower",
        )
    if worker.preparing_share > max(worker.busy_share, PREPARING_SHARE):
        yield Advice(
            symptom="the device waits for its input",
            evidence=f"worker {worker.id}: {worker.preparing_share:.0%} of the last seconds "
            f"waiting, {worker.busy_share:.0%} computing",
            remedy="more RERANK_DECODE_PROCESSES for images, more RERANK_SHARDS_IN_HAND, or "
            "closer storage",
        )


def of_models(workers: Sequence[WorkerRow], backlog: Mapping[str, int]) -> Iterator[Advice]:
    """Models whose workers differ, and shards that no worker can score. `backlog`: open shards."""
    by_model = {m: list(rows) for m, rows in groupby(_by_model(workers), key=lambda w: w.model)}
    for model, rows in by_model.items():
        prints = sorted({row.fingerprint for row in rows if row.fingerprint})
        if len(prints) > 1:
            groups = "; ".join(f"{p}: {', '.join(_ids(rows, p))}" for p in prints)
            yield Advice(
                symptom="workers of one model differ",
                evidence=f"{model} is served with {len(prints)} fingerprints ({groups})",
                remedy="serve the same weights, dtype and version everywhere: a job continues only "
                "with the fingerprint that it began with",
            )
    for model, shards in sorted(backlog.items()):
        if shards and model not in by_model:
            yield Advice(
                symptom="no worker",
                evidence=f"{shards:,} shards of {model} wait, and no worker serves it",
                remedy=f"start one: rerank worker --model {model}",
            )


def _by_model(workers: Sequence[WorkerRow]) -> list[WorkerRow]:
    return sorted(workers, key=lambda worker: (worker.model, worker.id))


def _ids(workers: Iterable[WorkerRow], fingerprint: str) -> list[str]:
    return [worker.id for worker in workers if worker.fingerprint == fingerprint]


def of_coordinator(silent_s: float, tick_s: float) -> Iterator[Advice]:
    """A monitor that does not tick: nothing is fed, finished or adjusted."""
    if silent_s > silent_limit_s(tick_s):
        since = f"for {silent_s:,.0f} s" if silent_s != float("inf") else "yet"
        yield Advice(
            symptom="no coordinator",
            evidence=f"the monitor has not ticked {since}",
            remedy="start one: rerank coordinator",
        )
