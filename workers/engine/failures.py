"""Failures of a device, told apart: memory that is not enough, a device that is lost, and all
others. Libraries raise them under many names; their texts are what they have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rerankfleet.shared.errors import DeviceBroken, ModelRefused, OutOfDeviceMemory, RerankError

_NO_MEMORY = (
    "out of memory",  # torch's allocator, cudaMalloc, Triton, cuBLAS by way of CUDA
    "can't allocate memory",  # torch's allocator on a CPU
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",  # cublasCreate, where no memory is left for its workspace
    "cudnn_status_alloc_failed",
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
)
_LOST = (
    "fallen off the bus",
    "gpu is lost",
    "no cuda-capable device",
    "busy or unavailable",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
    "device-side assert",
    "uncorrectable ecc",
    "hardware stack error",
    "cuda error: unknown error",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this, or what caused it, says that the device's memory was not enough."""
    return any(isinstance(e, MemoryError) or _says(e, _NO_MEMORY) for e in _causes(error))


def is_lost(error: BaseException) -> bool:
    """Whether the process can use its device no more: all that follows fails too."""
    return any(_says(e, _LOST) for e in _causes(error))


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever stops the loading or testing of a model, as one sentence.

    Raises OutOfDeviceMemory and DeviceBroken, which a later start may be spared, and ModelRefused
    for all else: it would only repeat.
    """
    try:
        yield
    except RerankError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfDeviceMemory(
                f"{what}: the device has too little free memory",
                hint="end what else uses it, use a smaller model, or split it over several GPUs "
                "with RERANK_GPUS_PER_WORKER",
            ) from error
        if is_lost(error):
            raise DeviceBroken(
                f"{what}: the device does not work ({first_line(error)})",
                hint="look at nvidia-smi and the kernel's log; it may need a reset",
            ) from error
        raise ModelRefused(
            f"{what} failed: {type(error).__name__}: {first_line(error)}",
            hint="try another RERANK_ATTENTION or RERANK_DTYPE, and please report it",
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text: what follows in torch's are hints for developers."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    text = f"{type(error).__name__} {error}".lower()
    return any(phrase in text for phrase in phrases)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from: compilers wrap those of the device."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
