"""One process per device, pinned before anything loads CUDA."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.workers import launcher
from rerankfleet.workers.cli import starting_at
from rerankfleet.workers.launcher import children, device_groups, visible_gpus


@pytest.mark.parametrize(
    ("device", "gpus", "per_worker", "groups"),
    [
        ("auto", [], 1, [[]]),
        ("cpu", ["0", "1"], 1, [[]]),
        ("auto", ["0", "1"], 1, [["0"], ["1"]]),
        ("cuda", ["3"], 1, [["3"]]),
        ("auto", ["0", "1", "2", "3"], 2, [["0", "1"], ["2", "3"]]),
        ("auto", ["0", "1", "2"], 2, [["0", "1"]]),
        ("auto", [], 2, [[]]),
    ],
)
def test_devices_are_dealt_out_in_groups(device, gpus, per_worker, groups):
    assert device_groups(device, gpus, per_worker) == groups


@pytest.mark.parametrize(("device", "gpus", "per_worker"), [("cuda", [], 1), ("auto", ["0"], 2)])
def test_too_few_gpus_are_refused_in_one_sentence(device, gpus, per_worker):
    with pytest.raises(UsageError, match=f"{len(gpus)} GPUs are visible, {per_worker} are needed"):
        device_groups(device, gpus, per_worker)


@pytest.mark.parametrize(
    ("chosen", "gpus"),
    [("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-a, GPU-b", ["GPU-a", "GPU-b"])],
)
def test_the_environment_chooses_the_gpus(monkeypatch, chosen, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == gpus


def test_otherwise_nvidia_smi_lists_them(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(
        launcher.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="0\n1\n")
    )
    assert visible_gpus() == ["0", "1"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.TimeoutExpired("nvidia-smi", 20)]
)
def test_a_host_without_nvidia_smi_has_no_gpus(monkeypatch, error):
    def fails(*_, **__):
        raise error

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(launcher.subprocess, "run", fails)
    assert visible_gpus() == []


def test_each_process_has_its_own_gpus_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")

    processes = children(
        Settings(redis_url="redis://host/0", lease_s=9, gpus_per_worker=2), "org/model"
    )

    assert [child.env["CUDA_VISIBLE_DEVICES"] for child in processes] == ["4,5", "6,7"]
    assert [child.name for child in processes] == ["worker cuda4+5", "worker cuda6+7"]
    assert processes[0].command[-4:] == ["--model", "org/model", "--device-name", "cuda4+5"]
    assert processes[0].env["RERANK_LEASE_S"] == "9.0"


def test_a_process_on_the_cpu_has_none_visible(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")

    (child,) = children(Settings(device="cpu"), "m")

    assert child.env["CUDA_VISIBLE_DEVICES"] == ""
    assert child.name == "worker cpu"


@pytest.mark.parametrize(
    ("profile", "environment", "pairs"),
    [
        (None, {}, 1024),
        ("academic", {"batch_policy": "fixed"}, 4),
        ("academic", {"batch_policy": "thresholds"}, 4),
        ("academic", {}, 1024),  # this policy steers tokens
        ("default", {"batch_policy": "fixed"}, 1024),
        ("academic", {"batch_policy": "fixed", "batch_pairs": 9}, 9),
    ],
)
def test_a_profile_says_how_many_pairs_a_pack_starts_with_unless_that_was_set(
    profile, environment, pairs
):
    assert starting_at(profile, Settings(**environment)).batch_pairs == pairs


def test_a_worker_refuses_a_profile_that_there_is_not():
    with pytest.raises(UsageError, match="no profile 'shop'"):
        starting_at("shop", Settings(batch_pairs=9))
