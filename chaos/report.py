"""What a run came to: figures as JSON, and as a table for people."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rerankfleet import __version__
from rerankfleet.chaos.faults import by_group
from rerankfleet.chaos.ledger import Finding, Ledger
from rerankfleet.chaos.watch import Watch

LOSSES = ("lost", "double", "wrong", "invented")


@dataclass(slots=True)
class Report:
    """The figures of one run."""

    seed: int
    duration_s: float
    storage: str
    workers: int
    faults: Mapping[str, int]
    faults_by_group: Mapping[str, int]
    faults_not_possible: Mapping[str, int]
    jobs: int
    pairs_checked: int
    lost: int
    double: int
    wrong: int
    invented: int
    largest_difference: float
    tolerance: float
    findings_by_kind: Mapping[str, int]
    findings: Sequence[Finding]
    seen: Mapping[str, int]
    """What users did, and what they were answered."""
    recovery: Mapping[str, Mapping[str, float]]
    """Seconds from a worker's death to anyone's next commit, and to that of each shard it held."""
    claims: Mapping[int, int]
    """How many shards were begun once, twice, ... as far as was seen."""
    server_memory_max_bytes: int
    undisturbed_pairs_per_s: float
    pairs_per_s: float
    """Checked, while everything was being broken."""
    python: str = field(default_factory=platform.python_version)
    version: str = __version__

    @property
    def ok(self) -> bool:
        """Whether everything is as it must be."""
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {"chaos": asdict(self), "ok": self.ok}

    def table(self) -> str:
        """The figures for people, in lines."""
        faults = sorted(self.faults.items(), key=lambda item: -item[1])
        rows: list[tuple[str, object]] = [(name, count) for name, count in faults]
        rows += [("", ""), *self.faults_by_group.items(), ("", "")]
        rows += [("jobs", self.jobs), ("pairs checked", self.pairs_checked)]
        rows += [(kind, getattr(self, kind)) for kind in LOSSES]
        rows += [("largest difference", f"{self.largest_difference:.1e}"), ("", "")]
        rows += [(name.replace("_", " "), count) for name, count in sorted(self.seen.items())]
        rows.append(("", ""))
        rows += [
            (f"{name}: median, p95, max of {times['count']:.0f}", _seconds(times))
            for name, times in self.recovery.items()
        ]
        rows += [("shards begun once, twice, ...", dict(sorted(self.claims.items())))]
        rows += [(f"FOUND {f.kind}", f"{f.where}: {f.what}") for f in self.findings]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}".rstrip() for name, value in rows)


def make_report(ledger: Ledger, watch: Watch, faults: Mapping[str, int], **figures: Any) -> Report:
    """The report of a run that is over."""
    losses: dict[str, Any] = {kind: ledger.counts[kind] for kind in LOSSES}
    kinds = {finding.kind for finding in ledger.findings}
    own = {*kinds, "jobs", "pairs_checked"}
    return Report(
        faults=dict(faults),
        faults_by_group=by_group(faults),
        jobs=ledger.counts["jobs"],
        pairs_checked=ledger.counts["pairs_checked"],
        **losses,
        largest_difference=ledger.largest_difference,
        tolerance=ledger.tolerance,
        findings_by_kind={kind: ledger.counts[kind] for kind in sorted(kinds)},
        findings=tuple(ledger.findings),
        seen={name: count for name, count in ledger.counts.items() if name not in own},
        recovery={
            "anyone's next commit": summary(watch.times.next_commit),
            "the lost shard's own commit": summary(watch.times.lost_shard),
        },
        claims=dict(watch.claims),
        server_memory_max_bytes=watch.memory_max_bytes,
        **figures,
    )


def summary(times: Sequence[float]) -> dict[str, float]:
    """Count, median, 95th percentile and maximum of seconds."""
    if not times:
        return {"count": 0}
    ordered = sorted(times)
    p95 = ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]
    figures = {"median_s": statistics.median(ordered), "p95_s": p95, "max_s": ordered[-1]}
    return {"count": len(ordered), **{name: round(value, 2) for name, value in figures.items()}}


def _seconds(times: Mapping[str, float]) -> str:
    return ", ".join(f"{value:g} s" for name, value in times.items() if name != "count")
