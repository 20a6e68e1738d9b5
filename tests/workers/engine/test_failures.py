"""Whatever a device does wrong is one sentence, and of the right kind."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rerankfleet.shared.errors import (
    DeviceBroken,
    ModelRefused,
    OutOfDeviceMemory,
    UnknownModel,
)
from rerankfleet.workers.engine import elementwise, load_engine
from rerankfleet.workers.engine.failures import is_lost, is_out_of_memory, told
from rerankfleet.workers.engine.load import _dtype

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("cudaMalloc failed: cudaErrorMemoryAllocation"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]
OTHERS = [
    RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    TypeError("varlen_attn() got an unexpected keyword argument 'num_splits'"),
    RuntimeError("CUDA error: no kernel image is available for execution on the device"),
]
LOST = [
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    RuntimeError("Unable to determine the device handle for GPU0: GPU is lost."),
]


def raised_by_a_compiler(error: Exception) -> Exception:
    try:
        raise RuntimeError("backend='inductor' raised") from error
    except RuntimeError as wrapped:
        return wrapped


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_memory_that_is_not_enough_is_known_in_all_its_forms(error):
    assert is_out_of_memory(error)
    assert is_out_of_memory(raised_by_a_compiler(error))
    with pytest.raises(OutOfDeviceMemory, match="too little free memory"), told("loading m"):
        raise error


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_what_a_restart_would_only_repeat_is_refused(error):
    assert not is_out_of_memory(error)
    assert not is_lost(error)
    with (
        pytest.raises(ModelRefused, match="the self-test failed: ") as caught,
        told("the self-test"),
    ):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_device_that_is_lost_is_not_the_models_fault(error):
    with pytest.raises(DeviceBroken, match="the device does not work"), told("the self-test"):
        raise error


def test_an_error_that_has_its_sentence_keeps_it():
    with pytest.raises(UnknownModel, match="no such model"), told("loading m"):
        raise UnknownModel("no such model")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OTHERS[2], ModelRefused), (NO_MEMORY[2], OutOfDeviceMemory), (LOST[0], DeviceBroken)],
)
def test_a_self_test_that_raises_is_one_sentence(error, kind, model_folders, monkeypatch):
    engine = load_engine(str(model_folders["tied"]))

    def fail(*_):
        raise error

    monkeypatch.setattr(engine.decoder, "margins", fail)
    with pytest.raises(kind) as caught:
        engine.self_test()
    assert "\n" not in str(caught.value)


def test_a_load_that_raises_is_one_sentence(model_folders, monkeypatch):
    from rerankfleet.workers.engine import load

    def fail(*_):
        raise RuntimeError("CUDA error: no kernel image is available\nCompile with `TORCH_USE_`")

    monkeypatch.setattr(load, "Decoder", fail)
    with pytest.raises(ModelRefused, match="no kernel image is available: try") as caught:
        load_engine(str(model_folders["tied"]))
    assert "\n" not in str(caught.value)


# ---- compiled operations ------------------------------------------------------------------------


def test_without_a_compiler_the_operations_run_uncompiled_with_a_warning(monkeypatch, caplog):
    monkeypatch.setattr(elementwise, "has_compiler", lambda: False)
    half = elementwise.elementwise(torch.bfloat16, torch.device("cuda"))
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert torch.equal(half.gate(x), elementwise._half_gate(x))
    assert "no C compiler" in caplog.text
    assert "gcc" in caplog.text


def test_a_compiler_that_fails_is_passed_over_with_its_words(monkeypatch, caplog):
    """Given a compiler that is there, and a library that it cannot link."""

    def broken(function, **_):
        def call(*_):
            raise RuntimeError("ld: cannot find -lcuda\nmore")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(elementwise, "has_compiler", lambda: True)
    half = elementwise._compiled(torch.bfloat16, torch.device("cpu"))
    x = torch.randn(3, 8, dtype=torch.bfloat16)
    assert torch.equal(half.gate(x), elementwise._half_gate(x))
    assert "cannot find -lcuda" in caplog.text


# ---- what is chosen for a card ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_the_number_type_suits_the_card(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: capability)
    assert _dtype("auto", torch.device("cuda")) == dtype
    assert _dtype("bf16", torch.device("cuda")) == torch.bfloat16


def test_a_driver_that_is_too_old_is_told(model_folders, monkeypatch):
    def too_old():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your "
            "GPU driver by downloading and installing a new version from the URL: http://"
        )

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(ModelRefused, match=r"driver on your system is too old \(found version"):
        load_engine(str(model_folders["tied"]), device="cuda")


PROBE = """
import os, sys, types
import rerankfleet.workers.engine as engine
seen = types.ModuleType("load")
def load(model):
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_COMPILE_THREADS")
    return [os.environ.get(name, "-") for name in names] + ["torch" in sys.modules]
seen.load = load
sys.modules["rerankfleet.workers.engine.load"] = seen
print(*engine.load_engine("m"))
"""


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ({}, "expandable_segments:True - 1 False"),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"},
            "- backend:cudaMallocAsync 1 False",
        ),
        ({"TORCHINDUCTOR_COMPILE_THREADS": "4"}, "expandable_segments:True - 4 False"),
    ],
)
def test_the_allocator_is_set_up_before_torch_is_there(own, seen, monkeypatch):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert run.stdout.strip() == seen, run.stderr
