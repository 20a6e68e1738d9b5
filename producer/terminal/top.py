"""`rerank top`: the whole fleet on one screen, drawn again as it changes.

`look` reads the facts, `frame` makes lines of them that fit a terminal, `watch` does both until q
or Ctrl-C. A look is some hundred short reads at the most, and writes nothing.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import NoReturn

from pydantic import BaseModel, ConfigDict
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from rerankfleet.producer.client import Client
from rerankfleet.producer.terminal.tables import STATE_STYLE, bar, duration, figure, one_line
from rerankfleet.shared.advice import silent_limit_s
from rerankfleet.shared.errors import RerankError, UnknownJob
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.job_status import JobStatus
from rerankfleet.shared.queue import broker_keys, model_queue
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet import WorkerRow

JOBS_MAX = 40
"""Unfinished jobs that are looked at, the newest; each costs a handful of reads."""
ENDED_SHOWN = 3
RECENT = 1000
"""How many jobs the fleet remembers in the order of their creation."""
MINUTE_S = 60.0
WORDS_MAX = 2
"""Lines of words below a row, at the most."""
WIDE = 120
"""Characters from which models and names have columns of their own."""
KEYS_S = 0.25
"""How often the keyboard is looked at and the screen drawn."""
BLOCKS = "▁▂▃▄▅▆▇█"


# ---- facts --------------------------------------------------------------------------------------


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class QueueDepth(_Frozen):
    """What waits for a model's workers."""

    model: str
    waiting: Mapping[Priority, int]
    """Shards' hints that no worker took yet, by priority."""
    open_shards: int = 0
    """Shards without a result, in hand or not."""
    leased_shards: int = 0
    """Those of them that a worker has in hand."""

    @property
    def depth(self) -> int:
        """All that waits."""
        return sum(self.waiting.values())


class View(_Frozen):
    """The fleet at one moment of the server's clock."""

    at_s: float
    silent_s: float | None = None
    """How long ago a coordinator gave a sign of life; None: none ever did."""
    coordinator_lives: bool = False
    workers: tuple[WorkerRow, ...] = ()
    queues: tuple[QueueDepth, ...] = ()
    jobs: tuple[JobStatus, ...] = ()
    """Unfinished ones, then those that ended last; the newest first."""
    unfinished: int = 0
    """How many unfinished jobs there are, shown or not."""

    @property
    def pairs_per_s(self) -> float:
        """Of all workers together."""
        return sum(worker.pairs_per_s for worker in self.workers)

    @property
    def tokens_per_s(self) -> float:
        """Of all workers together."""
        return sum(map(tokens_per_s, self.workers))


def tokens_per_s(worker: WorkerRow) -> float:
    """What it computes now: its device's rate while it computes × the share in which it does."""
    return worker.tokens_per_s * worker.busy_share


def look(client: Client) -> View:
    """Read the facts of a fleet. Raises REDIS_ERRORS when the server goes away."""
    store, workers = client.store, client.workers()
    unfinished = set(store.jobs.unfinished())
    recent = store.jobs.recent(RECENT)
    running = [job_id for job_id in recent if job_id in unfinished]
    ended = [job_id for job_id in recent if job_id not in unfinished]
    silent_s = store.coordination.silent_s()
    return View(
        at_s=store.now_ms() / 1000,
        silent_s=silent_s if silent_s != float("inf") else None,
        coordinator_lives=silent_s < silent_limit_s(client.settings.tick_s),
        workers=tuple(workers),
        queues=tuple(_queues(client, {worker.model for worker in workers})),
        jobs=tuple(_jobs(client, [*running[:JOBS_MAX], *ended[:ENDED_SHOWN]])),
        unfinished=len(running),
    )


def _queues(client: Client, served: set[str]) -> Iterator[QueueDepth]:
    """Of the models that are served or should be: what waits in a queue may be long void."""
    store, settings = client.store, client.settings
    for model in sorted(served.union(store.jobs.models())):
        keys = {p: broker_keys(settings, [model_queue(model, p)]) for p in Priority}
        found = QueueDepth(
            model=model,
            waiting={priority: store.broker.waiting_count(key) for priority, key in keys.items()},
            open_shards=store.shards.backlog(model),
            leased_shards=store.shards.leased_count(model),
        )
        if model in served or found.open_shards:
            yield found


def _jobs(client: Client, ids: Sequence[str]) -> Iterator[JobStatus]:
    for job_id in ids:
        with suppress(UnknownJob):  # its time was over a moment ago
            yield client.status(job_id)


class History:
    """How many hints waited for each model in the last minute, as one viewer saw it."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, Mapping[str, int]]] = deque()

    def add(self, view: View) -> None:
        """Remember a view and forget what is older than a minute, or of another clock."""
        if self._seen and view.at_s < self._seen[-1][0]:
            self._seen.clear()
        self._seen.append((view.at_s, {found.model: found.depth for found in view.queues}))
        while view.at_s - self._seen[0][0] > MINUTE_S:
            self._seen.popleft()

    def sparkline(self, model: str, width: int) -> str:
        """The minute in `width` characters, the newest on the right; spaces before it was seen."""
        if not self._seen:
            return " " * width
        now_s = self._seen[-1][0]
        steps: list[int | None] = [None] * width
        for at_s, depths in self._seen:
            step = width - 1 - int((now_s - at_s) / MINUTE_S * width)
            if step >= 0:
                steps[step] = max(steps[step] or 0, depths.get(model, 0))
        return _sparks(steps)


def _sparks(steps: list[int | None]) -> str:
    """A block a step, against the highest of them; a step in which nobody looked is as before."""
    highest = max((step for step in steps if step is not None), default=0)
    shown, last = "", " "
    for step in steps:
        if step is not None:
            last = BLOCKS[-(-step * (len(BLOCKS) - 1) // highest) if highest else 0]
        shown += last
    return shown


# ---- lines --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a section. Without `widest` it takes what the others leave."""

    name: str
    widest: int | None = None
    right: bool = False
    keep_end: bool = False
    """What is too long loses its beginning: names of hosts and models differ at their end."""
    from_width: int = 0
    """It is left out on a narrower screen."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of a section: cells by the name of their column, and lines of words below."""

    cells: Mapping[str, Text]
    words: Sequence[Text] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the screen: rows under headings, or what to do when there are none."""

    title: str
    columns: Sequence[Column]
    entries: Sequence[Entry]
    empty: Text

    def lines(self, width: int, rows: int, words: int) -> list[Text]:
        """The section with `rows` of its entries, each with its last `words` lines of words."""
        if not self.entries:
            return [Text(self.title, "bold"), *_folded(Text("  ") + self.empty, width)]
        columns = [column for column in self.columns if width >= column.from_width]
        widths = self._widths(columns, width - 2)
        found = [Text(self.title, "bold")]
        found.append(_line([Text(c.name, "dim") for c in columns], columns, widths))
        for entry in self.entries[:rows]:
            found.append(_line([entry.cells.get(c.name, Text()) for c in columns], columns, widths))
            found += [Text("    ") + line for line in entry.words[-words:] if words]
        if hidden := len(self.entries) - rows:
            found.append(Text(f"  … {hidden} more", "dim"))
        return found

    def _widths(self, columns: Sequence[Column], room: int) -> list[int]:
        """As wide as what stands in it, up to its widest; one column has all the rest."""
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
    history: History | None = None,
    problem: str = "",
) -> Text:
    """The screen as lines of at most `width` characters; as many as needed without a `height`.

    `problem` is why `view` is old, or why there is none. Where the height does not do for all,
    first the words below the rows go, then rows, whose number is said.
    """
    if view is None:
        told = Text(one_line(problem or "looking for the fleet …"), "yellow")
        return _joined([Text("rerankfleet", "bold"), Text(), *_folded(told, width)], width)
    top = _header(view, width)
    if problem:
        top += _folded(Text(f"{one_line(problem)} What is shown is old.", "bold red"), width)
    sections = [_workers(view, width), _waiting(view, history, width), _made(view, width)]
    room = None if height is None else height - len(top)
    return _joined([*top, *_fitted(sections, width, room)], width)


def _folded(sentence: Text, width: int) -> list[Text]:
    return list(sentence.wrap(Console(width=width), width))


def _joined(lines: Sequence[Text], width: int) -> Text:
    """Lines as one text, what is too long cut."""
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
    found = Text("\n").join(lines)
    found.no_wrap = True
    return found


def _fitted(sections: Sequence[Section], width: int, room: int | None) -> Iterator[Text]:
    """The sections, each with an empty line before it, in `room` lines if it can be."""
    rows, words = [len(section.entries) for section in sections], WORDS_MAX
    if room is not None:
        while words and _height(sections, width, rows, words) > room:
            words -= 1
        if _height(sections, width, rows, words) > room:
            heads = _height(sections, width, [0] * len(sections), 0)
            rows = share_out(rows, room - heads)
    for section, count in zip(sections, rows, strict=True):
        yield Text()
        yield from section.lines(width, count, words)


def _height(sections: Sequence[Section], width: int, rows: Sequence[int], words: int) -> int:
    drawn = [s.lines(width, count, words) for s, count in zip(sections, rows, strict=True)]
    return sum(1 + len(lines) for lines in drawn)


def share_out(wanted: Sequence[int], room: int) -> list[int]:
    """Give each what it wants or, where that is too much, one by one in turn until none is left."""
    given = [0] * len(wanted)
    while room > 0 and given != list(wanted):
        for number, wants in enumerate(wanted):
            if given[number] < wants and room > 0:
                given[number] += 1
                room -= 1
    return given


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
        f"{figure(sum(found.depth for found in view.queues))} shards wait",
        f"{figure(view.unfinished)} unfinished job{'s' * (view.unfinished != 1)}",
    ]
    lines = [Text("rerankfleet  ", "bold") + title, _dotted([Text(found) for found in figures])]
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

_WORKERS = (
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
        _WORKERS,
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
    return Entry(cells, _worker_words(worker, now_s, width))


def _worker_words(worker: WorkerRow, now_s: float, width: int) -> list[Text]:
    """What has no column; and why its batch limit is what it is, since when."""
    names, limit = [one_line(worker.device)], []
    if width < WIDE:
        memory = [_bytes(worker.memory_bytes)] if worker.memory_bytes else []
        names = [short_model(worker.model), *names, *memory]
    if worker.batch_reason:
        age_s = max(now_s - worker.batch_at_s, 0)
        since = f" {duration(age_s)} ago" if worker.batch_at_s else ""
        limit.append(f"batch{since}: {one_line(worker.batch_reason)}")
    lines = [[*names, *limit]] if width >= WIDE else [names, limit]
    found = [[Text(part, "dim") for part in line] for line in lines]
    if worker.ooms:
        found[-1].insert(0, Text(f"{worker.ooms} × out of memory", "red"))
    return [_dotted(line) for line in found if line]


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

_QUEUES = (
    Column("MODEL", keep_end=True),
    *(Column(priority.value.upper(), 11, right=True) for priority in Priority),
    Column("OPEN", 6, right=True),
    Column("IN HAND", 7, right=True),
    Column("LAST MINUTE", 20),
)


def _waiting(view: View, history: History | None, width: int) -> Section:
    columns = _QUEUES if history else _QUEUES[:-1]
    entries = [_queue(found, view, history, width) for found in view.queues]
    return Section("SHARDS THAT WAIT", columns, entries, Text("none", "dim"))


def _queue(found: QueueDepth, view: View, history: History | None, width: int) -> Entry:
    cells = {p.value.upper(): Text(figure(count)) for p, count in found.waiting.items()}
    cells |= {
        "MODEL": Text(short_model(found.model)),
        "OPEN": Text(figure(found.open_shards)),
        "IN HAND": Text(figure(found.leased_shards)),
    }
    if history:
        steps = 20 if width >= WIDE else 12
        cells["LAST MINUTE"] = Text(history.sparkline(found.model, steps), "cyan")
    return Entry(cells, list(_nobody(found.model, view.workers)))


def _nobody(model: str, workers: Sequence[WorkerRow]) -> Iterator[Text]:
    """That no worker is ready for a model, and what to do."""
    states = {worker.state for worker in workers if worker.model == model}
    if not states:
        yield Text(f"no worker serves it:  rerank worker --model {one_line(model)}", "bold red")
    elif states == {"loading"}:
        yield Text("its workers are loading the model", "yellow")


# ---- jobs ---------------------------------------------------------------------------------------

_JOBS = (
    Column("JOB", 12),
    Column("NAME", 32, from_width=WIDE),
    Column("STATE", 9),
    Column("PROGRESS", 17, from_width=72),
    Column("PAIRS", 15, right=True),
    Column("PAIRS/S", 7, right=True),
    Column("ETA", 7, right=True),
)


def _made(view: View, width: int) -> Section:
    """The jobs."""
    return Section(
        "JOBS",
        _JOBS,
        [_job(job, view.at_s, width) for job in view.jobs],
        Text("none. Make one:  rerank submit pairs.jsonl -o ranked.jsonl", "dim"),
    )


def _job(job: JobStatus, now_s: float, width: int) -> Entry:
    progress = job.progress
    total = "?" if progress.total is None else figure(progress.total)
    cells = {
        "JOB": Text(job.id),
        "NAME": Text(one_line(job.name)),
        "STATE": Text(job.state, STATE_STYLE[job.state]),
        "PROGRESS": _progress(job),
        "PAIRS": Text(f"{figure(progress.done)}/{total}"),
        "PAIRS/S": Text(figure(job.pairs_per_s)),
        "ETA": Text(duration(job.eta_s)),
    }
    return Entry(cells, _job_words(job, now_s, width))


def _progress(job: JobStatus) -> Text:
    if job.progress.total is None:
        return Text("–")  # its input is still being read
    share = job.progress.done / job.progress.total if job.progress.total else 1.0
    return Text(f"{bar(share, 12)} {int(share * 100)}%", STATE_STYLE[job.state])


def _job_words(job: JobStatus, now_s: float, width: int) -> list[Text]:
    """What holds it back, or when it ended; and what has no column."""
    said = [one_line(job.name)] if width < WIDE else []
    if job.finished_s is None:
        said.append(one_line(job.reason))
    else:
        said.append(f"ended {duration(max(now_s - job.finished_s, 0))} ago")
    parts = [Text(part, "dim") for part in said if part]
    counts = {"errors": job.progress.errors, "rejected": job.progress.rejected}
    parts += [Text(f"{figure(n)} {name}", "red") for name, n in counts.items() if n]
    return [_dotted(parts)] if parts else []


# ---- the screen ---------------------------------------------------------------------------------


def watch(interval_s: float) -> None:
    """Draw the fleet every `interval_s` until q, Ctrl-C or SIGTERM. A Redis that is away is told
    and tried again; the keyboard never waits for it."""
    found: queue.SimpleQueue[View | Exception] = queue.SimpleQueue()
    looking = threading.Thread(target=_look_again, args=(interval_s, found), daemon=True)
    console, history = Console(highlight=False), History()
    signal.signal(signal.SIGTERM, _end)
    with (
        suppress(KeyboardInterrupt),
        _keyboard() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        looking.start()
        view, problem = None, ""
        while "q" not in pressed(KEYS_S).lower():
            while not found.empty():
                news = found.get()
                if isinstance(news, View):
                    view, problem = news, ""
                    history.add(news)
                else:
                    problem = _words(news)
            drawn = frame(
                view,
                width=console.width,
                height=console.height - 1,
                history=history,
                problem=problem,
            )
            drawn.append(f"\n{_footer(interval_s)}", "dim")
            live.update(drawn, refresh=True)


def _footer(interval_s: float) -> str:
    return f"every {interval_s:g} s · q ends"


def _end(*_: object) -> NoReturn:
    """Leave through all `finally`, so that the terminal is as it was."""
    sys.exit(0)


def _look_again(interval_s: float, found: queue.SimpleQueue[View | Exception]) -> None:
    """Look at the fleet for ever; with a new connection after each failure."""
    client: Client | None = None
    while True:
        try:
            client = client or Client()
            found.put(look(client))
        except Exception as error:  # whoever draws says it, or raises it
            client = None
            found.put(error)
        time.sleep(interval_s)


def _words(error: Exception) -> str:
    """What is wrong, for a person who may wait. Raises what waiting does not cure."""
    if isinstance(error, RerankError):
        return f"{error}. Trying again …"
    if isinstance(error, REDIS_ERRORS):
        return f"Redis went away ({type(error).__name__}). Trying again …"
    raise error


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """Keys as they are pressed, without Enter: yields `pressed(wait_s)`, "" when none was."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed(wait_s: float) -> str:
        if not select.select([keyboard], [], [], wait_s)[0]:
            return ""
        return os.read(keyboard, 64).decode(errors="replace") or "q"  # no bytes: it was closed

    tty.setcbreak(keyboard)
    try:
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""
