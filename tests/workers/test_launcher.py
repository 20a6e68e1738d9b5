"""One process per device, pinned before anything loads CUDA."""

from __future__ import annotations

import os
import subprocess

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.processes import REFUSED
from rerankfleet.shared.settings import Settings
from rerankfleet.workers.cli import starting_at
from rerankfleet.workers.launcher import children, device_groups
from tests.support.wait import patient


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


def test_parts_of_gpus_are_not_joined():
    with pytest.raises(UsageError, match=r"parts of GPUs \(MIG\) cannot be joined"):
        device_groups("auto", ["MIG-a", "MIG-b"], 2)


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
    assert child.env["RERANK_DEVICE"] == "cpu"
    assert child.name == "worker cpu"


def test_a_process_that_is_pinned_to_a_gpu_uses_no_other_device(monkeypatch):
    """Given `auto`, which in the process would mean the CPU where CUDA cannot start."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    (child,) = children(Settings(device="auto"), "m")
    assert child.env["RERANK_DEVICE"] == "cuda"
    assert "CUDA_DEVICE_ORDER" not in child.env  # the numbers are whoever set them's


def test_numbers_that_nvidia_smi_gave_mean_the_same_to_cuda(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("rerankfleet.workers.launcher.visible_gpus", lambda: ["0", "1"])
    assert {c.env["CUDA_DEVICE_ORDER"] for c in children(Settings(), "m")} == {"PCI_BUS_ID"}


def test_processes_of_parts_have_short_names(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-11111111-2222,MIG-33333333-4444")
    names = [child.name for child in children(Settings(), "m")]
    assert names == ["worker cudaMIG-11111111", "worker cudaMIG-33333333"]


@pytest.mark.slow
def test_a_worker_that_cannot_use_its_gpu_says_so_once(settings, monkeypatch):
    """Given a torch that finds no device where the launcher found one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (child,) = children(settings, "pocket-text")
    run = subprocess.run(
        child.command,
        env={**os.environ, **child.env},
        capture_output=True,
        text=True,
        timeout=patient(60),
    )
    assert run.returncode == REFUSED
    (sentence,) = [line for line in run.stderr.splitlines() if line.startswith("rerank worker:")]
    assert "no GPU can be used" in sentence


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
