"""Equal documents of a request that is cut into shards tie, in the order of the request."""

from __future__ import annotations

import json
import random

from rerankfleet.producer.coordinator.feed import feed
from tests.support.fleet import Worker, run
from tests.support.outputs import output

JITTER = 1e-9
TEXTS = ["a", "b", "a", "c", "b", "a", "d", "a", "b", "a", "e", "c"]
LINE = {"id": "r", "query": "q", "documents": [{"text": t, "id": n} for n, t in enumerate(TEXTS)]}


def assert_tied(line, texts=TEXTS) -> None:
    """Equal texts have one margin and stand in the order of the request; others differ."""
    margins = {r["index"]: r["margin"] for r in line["results"]}
    assert len({margins[n] for n in margins}) == len({texts[n] for n in margins})
    for text in set(texts):
        assert len({m for n, m in margins.items() if texts[n] == text}) <= 1
    ranked = [(-r["margin"], r["index"]) for r in line["results"]]
    assert ranked == sorted(ranked)


def test_equal_documents_tie_across_shards(control, submit):
    # given shards of three pairs, in each of which a pair has another margin
    submit([LINE])
    control.hints.feed("j")
    run(control, Worker(control, jitter=JITTER), Worker(control, name="w2", jitter=-JITTER))
    # then they tie, and keep their ids
    (line,) = output(control)
    assert_tied(line)
    assert [r["id"] for r in line["results"]] == [r["index"] for r in line["results"]]
    assert len(line["results"]) == len(TEXTS)
    assert "twin" not in json.dumps(line)


def test_the_first_of_them_are_kept(control, submit):
    submit([LINE | {"top_n": 4}])
    control.hints.feed("j")
    run(control, Worker(control, jitter=JITTER))
    (line,) = output(control)
    assert_tied(line)
    best = line["results"][0]["index"]
    same = [n for n, text in enumerate(TEXTS) if text == TEXTS[best]]
    assert [r["index"] for r in line["results"]][: len(same)] == same[:4]


def test_a_document_that_failed_ties_with_its_equals_when_it_is_retried(control, submit):
    # given a job that is cancelled when some of its shards have been scored, in any order
    submit([LINE])
    feed("j", control)
    worker = Worker(control, jitter=JITTER)
    due = control.store.shards.due(worker.model, 10)
    random.Random(1).shuffle(due)
    control.hints.take()
    for job_id, shard in due[:2]:
        assert worker.score(job_id, shard)
    control.store.jobs.cancel(control.store.jobs.get("j"))
    control.hints.feed("j")
    run(control, worker)
    (before,) = output(control)
    assert 0 < len(before["results"]) < len(TEXTS)
    # when it is retried
    assert control.store.jobs.retry(control.store.jobs.get("j"), "all") == "reopened"
    control.hints.feed("j")
    run(control, worker)
    # then equal ones tie, and none that had its score has another one
    (after,) = output(control)
    assert len(after["results"]) == len(TEXTS)
    assert_tied(after)
    old = {r["index"]: r["margin"] for r in before["results"]}
    assert old.items() <= {r["index"]: r["margin"] for r in after["results"]}.items()
