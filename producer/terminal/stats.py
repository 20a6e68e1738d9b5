"""`rerank stats`: what the fleet did, how its scores are spread, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rerankfleet.producer.terminal.tables import cell
from rerankfleet.shared import advice
from rerankfleet.shared.advice import Advice
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.score_distribution import ScoreDistribution
from rerankfleet.shared.shown import one_line
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.statistics import KINDS, Kind, Statistics, TemperatureChange

if TYPE_CHECKING:
    from rerankfleet.producer.client import Client


class Report(BaseModel):
    """All that `rerank stats` shows."""

    model_config = ConfigDict(frozen=True)

    hours: int
    statistics: list[Statistics]
    """Of the whole fleet, or of one profile; none for a job."""
    workers: list[WorkerRow] = []
    job: JobStatus | None = None
    temperatures: list[TemperatureChange] = []
    """Of one profile: how its jobs changed it, newest first."""
    advice: list[Advice]


def report_on_fleet(client: Client, hours: int) -> Report:
    """The last hours of the whole fleet."""
    rows, fleet = client.store.statistics.rows(hours), client.store.snapshot()
    symptoms = [
        *advice.of_coordinator(fleet.coordinator_silent_s, client.settings.tick_s),
        *advice.of_models(fleet.workers, fleet.open_shards),
        *(one for worker in fleet.workers for one in advice.of_worker(worker)),
        *_of_rows(row for row in rows if row.kind == "profile"),
    ]
    return Report(hours=hours, statistics=rows, workers=list(fleet.workers), advice=symptoms)


def report_on_profile(client: Client, profile: str, hours: int) -> Report:
    """The last hours of one profile, and how its temperature was changed."""
    all_rows = client.store.statistics.rows(hours)
    rows = [row for row in all_rows if (row.kind, row.name) == ("profile", profile)]
    changes = client.store.statistics.temperature_changes(profile)
    return Report(hours=hours, statistics=rows, temperatures=changes, advice=list(_of_rows(rows)))


def report_on_job(client: Client, job_id: str) -> Report:
    """One job, whenever it ran. Raises UnknownJob."""
    status = client.status(job_id)
    progress, of = status.progress, f"job {status.id}"
    symptoms = [
        *advice.of_scores(of, status.scores),
        *advice.of_pairs(
            of,
            scored=progress.scored,
            truncated=progress.truncated,
            crowded=progress.crowded,
        ),
    ]
    return Report(hours=0, statistics=[], job=status, advice=symptoms)


def _of_rows(rows: Iterable[Statistics]) -> Iterator[Advice]:
    for row in rows:
        of = f"{row.kind} {row.name}"
        yield from advice.of_scores(of, row.scores)
        yield from advice.of_pairs(
            of, scored=row.scored, truncated=row.truncated, crowded=row.crowded
        )


# ---- for people ---------------------------------------------------------------------------------


def render(report: Report) -> RenderableType:
    """A report as tables, histograms and advice."""
    parts: list[RenderableType] = []
    for kind in KINDS:
        if rows := [row for row in report.statistics if row.kind == kind]:
            parts.append(_table(kind, rows, report.hours))
    if report.workers and parts:
        parts.append(_workers_now(report.workers))
    profiles = [row for row in report.statistics if row.kind == "profile"]
    parts += [scores_block(f"profile {row.name}", row.scores) for row in profiles]
    if report.job:
        parts.append(scores_block(f"job {report.job.id}", report.job.scores))
    if report.temperatures:
        parts.append(_changes(report.temperatures))
    if not parts:
        parts.append(Text(f"nothing was scored in the last {report.hours} hours"))
    parts += [_advice(one) for one in report.advice]
    return Group(*parts)


_PLURALS: dict[Kind, str] = {
    "worker": "workers",
    "model": "models",
    "profile": "profiles",
    "priority": "priorities",
}
_COLUMNS: dict[str, Callable[[Statistics], str]] = {
    "REQUESTS": lambda row: f"{row.requests:,}",
    "PAIRS": lambda row: f"{row.pairs:,}",
    "FAILED": lambda row: f"{row.errors - row.bad_lines + row.rejected:,}",
    "BAD LINES": lambda row: f"{row.bad_lines:,}",
    "SCORE": lambda row: f"{row.scores.mean:.3f}" if row.scores.count else "–",
    "AVG": lambda row: _seconds(row.latency.mean_s),
    "P50": lambda row: _seconds(row.latency.p50_s),
    "P95": lambda row: _seconds(row.latency.p95_s),
}


def _table(kind: Kind, rows: Sequence[Statistics], hours: int) -> Table:
    """A row per worker, model, profile or priority. SCORE is the mean; AVG, P50 and P95 are the
    seconds of a shard from its claim to its commit."""
    window = "this hour" if hours == 1 else f"the last {hours} hours"
    table = _bare(f"{_PLURALS[kind]} in {window}", kind.upper())
    columns = dict(_COLUMNS)
    if not any(row.bad_lines for row in rows):
        del columns["BAD LINES"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(cell(row.name), *(figure(row) for figure in columns.values()))
    return table


def _workers_now(workers: Sequence[WorkerRow]) -> Table:
    """What each worker's device does now; AVG, P50 and P95 are of a pack."""
    table = _bare("devices now", "WORKER")
    for name in ("PAIRS/S", "BUSY", "UNFED", "PACK AVG", "P50", "P95"):
        table.add_column(name, justify="right", no_wrap=True)
    for worker in workers:
        table.add_row(
            cell(worker.id),
            f"{worker.pairs_per_s:,.1f}",
            f"{worker.busy_share:.0%}",
            f"{worker.preparing_share:.0%}",
            _seconds(worker.latency_s),
            _seconds(worker.latency_p50_s),
            _seconds(worker.latency_p95_s),
        )
    return table


def _bare(title: str, first: str) -> Table:
    """A table without lines, whose first column gives way on a narrow terminal."""
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column(first, overflow="fold", min_width=16)
    return table


def scores_block(title: str, scores: ScoreDistribution) -> RenderableType:
    """The figures of a distribution and its histogram, for one job or profile."""
    title = one_line(title)
    if not scores.count:
        return Text(f"scores of {title}: none yet")
    return Text(f"scores of {title}: {scores.describe()}\n  0 {scores.bars()} 1")


def _changes(changes: Sequence[TemperatureChange]) -> Table:
    table = _bare("temperature of later jobs", "TIME")
    table.add_column("JOB")
    for name in ("MEAN SCORE", "FROM", "TO"):
        table.add_column(name, justify="right")
    for one in changes:
        at = f"{datetime.fromtimestamp(one.at_s):%Y-%m-%d %H:%M}"
        table.add_row(at, cell(one.job), f"{one.mean:.3f}", f"{one.before:g}", f"{one.to:g}")
    return table


def _advice(one: Advice) -> RenderableType:
    mark, style = ("·", "bold") if one.harmless else ("!", "bold yellow")
    text = Text.assemble((f"{mark} {one_line(one.symptom)}", style), f"  {one_line(one.evidence)}")
    return Group(text, Padding(cell(one.remedy), (0, 0, 0, 2)))


def _seconds(seconds: float) -> str:
    if not seconds:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
