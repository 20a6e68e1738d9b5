"""Output for people in the terminal: tables, a progress line, and formatted numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from rerankfleet.shared.content.option_fields import option_fields
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.profiles import Profile, ProfileOptions
from rerankfleet.shared.state.fleet import WorkerRow

Row = TypeVar("Row", bound=BaseModel)

STATE_STYLE = {
    "running": "cyan",
    "finishing": "cyan",
    "paused": "yellow",
    "done": "green",
    "cancelled": "magenta",
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
        sys.stderr.write(f"{none}\n")


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


def one_line(text: str) -> str:
    """Text from anywhere, fit for one line of a terminal: no breaks, no control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def job_panel(status: JobStatus) -> Table:
    """One job, in rows of name and value."""
    progress = status.progress
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    total = f"{progress.total:,}" if progress.total is not None else "not known yet"
    state = f"[{STATE_STYLE[status.state]}]{status.state}[/]"
    rows = {
        "job": f"{status.id}  {status.name}",
        "state": f"{state}  {status.reason}".strip(),
        "model": f"{status.model}  ({status.priority.value})",
        "pairs": f"{progress.done:,} of {total}",
        "outcomes": _outcomes(status),
        "rate": f"{status.pairs_per_s:,.1f} pairs/s, {duration(status.eta_s)} left",
        "shards": f"{status.open_shards} open, {status.leased_shards} with workers",
        "output": status.output or "in the storage: `rerank results`",
    }
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


def _outcomes(status: JobStatus) -> str:
    progress = status.progress
    counts = {
        "scored": progress.scored,
        "errors": progress.errors,
        "rejected": progress.rejected,
        "cancelled": progress.cancelled,
    }
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none yet"


def jobs_table(jobs: Sequence[JobStatus]) -> Table:
    """A row per job."""
    table = Table(box=None, header_style="bold")
    for name in ("JOB", "NAME", "STATE", "MODEL"):
        table.add_column(name, overflow="ellipsis", no_wrap=name in ("JOB", "STATE"))
    for name in ("DONE", "TOTAL", "ERRORS", "PAIRS/S", "ETA"):
        table.add_column(name, justify="right")
    for job in jobs:
        progress = job.progress
        table.add_row(
            job.id,
            job.name,
            f"[{STATE_STYLE[job.state]}]{job.state}[/]",
            job.model,
            f"{progress.done:,}",
            f"{progress.total:,}" if progress.total is not None else "?",
            f"{progress.errors:,}",
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
            worker.id,
            worker.host,
            str(worker.pid),
            worker.device,
            worker.model,
            worker.state,
            f"{worker.batch_tokens:,} tok" if worker.batch_tokens else "–",
            f"{worker.pairs_per_s:,.0f}",
            f"{worker.busy_share:.0%}",
            worker.batch_reason.partition(":")[0],
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
        instructions = "\n".join([profile.instruction or "the model's own", *by_language])
        table.add_row(
            escape(name),
            *(_shown(getattr(profile, option)) for option in changed),
            str(profile.batch_pairs or ""),
            escape(instructions),
        )
    return table


def _shown(value: Any) -> str:
    """An option's value: a word for what is on or off, nothing for what is not set."""
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else escape(str(value))


def ranked_table(query: str, line: dict[str, Any], texts: Sequence[str], count: int = 3) -> Table:
    """The best results of one request."""
    table = Table(
        title=query,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        expand=True,
    )
    table.add_column(justify="right", style="cyan", min_width=7)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for result in line["results"][:count]:
        table.add_row(f"{result['relevance_score']:.3f}", texts[result["index"]])
    return table


@contextmanager
def live_progress() -> Iterator[Callable[[JobStatus], None]]:
    """A progress bar on stderr if it is a terminal; else a line whenever the job is paused."""
    if not sys.stderr.isatty():
        yield _report_pauses()
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[text]}"),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None, text="")

        def show(status: JobStatus) -> None:
            progress = status.progress
            total = f"{progress.total:,}" if progress.total is not None else "?"
            parts = [f"{progress.done:,}/{total} pairs", f"{status.pairs_per_s:,.0f}/s"]
            if progress.errors:
                parts.append(f"{progress.errors:,} errors")
            parts.append(f"{duration(status.eta_s)} left" if status.eta_s else status.reason)
            bar.update(
                task,
                description=status.state,
                completed=progress.done,
                total=progress.total,
                text=" · ".join(part for part in parts if part),
            )

        yield show


def _report_pauses() -> Callable[[JobStatus], None]:
    """Print a line each time a job is paused, so that whoever waits knows why nothing happens."""
    reported = ""

    def report(status: JobStatus) -> None:
        nonlocal reported
        reason = status.reason if status.state == "paused" else ""
        if reason and reason != reported:
            sys.stderr.write(f"job {status.id} is paused: {reason}\n")
        reported = reason

    return report
