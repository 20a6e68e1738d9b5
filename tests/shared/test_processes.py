"""Child processes that are kept alive: real ones, of a line of Python each."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from rerankfleet.shared import processes
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.processes import REFUSED, RESTART_MAX_S, RESTART_MIN_S, Child, Supervisor
from tests.support.wait import patient, wait_until

SLEEP = "import time; print('up', flush=True); time.sleep(60)"


@pytest.fixture
def child(tmp_path):
    """`child(code)`: a child that runs this Python; none is left running."""
    made: list[Child] = []

    def make(code: str, name: str = "child", **options) -> Child:
        log = str(tmp_path / f"{name}.log")
        made.append(Child(name, [sys.executable, "-c", code], log_file=log, **options))
        return made[-1]

    yield make
    for one in made:
        if one.process is not None and one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def log_of(child: Child) -> str:
    return Path(child.log_file).read_text()


def test_a_child_that_dies_is_started_again_with_back_off(child, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    one = child("raise SystemExit(3)")
    Supervisor([one]).start()
    backoffs = []
    for _ in range(9):
        one.process.wait(patient(20))
        backoffs.append(one.backoff_s)
        one.revive()
        assert one.process is None
        one.revive()
        assert one.process is None  # not before its time
        clock[0] = one.next_start_s
        one.revive()
        assert one.process is not None

    assert backoffs[:3] == [RESTART_MIN_S, 2 * RESTART_MIN_S, 4 * RESTART_MIN_S]
    assert backoffs[-1] == RESTART_MAX_S


def test_a_child_is_told_which_process_it_replaces(child, monkeypatch):
    one = child("import sys; print(sys.argv[1:])", replaces="--replaces")
    one.start()
    first = one.process
    first.wait(patient(20))
    one.revive()
    one.next_start_s = 0
    one.revive()
    one.process.wait(patient(20))
    assert log_of(one).splitlines() == ["[]", f"['--replaces', '{first.pid}']"]


def test_a_child_that_lived_long_begins_anew(child, monkeypatch):
    one = child("raise SystemExit(3)")
    one.start()
    one.process.wait(patient(20))
    one.backoff_s = RESTART_MAX_S
    one.started_s -= processes.STEADY_S + 1

    one.revive()

    assert one.next_start_s <= time.monotonic() + RESTART_MIN_S


def test_a_child_for_which_a_restart_is_no_cure_ends_it_all(child):
    one = child(f"raise SystemExit({REFUSED})", name="worker cpu")
    one.start()
    one.process.wait(patient(20))

    with pytest.raises(UsageError, match="worker cpu cannot run: see its message above"):
        Supervisor([one, child(SLEEP)]).watch()


def test_one_of_several_that_cannot_run_does_not_stop_the_others(child):
    # given a broken card beside a good one
    broken = child(f"raise SystemExit({REFUSED})", name="worker cuda0")
    good = child(SLEEP)
    broken.vital = good.vital = False
    supervisor = Supervisor([broken, good])
    supervisor.start()
    broken.process.wait(patient(20))
    # when its process says that a restart is no cure
    supervisor.watch()
    # then it stays down and the other lives
    assert broken.refused
    assert good.process.poll() is None
    supervisor.stop()


def test_a_child_that_lives_is_left_alone(child):
    one = child(SLEEP)
    Supervisor([one]).start()
    pid = one.process.pid

    Supervisor([one]).watch()

    assert one.process.pid == pid


def test_all_are_stopped_and_the_last_of_them_last(child):
    """Given a server that the others need to end well."""
    slow = """
import signal, sys, time
def end(*_):
    print('ended', time.time(), flush=True)
    sys.exit()
signal.signal(15, end)
print('up', flush=True)
time.sleep(60)
"""
    server, worker = child(slow, name="server", last=True), child(slow, name="worker")
    supervisor = Supervisor([server, worker])
    supervisor.start()
    wait_until(lambda: "up" in log_of(server) and "up" in log_of(worker))

    supervisor.stop()

    assert server.process.poll() == worker.process.poll() == 0
    ends = [float(log_of(one).split()[-1]) for one in (worker, server)]
    assert ends == sorted(ends)


def test_a_child_that_does_not_stop_is_killed(child):
    one = child(f"import signal; signal.signal(15, signal.SIG_IGN); {SLEEP}")
    supervisor = Supervisor([one])
    supervisor.start()
    wait_until(lambda: "up" in log_of(one))

    supervisor.stop(timeout_s=0.2)

    assert one.process.returncode == -9


def test_a_child_gets_its_own_environment_besides_ours(child, monkeypatch):
    monkeypatch.setenv("OURS", "1")
    one = child("import os; print(os.environ['OURS'], os.environ['ITS'])", env={"ITS": "2"})
    one.start()
    one.process.wait(patient(20))

    assert log_of(one) == "1 2\n"
    assert "ITS" not in os.environ


def test_a_child_inherits_the_files_that_are_handed_to_it(child, tmp_path):
    with (tmp_path / "handed").open("wb") as handed, (tmp_path / "kept").open("wb") as kept:
        code = "import os, sys; os.write(int(sys.argv[1]), b'x'); os.write(int(sys.argv[2]), b'x')"
        one = child(code, files=(handed.fileno(),))
        one.command = [*one.command, str(handed.fileno()), str(kept.fileno())]
        one.start()
        one.process.wait(patient(20))

    assert (tmp_path / "handed").read_bytes() == b"x"
    assert (tmp_path / "kept").read_bytes() == b""
    assert "Bad file descriptor" in log_of(one)
