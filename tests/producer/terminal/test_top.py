"""`rerank top`: facts become lines that fit; the screen lives on while Redis is away."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from rerankfleet.producer.client import Client
from rerankfleet.producer.terminal import tables, top
from rerankfleet.producer.terminal.drawing import frame, rows_that_fit
from rerankfleet.producer.terminal.view import DepthHistory, View, look
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.job_status import JobStatus, Progress
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import ModelQueue
from tests.support.fleet import MODEL, Worker, run, worker_row
from tests.support.server import free_port
from tests.support.wait import wait_until

NOW_S = 1_700_000_000.0
REASON = "latency: average 1,240 ms, more than 1,000 ms: half"


def a_worker(**fields: Any) -> WorkerRow:
    """A busy GPU worker's heartbeat."""
    row = {
        "id": "gpu-node-07.cluster.example:cuda3:12345",
        "device": "NVIDIA H200",
        "batch_tokens": 98_304,
        "batch_pairs": 1024,
        "batch_reason": REASON,
        "batch_at_s": NOW_S - 12,
        "pairs_per_s": 1234.5,
        "tokens_per_s": 200_000,
        "busy_share": 0.9,
        "preparing_share": 0.05,
        "latency_p95_s": 0.84,
        "memory_bytes": 31 << 30,
        "seen_s": NOW_S - 1,
    }
    return worker_row(**(row | fields))


def a_job(**fields: Any) -> JobStatus:
    """A running job's status."""
    usual = {
        "id": "1f2e3d4c5b6a",
        "state": "running",
        "reason": "device: 1 worker, 90% busy",
        "model": MODEL,
        "priority": "normal",
        "progress": Progress(total=100_000_000, scored=25_000_000, errors=3),
        "created_s": NOW_S - 100,
        "pairs_per_s": 1234.5,
        "eta_s": 3700.0,
        "name": "monday.jsonl",
    }
    return JobStatus(**(usual | fields))


def depth(model: str = MODEL, **waiting: int) -> ModelQueue:
    """What waits for a model."""
    by_priority = {priority: waiting.get(priority.value, 0) for priority in Priority}
    return ModelQueue(model=model, waiting=by_priority, open_shards=30, leased_shards=3)


def a_view(**fields: Any) -> View:
    """A small fleet at work."""
    usual = {
        "at_s": NOW_S,
        "silent_s": 0.5,
        "coordinator_lives": True,
        "workers": (a_worker(),),
        "queues": (depth(normal=12, bulk=40),),
        "jobs": (a_job(),),
        "unfinished": 1,
    }
    return View(**(usual | fields))


def lines(view: View | None, width: int = 80, **options: Any) -> list[str]:
    """A frame as plain lines, none of them too long."""
    drawn = frame(view, width=width, **options).plain.split("\n")
    assert all(cell_len(line) <= width for line in drawn)
    return drawn


def row(drawn: list[str], first: str) -> str:
    """The row that begins with this word."""
    (line,) = (line for line in drawn if line.startswith(f"  {first} "))
    return line


# ---- what is shown ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120, 140])
def test_the_fleet_is_summed_up_on_top(width):
    workers = (a_worker(), a_worker(id="h:cuda0:2"), a_worker(id="h:cuda1:3", state="loading"))

    first, second, *_ = lines(a_view(workers=workers[:2] + workers[2:]), width)

    assert first == "rerankfleet  2 ready · 1 loading · coordinator runs"
    assert second == "3,704 pairs/s · 540k tokens/s · 52 shards wait · 1 unfinished job"


@pytest.mark.parametrize("width", [80, 120, 140])
def test_a_worker_shows_its_batch_and_why_at_any_width(width):
    drawn = lines(a_view(), width)

    at = next(i for i, line in enumerate(drawn) if "cuda3:12345" in line)
    assert "98.3k×1,024" in drawn[at]
    assert "example" not in drawn[at]  # a domain tells nobody anything
    assert [word in drawn[at] for word in ("1,234", "180k", "90%", "5%", "1s")] == [True] * 5
    below = " ".join(drawn[at + 1 : at + 3])
    assert f"batch 12s ago: {REASON}" in below
    assert "NVIDIA H200" in below
    assert "31.0GiB" in " ".join(drawn)
    assert ("840ms" in drawn[at]) == (width >= 132)


def test_names_that_are_too_long_keep_their_end():
    long = a_worker(
        id="a-very-long-host-name-indeed-01:cuda0:99999", model="org/" + "x" * 40 + "8B"
    )

    drawn = lines(a_view(workers=(long,)), 120)

    assert any("-01:cuda0:99999" in line and "xx8B" in line for line in drawn)


def test_a_worker_that_loads_has_no_figures_yet():
    drawn = lines(a_view(workers=(a_worker(state="loading", batch_reason=""),)))

    assert row(drawn, "gpu-node-07:cuda3:12345").split()[1:] == ["loading", "1s"]
    assert "    its workers are loading the model" in drawn


def test_out_of_memory_is_not_overlooked():
    assert any("2 × out of memory" in line for line in lines(a_view(workers=(a_worker(ooms=2),))))


def test_depth_is_shown_by_priority_and_as_a_line_of_the_last_minute():
    history = DepthHistory()
    for step in range(61):
        history.add(a_view(at_s=NOW_S + step, queues=(depth(normal=step),)))

    drawn = lines(a_view(queues=(depth(interactive=1, normal=12, bulk=40),)), history=history)

    cells = row(drawn, "model").split()
    assert cells[1:6] == ["1", "12", "40", "30", "3"]
    assert (cells[6][0], cells[6][-1], len(cells[6])) == ("▂", "█", 12)
    assert list(cells[6]) == sorted(cells[6])


def test_a_minute_that_was_not_seen_is_empty():
    history = DepthHistory()
    assert history.sparkline(MODEL, 6) == "      "
    history.add(a_view(at_s=NOW_S, queues=(depth(normal=3),)))
    assert history.sparkline(MODEL, 6) == "     █"
    history.add(a_view(at_s=NOW_S + 30, queues=(depth(),)))
    assert history.sparkline(MODEL, 6) == "  ███▁"
    history.add(a_view(at_s=NOW_S + 300, queues=()))
    assert history.sparkline(MODEL, 6) == "     ▁"
    history.add(a_view(at_s=NOW_S, queues=(depth(normal=3),)))  # another server, another clock
    assert history.sparkline(MODEL, 6) == "     █"


def test_a_job_shows_progress_rate_eta_and_what_holds_it_back():
    drawn = lines(a_view())

    assert row(drawn, "1f2e3d4c5b6a").split() == [
        *("1f2e3d4c5b6a", "running", "███·········", "25%"),
        *("25M/100M", "1,234", "1h", "01m"),
    ]
    assert "    monday.jsonl · device: 1 worker, 90% busy · 3 errors" in drawn


def test_a_job_whose_total_is_not_known_has_no_bar():
    drawn = lines(a_view(jobs=(a_job(progress=Progress(scored=5), eta_s=None),)))

    assert row(drawn, "1f2e3d4c5b6a").split()[2:] == ["–", "5/?", "1,234", "–"]


def test_a_job_that_ended_says_when():
    ended = a_job(state="done", reason="", finished_s=NOW_S - 61, eta_s=None, name="")

    assert "    ended 1m 01s ago · 3 errors" in lines(a_view(jobs=(ended,)))


def test_what_users_wrote_cannot_write_on_the_terminal():
    evil = a_job(name="\x1b[31m[bold]red[/]\nsecond line")

    drawn = lines(a_view(jobs=(evil,)))

    assert not any("\x1b" in line for line in drawn)
    assert any("[31m[bold]red[/] second line" in line for line in drawn)


# ---- what is missing ----------------------------------------------------------------------------


def test_an_empty_fleet_says_what_to_start():
    drawn = lines(View(at_s=NOW_S))

    assert " ".join(drawn[:2]) == (
        "rerankfleet  no workers · no coordinator: start `rerank coordinator` "
        "0 pairs/s · 0 tokens/s · 0 shards wait · 0 unfinished jobs"
    )
    assert "  none. Start one:  rerank worker --model Qwen/Qwen3-Reranker-0.6B" in drawn
    assert "  none. Make one:  rerank submit pairs.jsonl -o ranked.jsonl" in drawn


def test_a_silent_coordinator_and_a_model_without_worker_are_told():
    drawn = lines(a_view(silent_s=99.0, coordinator_lives=False, workers=()), 120)

    assert drawn[0].endswith("coordinator silent for 1m 39s: start `rerank coordinator`")
    assert f"    no worker serves it:  rerank worker --model {MODEL}" in drawn


def test_without_redis_it_says_why_and_keeps_what_it_saw():
    away = "Redis at redis://h:1 does not answer. Trying again …"

    assert away in lines(None, problem=away)
    drawn = lines(a_view(), problem=away)
    assert f"{away} What is shown is old." in drawn
    assert any("cuda3:12345" in line for line in drawn)
    assert "looking for the fleet …" in lines(None)


# ---- what fits ----------------------------------------------------------------------------------


@given(
    workers=st.integers(0, 40),
    jobs=st.integers(0, 40),
    width=st.integers(60, 200),
    height=st.integers(20, 60),
)
def test_a_frame_fits_its_terminal(workers, jobs, width, height):
    view = a_view(
        workers=tuple(a_worker(id=f"h:cuda0:{n}") for n in range(workers)),
        jobs=tuple(a_job(id=f"{n:012}") for n in range(jobs)),
    )

    drawn = lines(view, width, height=height)

    assert len(drawn) <= height
    shown = {"WORKERS": "cuda0", "JOBS": "running"}
    for words, count in zip(shown.values(), (workers, jobs), strict=True):
        rows = sum(words in line for line in drawn)
        assert rows == count or any(f"… {count - rows} more" in line for line in drawn)


def test_words_go_before_rows():
    workers = tuple(a_worker(id=f"h:cuda0:{n}") for n in range(8))
    full = lines(a_view(workers=workers))

    fewer = lines(a_view(workers=workers), height=len(full) - 1)

    assert sum("cuda0" in line for line in fewer) == 8
    assert sum(REASON in line for line in fewer) == 8  # why the batch is as it is goes last
    least = lines(a_view(workers=workers), height=20)
    assert not any(REASON in line for line in least)


@given(st.lists(st.integers(0, 30), max_size=5), st.integers(-5, 80))
def test_rows_are_shared_out_fairly(counts, room):
    shown = rows_that_fit(counts, room)

    assert all(0 <= some <= count for some, count in zip(shown, counts, strict=True))
    assert sum(shown) == min(sum(counts), max(room, 0))
    short = [some for some, count in zip(shown, counts, strict=True) if some < count]
    assert not short or max(shown) <= min(short) + 1


@pytest.mark.parametrize(
    ("number", "words"),
    [
        *((0, "0"), (12.34, "12.3"), (99.96, "100"), (7, "7"), (9_999, "9,999")),
        *((12_345, "12.3k"), (999_960, "1M"), (100_000_000, "100M"), (2.5e9, "2.5G")),
    ],
)
def test_figures_are_short(number, words):
    assert tables.figure(number) == words


@given(st.floats(-1, 2), st.integers(1, 30))
def test_a_bar_has_its_width(share, width):
    assert len(tables.bar(share, width)) == width


# ---- a real fleet -------------------------------------------------------------------------------


def test_a_look_finds_workers_depths_and_jobs(settings, fleet, store, control, jsonl, real_hints):
    # given a worker, a job that waits, one that ended, and a model that nobody serves any more
    fleet.beat(worker_row())
    client = Client(settings)
    source = jsonl({"query": "q", "documents": ["a", "b"]})
    ended = client.submit(source, name="first")
    control.hints.feed(ended)
    run(control, Worker(control))
    waits = client.submit(source, name="second", priority=Priority.bulk)
    control.hints.feed(waits)
    run(control)
    (_, shard), *_ = store.shards.due(MODEL, 9)
    real_hints.shard(MODEL, Priority.bulk, waits, shard)
    # when someone looks
    view = look(client)
    # then it is all there
    assert [worker.id for worker in view.workers] == ["w1"]
    (queue,) = view.queues
    assert (queue.model, queue.open_shards, queue.leased_shards) == (MODEL, 1, 0)
    assert queue.waiting == {Priority.interactive: 0, Priority.normal: 0, Priority.bulk: 1}
    assert [(job.name, job.state) for job in view.jobs] == [
        ("second", "running"),
        ("first", "done"),
    ]
    assert view.unfinished == 1
    assert view.silent_s is None
    # and a coordinator's sign of life too
    store.coordination.pulse()
    assert look(client).coordinator_lives
    # and a model without a worker is shown while something waits for it
    fleet.leave("w1")
    assert [queue.model for queue in look(client).queues] == [MODEL]
    client.cancel(waits)
    control.hints.feed(waits)
    run(control)
    assert look(client).queues == ()


def test_looking_writes_nothing(settings, fleet, client):
    fleet.beat(worker_row())
    before = {key: client.dump(key) for key in client.scan_iter()}
    look(Client(settings))
    assert {key: client.dump(key) for key in client.scan_iter()} == before


@pytest.mark.parametrize("columns", [80, 140])
def test_a_stack_is_shown_once(command, vl_stack, columns):
    result = command("top", "--once", columns=columns)

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("rerankfleet  1 ready · coordinator runs\n")
    assert "pocket-vl" in result.stdout
    assert all(cell_len(line) <= columns for line in result.stdout.splitlines())


def test_a_stack_is_told_to_machines(command, vl_stack):
    view = json.loads(command("top", "--json").stdout)

    assert view["workers"][0]["model"] == "pocket-vl"
    assert view["queues"][0]["waiting"] == {"interactive": 0, "normal": 0, "bulk": 0}
    assert view["coordinator_lives"]


# ---- the screen ---------------------------------------------------------------------------------


class Screen:
    """The command on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int, keyboard: int) -> None:
        self.process, self._terminal, self.keyboard = process, terminal, keyboard
        self._seen = ""

    def shows(self, words: str) -> None:
        """Wait until these words were drawn."""

        def drawn() -> bool:
            self._seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
            return words in self._seen

        wait_until(drawn, 30, words)

    def press(self, key: str) -> None:
        os.write(self._terminal, key.encode())

    def ends(self) -> str:
        """Wait for the end, which must be a good one; say what was drawn last."""
        os.set_blocking(self._terminal, False)

        def ended() -> bool:
            try:
                self._seen += os.read(self._terminal, 1 << 16).decode(errors="replace")
            except BlockingIOError:
                pass
            return self.process.poll() is not None

        wait_until(ended, 30, "it ends")
        assert self.process.returncode == 0, self._seen
        assert "Traceback" not in self._seen
        assert self._seen.endswith("\x1b[?25h\x1b[?1049l")  # cursor and screen are back
        return self._seen


@contextmanager
def screen(environment: dict[str, str]) -> Iterator[Screen]:
    """`rerank top` on a terminal of 80 × 24."""
    terminal, keyboard = pty.openpty()
    termios.tcsetwinsize(keyboard, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "rerankfleet.shared.cli", "top", "--interval", "0.2"],
        env={**os.environ, **environment, "TERM": "xterm"},
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
    )
    try:
        yield Screen(process, terminal, keyboard)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(keyboard)


def test_q_ends_it_and_the_terminal_is_as_before(settings, fleet):
    fleet.beat(worker_row())
    with screen(settings.environment()) as terminal:
        before = termios.tcgetattr(terminal.keyboard)
        terminal.shows("1 ready")
        terminal.shows("q ends")
        assert termios.tcgetattr(terminal.keyboard) != before
        terminal.press("q")
        terminal.ends()
        assert termios.tcgetattr(terminal.keyboard) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_quietly_while_redis_is_away(settings, number):
    away = f"redis://:secret@127.0.0.1:{free_port()}/0"
    with screen(settings.environment() | {"RERANK_REDIS_URL": away}) as terminal:
        terminal.shows("Trying")
        terminal.process.send_signal(number)
        assert "secret" not in terminal.ends()


def test_it_finds_a_stack_that_starts_later(settings, fleet, tmp_path: Path):
    # given a terminal that waits for some stack
    state = tmp_path / "later"
    state.mkdir()
    environment = settings.environment() | {"RERANK_STATE_DIR": str(state)}
    del environment["RERANK_REDIS_URL"]
    with screen(environment) as terminal:
        terminal.shows("no Redis is known")
        # when one records its address
        fleet.beat(worker_row())
        (state / "address.json").write_text(json.dumps({"redis_url": settings.redis_address}))
        # then it is shown
        terminal.shows("1 ready")
        terminal.press("q")
        terminal.ends()


def test_what_waiting_does_not_cure_is_raised():
    with pytest.raises(ZeroDivisionError):
        top._message(ZeroDivisionError())


@pytest.mark.parametrize("width", [80, 140])
def test_the_owner_of_a_job_is_shown_where_there_is_one(width):
    owned = a_view(jobs=(a_job(owner="search-team"),))
    assert any("of search-team · device:" in line for line in lines(owned, width))
    assert not any(" of " in line for line in lines(a_view(), width) if "device:" in line)
