"""What every pair of a run must have come to, and what came of it.

Plain bookkeeping: it knows neither fleets nor faults. Whatever is not as it must be is a finding.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from rerankfleet.chaos.pairs import NO_DOCUMENT, NO_QUERY, Request, Undisturbed

TOLERANCE = 1e-4
"""How far a margin may be from the undisturbed one: packs differ from run to run, and with them the
order of additions. It is the tolerance that fp32 promises; other number types need a wider one."""
CANCELLED = "cancelled"
"""The code of a pair that was not scored because somebody cancelled its job."""
FINDINGS_KEPT = 200
"""Of all findings, the first ones are described; the others are only counted."""

Kind = Literal[
    "lost",  # a pair has no outcome
    "double",  # a pair has more than one outcome, or a key more than one job
    "wrong",  # a margin is not the undisturbed one, or an error of the input became a score
    "invented",  # an error that the input does not have
    "miscounted",  # the job's own counts differ from its output
    "unasked",  # a job was paused or cancelled, and no user did
    "stuck",  # something did not end although all faults were over
    "left",  # something stayed behind: a key, a file, a process
    "ended",  # a process ended that nobody had ended
    "surprise",  # an answer that no user expects
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be."""

    kind: Kind
    where: str
    what: str


@dataclass(slots=True)
class Ledger:
    """Collects findings and counts of a run. Safe to share between threads."""

    undisturbed: Undisturbed
    tolerance: float = TOLERANCE
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    largest_difference: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, kind: Kind, where: str, what: str) -> None:
        """Record a finding."""
        with self._lock:
            self.counts[kind] += 1
            if len(self.findings) < FINDINGS_KEPT:
                self.findings.append(Finding(kind, where, what))

    def count(self, name: str, amount: int = 1) -> None:
        """Count something that is no finding."""
        with self._lock:
            self.counts[name] += amount

    def check_output(
        self,
        where: str,
        requests: Sequence[Request],
        lines: Iterable[Mapping[str, Any]],
        *,
        cancelled: bool = False,
    ) -> Counter[str]:
        """Account for every pair of a job's output; with `cancelled`, pairs may have that as their
        error. Returns how many outcomes of each sort there are, in the names of a job's counts."""
        outcomes: Counter[str] = Counter()
        for number, (request, line) in enumerate(zip_longest(requests, lines)):
            place = f"{where} line {number + 1}"
            if request is None:
                self.find("double", place, f"a line that no request asked for: {line['id']!r}")
            elif line is None:
                self.find("lost", place, f"{max(request.pairs, 1)} outcomes: the line is missing")
            else:
                outcomes += self._check_line(place, request, line, cancelled)
        self.count("pairs_checked", sum(request.pairs for request in requests))
        return outcomes

    def check_counts(self, where: str, counts: Mapping[str, int], seen: Counter[str]) -> None:
        """Compare a job's own counts with the outcomes in its output."""
        for name in ("scored", "errors", "cancelled"):
            if counts[name] != seen[name]:
                self.find(
                    "miscounted", where, f"{name}: {counts[name]}, its output has {seen[name]}"
                )

    def check_answer(
        self, where: str, request: Request, results: Sequence[Mapping[str, Any]]
    ) -> None:
        """Account for every pair of an interactive request's results."""
        self.count("pairs_checked", request.pairs)
        self._account(where, request, [r["index"] for r in results])
        for result in results:
            self._check_margin(where, request, result)

    def _check_line(
        self, place: str, request: Request, line: Mapping[str, Any], cancelled: bool
    ) -> Counter[str]:
        errors, results = line["errors"], line["results"]
        if request.query == NO_QUERY:
            return self._check_no_line(place, line, cancelled)
        if line["id"] != request.id:
            self.find("lost", place, f"the line of {request.id!r} is that of {line['id']!r}")
            return Counter()
        seen = [row.get("index") for row in (*results, *errors)]
        self._account(place, request, seen)
        for result in results:
            self._check_margin(place, request, result)
        for error in errors:
            self._check_error(place, request, error, cancelled)
        stopped = sum(error["code"] == CANCELLED for error in errors)
        return Counter(scored=len(results), errors=len(errors) - stopped, cancelled=stopped)

    def _check_no_line(self, place: str, line: Mapping[str, Any], cancelled: bool) -> Counter[str]:
        codes = [error["code"] for error in line["errors"]]
        stopped = cancelled and codes == [CANCELLED]
        if line["results"] or not (stopped or codes == [self.undisturbed.line_code]):
            self.find("wrong", place, f"a line that is none has {codes}, {len(line['results'])}")
        return Counter(cancelled=1) if stopped else Counter(errors=len(codes))

    def _account(self, place: str, request: Request, indices: Sequence[Any]) -> None:
        """Every document once."""
        for index, times in _times(indices, len(request.documents)):
            if times == 0:
                self.find("lost", place, f"document {index} of {request.id} has no outcome")
            elif times > 1:
                self.find("double", place, f"document {index} of {request.id}: {times} outcomes")
            elif index not in range(len(request.documents)):
                self.find("double", place, f"{request.id} has no document {index}")

    def _check_margin(self, place: str, request: Request, result: Mapping[str, Any]) -> None:
        index = result["index"]
        if index not in range(len(request.documents)):
            return
        document = request.documents[index]
        if document == NO_DOCUMENT:
            self.find("wrong", place, f"document {index} of {request.id} is none, and has a score")
            return
        expected = self.undisturbed.margins[request.query, document]
        difference = abs(result["margin"] - expected)
        with self._lock:
            self.largest_difference = max(self.largest_difference, difference)
        if not difference <= self.tolerance:  # also where it is no number
            what = f"document {index} of {request.id}: {result['margin']}, undisturbed {expected}"
            self.find("wrong", place, what)

    def _check_error(
        self, place: str, request: Request, error: Mapping[str, Any], cancelled: bool
    ) -> None:
        index, code = error.get("index", -1), error["code"]
        if cancelled and code == CANCELLED:
            return
        known = index in range(len(request.documents))
        is_none = known and request.documents[index] == NO_DOCUMENT
        if not (is_none and code == self.undisturbed.document_code):
            what = f"document {index} of {request.id}: {code}: {error.get('message')}"
            self.find("invented", place, what)


def _times(indices: Sequence[Any], count: int) -> Iterator[tuple[Any, int]]:
    """How often each of `count` documents is named, and whatever else is."""
    times = Counter(indices)
    yield from ((index, times.pop(index, 0)) for index in range(count))
    yield from times.items()
