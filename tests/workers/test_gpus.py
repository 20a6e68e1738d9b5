"""Which GPUs there are, however a machine names them, and what is said where that is not known."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from rerankfleet.shared.errors import UsageError
from rerankfleet.workers import gpus
from rerankfleet.workers.gpus import short_names, visible_gpus

CARDS = """\
GPU 0: NVIDIA H200 (UUID: GPU-5a8e1f20-0000-1111-2222-333344445555)
GPU 1: NVIDIA H200 (UUID: GPU-6b9f2031-0000-1111-2222-333344445555)
"""
PARTS = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6)
  MIG 3g.20gb     Device  0: (UUID: MIG-69cb5e2a-1)
  MIG 3g.20gb     Device  1: (UUID: MIG-7ad2c01f-2)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-c2e9f001)
  MIG 7g.40gb     Device  0: (UUID: MIG-GPU-c2e9f001/7/0)
"""


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose nvidia-smi answers or fails so, with this many device files."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "_DEV", tmp_path)

    def make(answer, *, devices: int = 0) -> None:
        for number in range(devices):
            (tmp_path / f"nvidia{number}").touch()
        (tmp_path / "nvidiactl").touch()

        def run(*_, **__):
            if isinstance(answer, Exception):
                raise answer
            code, out = answer
            return SimpleNamespace(returncode=code, stdout=out, stderr="")

        monkeypatch.setattr(gpus.subprocess, "run", run)

    return make


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ("0,2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # CUDA reads up to the first name that is none
        ("NoDevFiles", []),
        ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
        ("MIG-GPU-a/1/0,MIG-b", ["MIG-GPU-a/1/0", "MIG-b"]),
    ],
)
def test_the_environment_chooses_the_gpus(monkeypatch, chosen, names):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == names


def test_two_workers_on_one_card_are_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,0")
    with pytest.raises(UsageError, match="names 0 twice"):
        visible_gpus()


@pytest.mark.parametrize(
    ("listing", "names"),
    [
        (CARDS, ["0", "1"]),
        (PARTS, ["MIG-69cb5e2a-1", "MIG-7ad2c01f-2", "1", "MIG-GPU-c2e9f001/7/0"]),
        ("", []),
    ],
)
def test_otherwise_nvidia_smi_lists_cards_and_parts(machine, listing, names):
    machine((0, listing))
    assert visible_gpus() == names


def test_without_nvidia_smi_device_files_are_counted(machine, capsys):
    machine(FileNotFoundError(), devices=2)
    assert visible_gpus() == ["0", "1"]
    assert "nvidia-smi is not there" in capsys.readouterr().err


def test_a_machine_without_any_sign_of_a_gpu_has_none(machine, capsys):
    machine(FileNotFoundError())
    assert visible_gpus() == []
    assert capsys.readouterr().err == ""


def test_a_driver_that_hangs_is_told(machine):
    machine(subprocess.TimeoutExpired("nvidia-smi", 20), devices=1)
    with pytest.raises(UsageError, match="did not answer within 20 s"):
        visible_gpus()


def test_a_driver_that_fails_is_told_in_its_words(machine):
    machine((18, "Failed to initialize NVML: Driver/library version mismatch\n"), devices=1)
    with pytest.raises(UsageError, match="Driver/library version mismatch"):
        visible_gpus()


def test_a_tool_without_a_driver_is_told_and_is_no_gpu(machine, capsys):
    machine((9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver\n"))
    assert visible_gpus() == []
    assert "no GPU is used" in capsys.readouterr().err


def test_names_for_people_are_short_where_that_tells_them_apart():
    assert short_names(["0", "1"]) == ["0", "1"]
    assert short_names(["GPU-5a8e1f20-11", "GPU-6b9f2031-11"]) == ["GPU-5a8e1f20", "GPU-6b9f2031"]
    long = ["MIG-GPU-c2e9f001/7/0", "MIG-GPU-c2e9f001/8/0"]
    assert short_names(long) == long
