"""The account of every pair: it fails whenever one is lost, doubled, wrong or blamed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from rerankfleet.chaos.ledger import Ledger
from rerankfleet.chaos.pairs import NO_DOCUMENT, NO_QUERY, Pool, Request, Undisturbed

UNDISTURBED = Undisturbed(
    {(query, document): query + document / 8 for query in range(3) for document in range(5)},
    line_code="malformed_line",
    document_code="invalid",
)
REQUESTS = [
    Request("r0", 0, (3, 1, 4)),
    Request("", NO_QUERY, ()),
    Request("r2", 2, (0, NO_DOCUMENT, 0)),
]

Lines = list[dict[str, Any]]


def output() -> Lines:
    """What an undisturbed job of these requests gives, best first."""
    return [
        {
            "id": "r0",
            "results": [
                {"index": 2, "margin": 0.5},
                {"index": 0, "margin": 0.375},
                {"index": 1, "margin": 0.125},
            ],
            "errors": [],
        },
        {"id": None, "results": [], "errors": [{"line": 2, "code": "malformed_line"}]},
        {
            "id": "r2",
            "results": [{"index": 0, "margin": 2.0}, {"index": 2, "margin": 2.0}],
            "errors": [{"index": 1, "code": "invalid"}],
        },
    ]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(UNDISTURBED)


def test_an_undisturbed_output_gives_no_finding(ledger: Ledger) -> None:
    seen = ledger.check_output("job", REQUESTS, output())
    assert ledger.findings == []
    assert seen == Counter(scored=5, errors=2)
    assert ledger.counts["pairs_checked"] == 6


def test_a_margin_may_differ_by_the_tolerance_of_its_number_type(ledger: Ledger) -> None:
    lines = output()
    lines[0]["results"][0]["margin"] += 9e-5
    ledger.check_output("job", REQUESTS, lines)
    assert ledger.findings == []
    assert ledger.largest_difference == pytest.approx(9e-5)


def lose_pair(lines: Lines) -> None:
    lines[0]["results"].pop()


def lose_line(lines: Lines) -> None:
    lines.pop()


def lose_error(lines: Lines) -> None:
    lines[2]["errors"].clear()


def swap_lines(lines: Lines) -> None:
    lines[0], lines[2] = lines[2], lines[0]


def score_twice(lines: Lines) -> None:
    lines[0]["results"].append({"index": 2, "margin": 0.5})


def score_and_fail(lines: Lines) -> None:
    lines[2]["errors"].append({"index": 0, "code": "invalid"})


def write_line_twice(lines: Lines) -> None:
    lines.append(copy.deepcopy(lines[0]))


def score_a_stranger(lines: Lines) -> None:
    lines[0]["results"].append({"index": 3, "margin": 0.5})


def swap_margins(lines: Lines) -> None:
    first, second, _ = lines[0]["results"]
    first["index"], second["index"] = second["index"], first["index"]


def drift(lines: Lines) -> None:
    lines[0]["results"][0]["margin"] += 2e-4


def forget_the_number(lines: Lines) -> None:
    lines[0]["results"][0]["margin"] = float("nan")


def score_what_is_none(lines: Lines) -> None:
    lines[2]["errors"].clear()
    lines[2]["results"].append({"index": 1, "margin": 0.0})


def accept_what_is_no_line(lines: Lines) -> None:
    lines[1]["errors"].clear()


def blame_a_pair(lines: Lines) -> None:
    lines[0]["results"].pop()
    lines[0]["errors"].append({"index": 1, "code": "killed_its_worker"})


def blame_with_the_error_of_another(lines: Lines) -> None:
    lines[0]["results"].pop()
    lines[0]["errors"].append({"index": 1, "code": "invalid"})


def cancel_what_nobody_cancelled(lines: Lines) -> None:
    lines[0]["results"].pop()
    lines[0]["errors"].append({"index": 1, "code": "cancelled"})


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lose_pair, "lost"),
        (lose_line, "lost"),
        (lose_error, "lost"),
        (swap_lines, "lost"),
        (score_twice, "double"),
        (score_and_fail, "double"),
        (write_line_twice, "double"),
        (score_a_stranger, "double"),
        (swap_margins, "wrong"),
        (drift, "wrong"),
        (forget_the_number, "wrong"),
        (score_what_is_none, "wrong"),
        (accept_what_is_no_line, "wrong"),
        (blame_a_pair, "invented"),
        (blame_with_the_error_of_another, "invented"),
        (cancel_what_nobody_cancelled, "invented"),
    ],
)
def test_whatever_is_not_as_it_must_be_is_found(
    ledger: Ledger, spoil: Callable[[Lines], None], kind: str
) -> None:
    # given an output in which one thing is wrong
    lines = output()
    spoil(lines)
    # when it is checked
    ledger.check_output("job", REQUESTS, lines)
    # then that is found, and counted
    assert kind in {finding.kind for finding in ledger.findings}
    assert ledger.counts[kind] >= 1


def test_of_a_cancelled_job_each_pair_has_a_score_or_was_cancelled(ledger: Ledger) -> None:
    # given an output in which a pair and the line that is none were cancelled
    lines = output()
    cancel_what_nobody_cancelled(lines)
    lines[1]["errors"] = [{"line": 2, "code": "cancelled"}]
    # when it is checked as that of a cancelled job
    seen = ledger.check_output("job", REQUESTS, lines, cancelled=True)
    # then nothing is found; but a pair that is in neither place would be
    assert ledger.findings == []
    assert seen == Counter(scored=4, errors=1, cancelled=2)
    lines[0]["errors"].clear()
    ledger.check_output("job", REQUESTS, lines, cancelled=True)
    assert [finding.kind for finding in ledger.findings] == ["lost"]


def test_the_counts_of_a_job_must_be_those_of_its_output(ledger: Ledger) -> None:
    seen = ledger.check_output("job", REQUESTS, output())
    ledger.check_counts("job", {"scored": 5, "errors": 2, "cancelled": 0}, seen)
    assert ledger.findings == []
    ledger.check_counts("job", {"scored": 6, "errors": 2, "cancelled": 0}, seen)
    assert [finding.kind for finding in ledger.findings] == ["miscounted"]


def test_an_answer_to_a_small_request_is_accounted_for_as_well(ledger: Ledger) -> None:
    request, (line, *_) = REQUESTS[0], output()
    ledger.check_answer("request", request, line["results"])
    assert ledger.findings == []
    ledger.check_answer("request", request, line["results"][:-1])
    assert [finding.kind for finding in ledger.findings] == ["lost"]


def test_the_same_seed_draws_the_same_jobs() -> None:
    def drawn(seed: int) -> list[str]:
        random = Random(seed)
        pool = Pool.drawn(random, queries=4, documents=9)
        requests = pool.draw(random, requests=200, documents_max=9)
        return [pool.line(request) for request in requests]

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_pool_of_which_the_undisturbed_job_scored_too_little_is_refused() -> None:
    pool = Pool.drawn(Random(0), queries=1, documents=2)
    requests = pool.all_pairs()
    lines: Lines = [
        {"results": [{"index": 0, "margin": 1.0}], "errors": []},
        {"results": [], "errors": [{"code": "malformed_line"}]},
        {"results": [], "errors": [{"code": "invalid"}]},
    ]
    with pytest.raises(ValueError, match="not all"):
        Undisturbed.read(requests, lines)
    lines[0]["results"].append({"index": 1, "margin": 2.0})
    assert Undisturbed.read(requests, lines).margins == {(0, 0): 1.0, (0, 1): 2.0}
