"""A view of the fleet -> lines that fit a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from rerankfleet.producer.terminal.tables import STATE_STYLE, bar, duration, figure
from rerankfleet.producer.terminal.view import DepthHistory, View, tokens_per_s
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.shown import one_line
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import ModelQueue

NOTES_MAX = 2
"""Lines of notes below a row, at most."""
WIDE = 120
"""Characters from which models and names have columns of their own."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a section. Without `widest` it takes what the others leave."""

    name: str
    widest: int | None = None
    right: bool = False
    keep_end: bool = False
    """What is too long loses its beginning: names of hosts and models differ at their end."""
    from_width: int = 0
    """It is left out on a narrower terminal."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a section: cells by the name of their column, and lines of notes below."""

    cells: Mapping[str, Text]
    notes: Sequence[Text] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the screen: rows under headings, or what to do when there are none."""

    title: str
    columns: Sequence[Column]
    entries: Sequence[Entry]
    empty: Text

    def lines(self, width: int, rows: int, notes: int) -> list[Text]:
        """The section with `rows` of its entries, each with its last `notes` notes."""
        if not self.entries:
            return [Text(self.title, "bold"), *_folded(Text("  ") + self.empty, width)]
        columns = [column for column in self.columns if width >= column.from_width]
        widths = self._widths(columns, width - 2)
        headings = [Text(c.name, "dim") for c in columns]
        lines = [Text(self.title, "bold"), _line(headings, columns, widths)]
        for entry in self.entries[:rows]:
            lines.append(_line([entry.cells.get(c.name, Text()) for c in columns], columns, widths))
            lines += [Text("    ") + note for note in entry.notes[-notes:] if notes]
        if hidden := len(self.entries) - rows:
            lines.append(Text(f"  … {hidden} more", "dim"))
        return lines

    def _widths(self, columns: Sequence[Column], room: int) -> list[int]:
        """Each as wide as its longest cell, up to `widest`; one column has all the rest."""
        needed = [
            max(cell_len(c.name), *(e.cells.get(c.name, Text()).cell_len for e in self.entries))
            for c in columns
        ]
        fixed = sum(min(n, c.widest) for n, c in zip(needed, columns, strict=True) if c.widest)
        rest = max(room - fixed - 2 * (len(columns) - 1), 1)
        return [min(n, c.widest or rest) for n, c in zip(needed, columns, strict=True)]


def _line(cells: Sequence[Text], columns: Sequence[Column], widths: Sequence[int]) -> Text:
    placed = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        text = cell.copy()
        if column.keep_end and text.cell_len > width:
            text = Text("…", text.style).append(text.plain[len(text) - width + 1 :])
        text.truncate(width, overflow="ellipsis")
        text.align("right" if column.right else "left", width)
        placed.append(text)
    return Text("  ") + Text("  ").join(placed)


def frame(
    view: View | None,
    *,
    width: int,
    height: int | None = None,
    history: DepthHistory | None = None,
    problem: str = "",
) -> Text:
    """The screen as lines of at most `width` characters; as many as needed without a `height`.

    `problem` is why `view` is out of date, or why there is none. Where the height is too small,
    notes are left out first, then rows, whose number is shown.
    """
    if view is None:
        message = Text(one_line(problem or "looking for the fleet …"), "yellow")
        return _joined([Text("rerankfleet", "bold"), Text(), *_folded(message, width)], width)
    top = _header(view, width)
    if problem:
        top += _folded(Text(f"{one_line(problem)} What is shown is old.", "bold red"), width)
    sections = [_workers(view, width), _queues(view, history, width), _jobs(view, width)]
    room = None if height is None else height - len(top)
    return _joined([*top, *_fitted(sections, width, room)], width)


def _folded(sentence: Text, width: int) -> list[Text]:
    return list(sentence.wrap(Console(width=width), width))


def _joined(lines: Sequence[Text], width: int) -> Text:
    """Lines as one text; those that are too long are cut."""
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    text = Text("\n").join(lines)
    text.no_wrap = True
    return text


def _fitted(sections: Sequence[Section], width: int, room: int | None) -> Iterator[Text]:
    """The sections, each with an empty line before it, in `room` lines if possible."""
    rows, notes = [len(section.entries) for section in sections], NOTES_MAX
    if room is not None:
        while notes and _height(sections, width, rows, notes) > room:
            notes -= 1
        if _height(sections, width, rows, notes) > room:
            heads = _height(sections, width, [0] * len(sections), 0)
            rows = rows_that_fit(rows, room - heads)
    for section, count in zip(sections, rows, strict=True):
        yield Text()
        yield from section.lines(width, count, notes)


def _height(sections: Sequence[Section], width: int, rows: Sequence[int], notes: int) -> int:
    drawn = [s.lines(width, count, notes) for s, count in zip(sections, rows, strict=True)]
    return sum(1 + len(lines) for lines in drawn)


def rows_that_fit(counts: Sequence[int], room: int) -> list[int]:
    """How many of their rows sections may show in `room` lines: one each in turn, until either all
    rows or all lines are used."""
    shown = [0] * len(counts)
    while room > 0 and shown != list(counts):
        for number, count in enumerate(counts):
            if shown[number] < count and room > 0:
                shown[number] += 1
                room -= 1
    return shown


# ---- the head -----------------------------------------------------------------------------------


def _header(view: View, width: int) -> list[Text]:
    states = [worker.state for worker in view.workers]
    workers = [
        Text(f"{states.count(state)} {state}", style)
        for state, style in _WORKER_STYLE.items()
        if state in states
    ]
    title = _dotted([*(workers or [Text("no workers", "bold red")]), _coordinator(view)])
    figures = [
        f"{figure(view.pairs_per_s)} pairs/s",
        f"{figure(view.tokens_per_s)} tokens/s",
        f"{figure(sum(queue.depth for queue in view.queues))} shards wait",
        f"{figure(view.unfinished)} unfinished job{'s' * (view.unfinished != 1)}",
    ]
    lines = [Text("rerankfleet  ", "bold") + title, _dotted([Text(part) for part in figures])]
    return [part for line in lines for part in _folded(line, width)]


def _dotted(parts: Sequence[Text]) -> Text:
    return Text(" · ", "dim").join(parts)


def _coordinator(view: View) -> Text:
    if view.silent_s is None:
        return Text("no coordinator: start `rerank coordinator`", "bold red")
    if not view.coordinator_lives:
        silent = duration(view.silent_s)
        return Text(f"coordinator silent for {silent}: start `rerank coordinator`", "bold red")
    return Text("coordinator runs", "green")


# ---- workers ------------------------------------------------------------------------------------

_WORKER_COLUMNS = (
    Column("WORKER", keep_end=True),
    Column("MODEL", 22, keep_end=True, from_width=WIDE),
    Column("STATE", 8),
    Column("TOK×PAIRS", 12, right=True),
    Column("PAIRS/S", 7, right=True),
    Column("TOK/S", 6, right=True, from_width=72),
    Column("BUSY", 11),
    Column("WAITS", 5, right=True, from_width=72),
    Column("P95", 7, right=True, from_width=132),
    Column("MEMORY", 7, right=True, from_width=WIDE),
    Column("SEEN", 4, right=True),
)
_WORKER_STYLE = MappingProxyType({"ready": "green", "loading": "yellow", "draining": "yellow"})


def _workers(view: View, width: int) -> Section:
    return Section(
        "WORKERS",
        _WORKER_COLUMNS,
        [_worker(worker, view.at_s, width) for worker in view.workers],
        Text("none. Start one:  rerank worker --model Qwen/Qwen3-Reranker-0.6B", "yellow"),
    )


def _worker(worker: WorkerRow, now_s: float, width: int) -> Entry:
    cells = {
        "WORKER": Text(_without_domain(worker.id)),
        "MODEL": Text(short_model(worker.model)),
        "STATE": Text(worker.state, _WORKER_STYLE[worker.state]),
        "SEEN": Text(duration(max(now_s - worker.seen_s, 0)) if worker.seen_s else "–"),
    }
    if worker.state != "loading":
        busy = f"{worker.busy_share:.0%}"
        cells |= {
            "TOK×PAIRS": Text(f"{figure(worker.batch_tokens)}×{figure(worker.batch_pairs)}"),
            "PAIRS/S": Text(figure(worker.pairs_per_s)),
            "TOK/S": Text(figure(tokens_per_s(worker))),
            "BUSY": Text(f"{bar(worker.busy_share, 6)} {busy}" if width >= WIDE else busy, "cyan"),
            "WAITS": Text(f"{worker.preparing_share:.0%}", _starved(worker)),
            "P95": Text(f"{worker.latency_p95_s * 1000:,.0f}ms" if worker.latency_p95_s else "–"),
            "MEMORY": Text(_bytes(worker.memory_bytes)),
        }
    return Entry(cells, _worker_notes(worker, now_s, width))


def _worker_notes(worker: WorkerRow, now_s: float, width: int) -> list[Text]:
    """What has no column; and the reason of its batch limit, with its age."""
    names, limit = [one_line(worker.device)], []
    if width < WIDE:
        memory = [_bytes(worker.memory_bytes)] if worker.memory_bytes else []
        names = [short_model(worker.model), *names, *memory]
    if worker.batch_reason:
        age_s = max(now_s - worker.batch_at_s, 0)
        since = f" {duration(age_s)} ago" if worker.batch_at_s else ""
        limit.append(f"batch{since}: {one_line(worker.batch_reason)}")
    lines = [[*names, *limit]] if width >= WIDE else [names, limit]
    notes = [[Text(part, "dim") for part in line] for line in lines]
    if worker.waiting_for:
        text = f"waits for the storage: {one_line(worker.waiting_for)}"
        notes[-1].insert(0, Text(text, "red"))
    if worker.ooms:
        notes[-1].insert(0, Text(f"{worker.ooms} × out of memory", "red"))
    return [_dotted(line) for line in notes if line]


def _starved(worker: WorkerRow) -> str:
    return "yellow" if worker.preparing_share > worker.busy_share else ""


def _bytes(count: int) -> str:
    if not count:
        return "–"
    return f"{count / 2**30:.1f}GiB" if count >= 2**30 else f"{count / 2**20:.0f}MiB"


def _without_domain(worker_id: str) -> str:
    """host:device:pid of host.domain:device:pid."""
    host, colon, rest = one_line(worker_id).partition(":")
    return f"{host.partition('.')[0]}{colon}{rest}"


def short_model(model: str) -> str:
    """A hub name without its owner, a folder without its parents."""
    return one_line(model.rstrip("/").rpartition("/")[2])


# ---- queues -------------------------------------------------------------------------------------

_QUEUE_COLUMNS = (
    Column("MODEL", keep_end=True),
    *(Column(priority.value.upper(), 11, right=True) for priority in Priority),
    Column("OPEN", 6, right=True),
    Column("LEASED", 6, right=True),
    Column("LAST MINUTE", 20),
)


def _queues(view: View, history: DepthHistory | None, width: int) -> Section:
    columns = _QUEUE_COLUMNS if history else _QUEUE_COLUMNS[:-1]
    entries = [_queue(queue, view, history, width) for queue in view.queues]
    return Section("QUEUES", columns, entries, Text("none", "dim"))


def _queue(queue: ModelQueue, view: View, history: DepthHistory | None, width: int) -> Entry:
    cells = {p.value.upper(): Text(figure(count)) for p, count in queue.waiting.items()}
    cells |= {
        "MODEL": Text(short_model(queue.model)),
        "OPEN": Text(figure(queue.open_shards)),
        "LEASED": Text(figure(queue.leased_shards)),
    }
    if history:
        steps = 20 if width >= WIDE else 12
        cells["LAST MINUTE"] = Text(history.sparkline(queue.model, steps), "cyan")
    return Entry(cells, list(_missing_workers(queue.model, view.workers)))


def _missing_workers(model: str, workers: Sequence[WorkerRow]) -> Iterator[Text]:
    """A note that no worker of a model is ready, and what to do."""
    states = {worker.state for worker in workers if worker.model == model}
    if not states:
        yield Text(f"no worker serves it:  rerank worker --model {one_line(model)}", "bold red")
    elif states == {"loading"}:
        yield Text("its workers are loading the model", "yellow")


# ---- jobs ---------------------------------------------------------------------------------------

_JOB_COLUMNS = (
    Column("JOB", 12),
    Column("NAME", 32, from_width=WIDE),
    Column("STATE", 9),
    Column("PROGRESS", 17, from_width=72),
    Column("PAIRS", 15, right=True),
    Column("PAIRS/S", 7, right=True),
    Column("ETA", 7, right=True),
)


def _jobs(view: View, width: int) -> Section:
    return Section(
        "JOBS",
        _JOB_COLUMNS,
        [_job(job, view.at_s, width) for job in view.jobs],
        Text("none. Make one:  rerank submit pairs.jsonl -o ranked.jsonl", "dim"),
    )


def _job(job: JobStatus, now_s: float, width: int) -> Entry:
    progress = job.progress
    total = "?" if progress.pairs_total is None else figure(progress.pairs_total)
    cells = {
        "JOB": Text(one_line(job.id)),
        "NAME": Text(one_line(job.name)),
        "STATE": Text(job.shown_state, STATE_STYLE[job.shown_state]),
        "PROGRESS": _progress(job),
        "PAIRS": Text(f"{figure(progress.pairs)}/{total}"),
        "PAIRS/S": Text(figure(job.pairs_per_s)),
        "ETA": Text(duration(job.eta_s)),
    }
    return Entry(cells, _job_notes(job, now_s, width))


def _progress(job: JobStatus) -> Text:
    if job.progress.total is None:
        return Text("–")  # its input is still being read
    share = job.progress.done / job.progress.total if job.progress.total else 1.0
    return Text(f"{bar(share, 12)} {int(share * 100)}%", STATE_STYLE[job.shown_state])


def _job_notes(job: JobStatus, now_s: float, width: int) -> list[Text]:
    """What limits it, or when it ended; and what has no column."""
    words = [one_line(job.name)] if width < WIDE else []
    words += [f"of {one_line(job.owner)}"] if job.owner else []
    if job.finished_s is None:
        words.append(one_line(job.reason))
    else:
        words += [f"ended {duration(max(now_s - job.finished_s, 0))} ago", one_line(job.reason)]
    parts = [Text(part, "dim") for part in words if part]
    counts = {
        "errors": job.progress.errors,
        "bad lines": job.progress.bad_lines,
        "rejected": job.progress.rejected,
    }
    parts += [Text(f"{figure(n)} {name}", "red") for name, n in counts.items() if n]
    return [_dotted(parts)] if parts else []
