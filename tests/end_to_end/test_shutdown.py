"""Processes that are told to stop, or that hang: how they end, and what they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from rerankfleet.producer.client import Client
from rerankfleet.producer.coordinator.feed import feed
from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.processes import Child, Signals, Supervisor
from rerankfleet.shared.queue import Hints, make_app
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.store import Store
from rerankfleet.shared.storage.objects import Objects
from tests.support.stack import RERANK
from tests.support.wait import patient, wait_until

MODEL = "pocket-text"
GATED = str(Path(__file__).parent.parent / "support" / "gated_worker.py")
DRAIN_S = 18.0
START_S = 120.0
END_S = 20.0

Run = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Short heartbeats: a worker's first one says that it is ready."""
    return settings.model_copy(
        update={"heartbeat_s": 0.5, "lease_s": patient(60), "threads": 1, "tick_s": 0.5}
    )


@pytest.fixture
def control(store: Store, objects: Objects, settings: Settings) -> Control:
    """What a coordinator works with; its hints go to the broker."""
    return Control(store, objects, Hints(make_app(settings)), settings)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """While it is there, packs do not end."""
    folder = tmp_path / "gate"
    folder.mkdir()
    return folder / "shut"


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Iterator[Run]:
    """`run("rerank", "coordinator")`: a real process, whose output goes to `log`."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            processes.append(
                subprocess.Popen(
                    list(command),
                    env={**os.environ, **settings.environment(), **(env or {})},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            for one in psutil.Process(process.pid).children(recursive=True):
                one.kill()
            process.kill()
        process.wait()


@pytest.fixture
def job(control: Control, fleet: Any, jsonl: Callable[..., Path], settings: Settings) -> str:
    """A job of a few shards, all of which wait."""
    client = Client(settings)
    client.store.client.set(client.store.keys.served(MODEL), 1, ex=600)
    lines = [{"query": f"what is {n}", "documents": ["a", "b", "c"]} for n in range(6)]
    job_id = client.submit(jsonl(*lines), model=MODEL)
    control.store.coordination.pulse()
    small = Control(
        control.store,
        control.objects,
        control.hints,
        settings.model_copy(update={"shard_pairs_max": 3}),
    )
    feed(job_id, small)
    return job_id


def states(control: Control, job_id: str) -> list[dict[str, Any]]:
    """The records of a job's open shards."""
    return [
        json.loads(text) for text in control.store.client.hvals(control.store.keys.job_open(job_id))
    ]


def held(control: Control, job_id: str) -> list[dict[str, Any]]:
    return [record for record in states(control, job_id) if "token" in record]


def ready(control: Control) -> list[int]:
    """The ids of the processes of ready workers."""
    return [row.pid for row in control.store.fleet.workers() if row.state == "ready"]


@pytest.fixture
def in_pack(run: Run, control: Control, job: str, gate: Path) -> Callable[..., Any]:
    """`in_pack(env={...})`: a worker whose device is in the middle of a pack."""

    def start(**options: Any) -> subprocess.Popen[bytes]:
        process = run(sys.executable, GATED, str(gate), "--model", MODEL, **options)
        gate_shuts_when_ready(control, gate)
        return process

    def gate_shuts_when_ready(control: Control, gate: Path) -> None:
        wait_until(lambda: (gate.parent / "in_pack").exists(), START_S, "it is in a pack")

    gate.write_text("")
    return start


def ends(process: subprocess.Popen[bytes]) -> int:
    return process.wait(patient(END_S))


def log_of(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text()


# ---- a worker -----------------------------------------------------------------------------------


def test_a_worker_that_is_told_to_stop_ends_its_pack_and_gives_back_the_rest(
    in_pack: Callable[..., Any], control: Control, job: str, gate: Path
) -> None:
    # given a worker in a pack, with shards in hand and others waiting
    worker = in_pack(env={"RERANK_DRAIN_S": str(patient(DRAIN_S))})
    wait_until(lambda: held(control, job), 30, "it holds shards")
    # when it is told to stop, and its pack ends a moment later
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(
        lambda: [w.state for w in control.store.fleet.workers()] == ["draining"], 30, "it drains"
    )
    open_before = len(states(control, job))
    gate.unlink()
    # then it ends well and in time; nothing new was claimed, and nobody is blamed
    assert ends(worker) == 0
    assert held(control, job) == []
    assert not [record for record in states(control, job) if {"suspect", "deaths"} & set(record)]
    assert len(states(control, job)) <= open_before
    assert control.store.fleet.workers() == []


def test_a_second_signal_ends_a_worker_at_once(
    in_pack: Callable[..., Any], control: Control, job: str
) -> None:
    # given a worker in a pack that does not end
    worker = in_pack(env={"RERANK_DRAIN_S": str(patient(600))})
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(
        lambda: [w.state for w in control.store.fleet.workers()] == ["draining"], 30, "it drains"
    )
    assert worker.poll() is None
    # when it is told again
    os.kill(worker.pid, signal.SIGTERM)
    # then it ends without its pack, and its shards are free
    assert ends(worker) == 1
    assert held(control, job) == []
    assert not [record for record in states(control, job) if {"suspect", "deaths"} & set(record)]


def test_a_worker_whose_pack_does_not_end_stops_in_time(
    in_pack: Callable[..., Any], control: Control, job: str
) -> None:
    worker = in_pack(env={"RERANK_DRAIN_S": "2"})
    os.kill(worker.pid, signal.SIGTERM)
    assert ends(worker) == 1
    assert held(control, job) == []
    assert not [record for record in states(control, job) if {"suspect", "deaths"} & set(record)]


def test_a_device_that_makes_no_progress_ends_its_worker_with_its_stacks(
    in_pack: Callable[..., Any], control: Control, job: str, tmp_path: Path
) -> None:
    worker = in_pack(env={"RERANK_STALL_TIMEOUT_S": "2"})
    # then the process ends by itself, and its log says where each thread was
    assert ends(worker) == 1
    log = log_of(tmp_path)
    assert "Timeout (0:00:02)!" in log
    assert "in gated" in log
    # and its leases are as those of a worker that died
    assert held(control, job)


def test_a_worker_that_stalled_is_started_again_and_its_job_ends(
    settings: Settings, control: Control, job: str, gate: Path, tmp_path: Path, run: Run
) -> None:
    # given a launcher of two workers, and a coordinator
    run(RERANK, "coordinator")
    gate.write_text("")
    env = {"RERANK_STALL_TIMEOUT_S": "2", "RERANK_LEASE_S": "3600"}
    run(sys.executable, GATED, str(gate), "--launch", "--model", MODEL, env=env)
    # when a pack hangs until its worker ends, and then no more
    wait_until(lambda: "Timeout (0:00:02)!" in log_of(tmp_path), START_S, "a worker stalls")
    gate.unlink()
    # then the launcher starts it again, which ends the leases of the former one
    wait_until(lambda: "a worker is gone" in log_of(tmp_path), START_S, "its successor tells")
    assert Client(settings).wait(job, timeout_s=patient(START_S)).progress.scored == 18


# ---- those that have children -------------------------------------------------------------------


def test_a_launcher_of_two_workers_drains_both(
    run: Run, control: Control, job: str, gate: Path
) -> None:
    gate.write_text("")
    launcher = run(sys.executable, GATED, str(gate), "--launch", "--model", MODEL)
    wait_until(lambda: len(ready(control)) == 2, START_S, "both are ready")
    pids = ready(control)
    wait_until(lambda: held(control, job), 30, "shards are held")
    os.kill(launcher.pid, signal.SIGTERM)
    wait_until(
        lambda: {w.state for w in control.store.fleet.workers()} == {"draining"}, 30, "they drain"
    )
    gate.unlink()
    assert launcher.wait(patient(30)) == 0
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert held(control, job) == []
    assert not [record for record in states(control, job) if {"suspect", "deaths"} & set(record)]


def test_a_second_signal_to_a_launcher_reaches_its_workers(
    run: Run, control: Control, job: str, gate: Path
) -> None:
    gate.write_text("")
    env = {"RERANK_DRAIN_S": str(patient(600))}
    launcher = run(sys.executable, GATED, str(gate), "--launch", "--model", MODEL, env=env)
    wait_until(lambda: len(ready(control)) == 2, START_S, "both are ready")
    pids = ready(control)
    os.kill(launcher.pid, signal.SIGTERM)
    wait_until(
        lambda: {w.state for w in control.store.fleet.workers()} == {"draining"}, 30, "they drain"
    )
    os.kill(launcher.pid, signal.SIGTERM)
    launcher.wait(patient(15))
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert held(control, job) == []


def test_a_coordinator_that_is_told_to_stop_ends_with_its_children(
    run: Run, control: Control
) -> None:
    coordinator = run(RERANK, "coordinator")
    key = control.store.keys.pulse
    wait_until(lambda: control.store.client.exists(key), START_S, "it ticks")
    children = psutil.Process(coordinator.pid).children(recursive=True)
    assert len(children) == 2
    os.kill(coordinator.pid, signal.SIGTERM)
    assert coordinator.wait(patient(30)) == 0
    assert not [child for child in children if child.is_running()]


def test_a_gateway_ends_although_somebody_follows_a_job(
    run: Run, control: Control, job: str
) -> None:
    import httpx

    from tests.support.server import free_port

    port = free_port()
    gateway = run(RERANK, "gateway", "--port", str(port))
    address = f"http://127.0.0.1:{port}"

    def lives() -> bool:
        try:
            return httpx.get(f"{address}/health/live", timeout=patient(5)).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(lives, START_S, "it answers")
    with httpx.stream("GET", f"{address}/v1/jobs/{job}/events", timeout=patient(30)) as events:
        next(events.iter_lines())
        os.kill(gateway.pid, signal.SIGTERM)
        assert ends(gateway) in (0, -signal.SIGTERM)


def test_a_stack_that_is_told_to_stop_leaves_no_process(tmp_path: Path) -> None:
    state = tmp_path / "state"
    env = {**os.environ, "RERANK_STATE_DIR": str(state), "RERANK_GATEWAY_PORT": "0"}
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen([RERANK, "up"], env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until((state / "address.json").exists, START_S, "the address is recorded")
        wait_until(lambda: len(psutil.Process(up.pid).children()) >= 4, START_S, "all are started")
        children = psutil.Process(up.pid).children(recursive=True)
        up.send_signal(signal.SIGTERM)
        assert up.wait(patient(40)) == 0
        assert not [child for child in children if child.is_running()]
        assert not (state / "address.json").exists()
    finally:
        up.kill()
        up.wait()


def test_a_second_signal_hurries_a_supervisor(tmp_path: Path) -> None:
    """Given a child that takes its time."""
    slow = (
        "import signal, time\n"
        "signal.signal(15, lambda *_: print('told', flush=True))\n"
        "print('up', flush=True)\n"
        "while True: time.sleep(0.1)\n"
    )
    child = Child("child", [sys.executable, "-c", slow], log_file=str(tmp_path / "child"))
    signals = Signals()
    supervisor = Supervisor([child], signals)
    supervisor.start()
    wait_until(lambda: "up" in (tmp_path / "child").read_text())
    signals.note()
    stopping = threading.Thread(target=supervisor.stop, args=(patient(600),))
    stopping.start()
    wait_until(lambda: "told" in (tmp_path / "child").read_text())
    # when a second signal comes
    signals.note()
    # then the child is told again, and does not get the time that it had
    stopping.join(patient(30))
    assert not stopping.is_alive()
    assert (tmp_path / "child").read_text().count("told") == 2
    assert child.process
    assert child.process.returncode == -signal.SIGKILL
