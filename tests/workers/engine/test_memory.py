"""Free memory of the system and of the container."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rerankfleet.workers.engine import memory
from tests.support.wait import patient

CPU = torch.device("cpu")
SYSTEM = "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 4000 kB free, whose container files a test may write."""
    (tmp_path / "meminfo").write_text(SYSTEM)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)

    def container(limit: str, used: int = 1_000_000, cached: int = 500_000) -> None:
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")

    return container


def test_without_a_container_the_system_counts(system):
    assert memory.free_bytes(CPU) == 4000 * 1024


def test_a_container_without_limit_does_not_count(system):
    system("max")
    assert memory.free_bytes(CPU) == 4000 * 1024


def test_a_tighter_container_counts(system):
    system("2000000")
    assert memory.free_bytes(CPU) == 1_500_000


def test_a_container_over_its_limit_has_nothing_free(system):
    system("100", used=5_000_000)
    assert memory.free_bytes(CPU) == 0


def test_a_system_without_figures_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert memory.free_bytes(CPU) is None


def test_on_a_cpu_the_resident_memory_counts():
    before = memory.peak_bytes([CPU])
    ballast = bytearray(b"x") * (64 << 20)

    assert memory.peak_bytes([CPU]) - before > len(ballast) / 2
    assert memory.total_bytes([CPU]) == 0


def test_an_unknown_resident_memory_is_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_STATM", tmp_path / "none")
    assert memory.peak_bytes([CPU]) == 0


def test_of_several_gpus_the_fullest_is_reported(monkeypatch):
    gpus = [torch.device("cuda", number) for number in range(2)]
    free = {gpus[0]: 900, gpus[1]: 300}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device], 1000))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * (1 + device.index))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 100 * (1 + device.index))

    fullest = memory.gpu_bytes(gpus)

    assert fullest == {"used": 20, "reserved": 200, "free": 300, "total": 1000}
    assert memory.gpu_bytes([CPU]) == {}


class Kept:
    """A VL-8B in bf16 on these devices."""

    state_bytes_per_token = 147_456

    def __init__(self, *devices: torch.device) -> None:
        self.devices = devices


@pytest.mark.parametrize(
    ("free_gib", "total_gib", "least"),
    [(120, 140, 2), (6, 24, 2), (50, 80, 2)],
)
def test_the_cache_of_prefixes_holds_two_of_the_largest_image_queries(
    free_gib, total_gib, least, monkeypatch
):
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda device: (free_gib << 30, total_gib << 30)
    )
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: (total_gib - free_gib) << 30)
    largest = memory.IMAGE_QUERY_TOKENS * Kept.state_bytes_per_token

    kept, seen = memory.cache_bytes(Kept(torch.device("cuda", 0)), supports_images=True)

    assert kept >= least * largest
    assert seen >= memory.SEEN_BYTES
    assert kept + seen <= (free_gib << 30) / 4


def test_caches_leave_room_on_a_card_that_the_weights_fill(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 24 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 22 << 30)
    kept, seen = memory.cache_bytes(Kept(torch.device("cuda", 0)), supports_images=True)
    assert kept + seen <= 1 << 28


def test_on_a_cpu_the_caches_are_small():
    assert memory.cache_bytes(Kept(CPU), supports_images=False) == (256 << 20, 512 << 20)


SHAPES = """
import psutil
from rerankfleet import Reranker

reranker = Reranker("pocket-text", engine={"threads": 1})

def score(lengths):
    for words in lengths:
        list(reranker.results({"query": "what", "documents": ["word " * words]}))
    return psutil.Process().memory_info().rss

print(-score(range(100, 110)) + score(range(110, 360)))
"""


@pytest.mark.slow
def test_packs_of_ever_new_lengths_take_no_more_memory():
    """Given a process that scores packs of 250 different lengths, for each of which a CPU's kernels
    are compiled anew."""
    command = [sys.executable, "-c", SHAPES]
    process = subprocess.run(command, capture_output=True, text=True, timeout=patient(300))
    assert process.returncode == 0, process.stderr
    grown_bytes = int(process.stdout.splitlines()[-1])
    assert grown_bytes < 100 << 20
