"""Output for people in the terminal: tables, and formatted numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rerankfleet.shared.content.option_fields import option_fields
from rerankfleet.shared.job_status import FAILED, JobStatus, Progress
from rerankfleet.shared.profiles import Profile, ProfileOptions
from rerankfleet.shared.shown import one_line, tell
from rerankfleet.shared.state.fleet import WorkerRow

Row = TypeVar("Row", bound=BaseModel)

STATE_STYLE = {
    "running": "cyan",
    "finishing": "cyan",
    "paused": "yellow",
    "done": "green",
    "cancelled": "magenta",
    FAILED: "bold red",
}


def console() -> Console:
    """Standard output."""
    return Console(highlight=False)


def as_json(value: BaseModel | Sequence[BaseModel] | dict[str, Any]) -> None:
    """Print for machines: one JSON document."""
    if isinstance(value, BaseModel):
        data: Any = value.model_dump(mode="json")
    elif isinstance(value, dict):
        data = value
    else:
        data = [one.model_dump(mode="json") for one in value]
    sys.stdout.write(json.dumps(data) + "\n")


def listing(
    rows: Sequence[Row], table: Callable[[Sequence[Row]], Table], *, none: str, json: bool
) -> None:
    """Print rows as a table for people or JSON for machines; `none` is printed without rows."""
    if json:
        as_json(rows)
    elif rows:
        console().print(table(rows))
    else:
        tell(none)


def duration(seconds: float | None) -> str:
    """90061 -> 1d 1h; 61 -> 1m 01s."""
    if seconds is None:
        return "–"
    whole = int(seconds + 0.5)
    if whole >= 86_400:
        return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
    if whole >= 3600:
        return f"{whole // 3600}h {whole % 3600 // 60:02}m"
    return f"{whole // 60}m {whole % 60:02}s" if whole >= 60 else f"{whole}s"


def figure(number: float) -> str:
    """In at most 6 characters: 12.34 -> 12.3; 1234 -> 1,234; 98765 -> 98.8k; 1e8 -> 100M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10_000 and number >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.1f}" if number % 1 and number < 99.95 else f"{number:,.0f}"


def bar(share: float, width: int) -> str:
    """A share from 0 to 1 as a bar of `width` characters, to an eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + " ▏▎▍▌▋▊▉"[rest] * bool(rest)).ljust(width, "·")


def cell(text: object, style: str = "") -> Text:
    """Text from anywhere as a cell: no markup, one line, nothing that moves the cursor."""
    return Text(one_line(text), style)


def job_panel(status: JobStatus) -> Table:
    """One job, in rows of name and value."""
    progress = status.progress
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    total = f"{progress.pairs_total:,}" if progress.pairs_total is not None else "not known yet"
    rows: dict[str, str | Text] = {
        "job": cell(status.id).append(f"  {one_line(status.name)}"),
        "state": _state(status).append(f"  {one_line(status.reason)}".rstrip()),
        "model": cell(status.model).append(f"  ({status.priority.value})"),
        "pairs": f"{progress.pairs:,} of {total}",
        "outcomes": outcomes(progress) or "none yet",
        "rate": f"{status.pairs_per_s:,.1f} pairs/s, {duration(status.eta_s)} left",
        "shards": f"{status.open_shards} open, {status.leased_shards} with workers",
        "output": cell(status.output or "in the storage: `rerank results`"),
    }
    if status.owner:
        rows["owner"] = cell(status.owner)
    if progress.truncated:
        rows["truncated"] = f"{progress.truncated:,} pairs were longer than max_length"
    if progress.crowded:
        rows["crowded"] = f"{progress.crowded:,} pairs had a query that filled max_length"
    if status.scores.count:
        rows["scores"] = f"{status.scores.describe()}  [dim]{status.scores.bars()}[/]"
    if status.state in ("done", "cancelled"):
        rows["rate"] = f"{status.pairs_per_s:,.1f} pairs/s"
        del rows["shards"]
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _state(status: JobStatus) -> Text:
    """The state of a job in its colour."""
    return Text.assemble((status.shown_state, STATE_STYLE[status.shown_state]))


def pairs_of_total(progress: Progress) -> str:
    """Pairs with an outcome, and all of them: "4/12"; "4/?" while the input is still read."""
    total = progress.pairs_total
    return f"{progress.pairs:,}/{'?' if total is None else f'{total:,}'}"


def outcomes(progress: Progress) -> str:
    """How a job's items ended: "2 scored, 2 errors (1 is a line that could not be read)"."""
    counts = {
        "scored": progress.scored,
        "errors": progress.errors,
        "rejected": progress.rejected,
        "cancelled": progress.cancelled,
    }
    words = {name: f"{count:,} {name}" for name, count in counts.items() if count}
    if progress.errors == 1:
        words["errors"] = "1 error"
    if bad := progress.bad_lines:
        lines = "1 is a line" if bad == 1 else f"{bad:,} are lines"
        words["errors"] += f" ({lines} that could not be read)"
    return ", ".join(words.values())


def jobs_table(jobs: Sequence[JobStatus]) -> Table:
    """A row per job. ERRORS counts bad lines too, PAIRS does not."""
    table = Table(box=None, header_style="bold")
    any_owner = any(job.owner for job in jobs)
    for name in ("JOB", "NAME", *(["OWNER"] * any_owner), "STATE", "MODEL"):
        table.add_column(name, overflow="ellipsis", no_wrap=name in ("JOB", "STATE"))
    any_bad = any(job.progress.bad_lines for job in jobs)
    for name in ("PAIRS", "ERRORS", *(["BAD LINES"] * any_bad), "PAIRS/S", "ETA"):
        table.add_column(name, justify="right", no_wrap=True)
    for job in jobs:
        progress = job.progress
        table.add_row(
            cell(job.id),
            cell(job.name),
            *([cell(job.owner)] * any_owner),
            _state(job),
            cell(job.model),
            pairs_of_total(progress),
            f"{progress.errors:,}",
            *([f"{progress.bad_lines:,}"] * any_bad),
            f"{job.pairs_per_s:,.0f}",
            duration(job.eta_s),
        )
    return table


def workers_table(workers: Sequence[WorkerRow]) -> Table:
    """A row per worker process."""
    table = Table(box=None, header_style="bold")
    for name in ("ID", "HOST", "PID", "DEVICE", "MODEL", "STATE"):
        table.add_column(name, overflow="ellipsis", no_wrap=name != "MODEL")
    for name in ("BATCH", "PAIRS/S", "BUSY"):
        table.add_column(name, justify="right")
    table.add_column("BATCH BY", overflow="ellipsis", no_wrap=True)
    for worker in workers:
        table.add_row(
            cell(worker.id),
            cell(worker.host),
            str(worker.pid),
            cell(worker.device),
            cell(worker.model),
            cell(f"{worker.state}, waits for the storage" if worker.waiting_for else worker.state),
            f"{worker.batch_tokens:,} tok" if worker.batch_tokens else "–",
            f"{worker.pairs_per_s:,.0f}",
            f"{worker.busy_share:.0%}",
            cell(worker.batch_reason.partition(":")[0]),
        )
    return table


def profiles_table(profiles: Mapping[str, Profile]) -> Table:
    """A row per profile, with the options that any of them changes and its instructions."""
    changed = [
        field.name
        for field in option_fields()
        if field.name in ProfileOptions.model_fields
        and not field.name.startswith("instruction")
        and any(getattr(profile, field.name) != field.default for profile in profiles.values())
    ]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("profile", *changed, "pairs"):
        table.add_column(title.replace("_", " "), no_wrap=True)
    table.add_column("instruction", overflow="fold")
    for name, profile in profiles.items():
        by_language = [f"{code}: {text}" for code, text in profile.instructions.items()]
        instructions = [profile.instruction or "the model's own", *by_language]
        table.add_row(
            cell(name),
            *(_shown(getattr(profile, option)) for option in changed),
            str(profile.batch_pairs or ""),
            Text("\n").join(map(cell, instructions)),
        )
    return table


def _shown(value: Any) -> Text:
    """An option's value: a word for what is on or off, nothing for what is not set."""
    if isinstance(value, bool):
        return Text("yes" if value else "")
    return cell("" if value is None else value)


def ranked_table(query: str, line: dict[str, Any], texts: Sequence[str], count: int = 3) -> Table:
    """The best results of one request."""
    table = Table(
        title=cell(query),
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        expand=True,
    )
    table.add_column(justify="right", style="cyan", min_width=7)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for result in line["results"][:count]:
        table.add_row(f"{result['relevance_score']:.3f}", cell(texts[result["index"]]))
    return table
