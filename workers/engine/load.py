"""Folder or hub name -> Engine."""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.engine.attention import AMPERE, GATHERING, choose_attention
from rerankfleet.workers.engine.checkpoint import Checkpoint, read_checkpoint
from rerankfleet.workers.engine.decoder import Decoder
from rerankfleet.workers.engine.device_map import place
from rerankfleet.workers.engine.engine import Engine
from rerankfleet.workers.engine.failures import first_line
from rerankfleet.workers.engine.loader import bytes_by_device, check_room, empty_model, fill
from rerankfleet.workers.engine.locate import resolve_model, revision_of
from rerankfleet.workers.engine.memory import cache_bytes
from rerankfleet.workers.engine.reference import Reference, take_reference
from rerankfleet.workers.engine.self_test import self_test_prompts
from rerankfleet.workers.engine.vision import Tower
from rerankfleet.workers.prompting.prompts import Prompter
from rerankfleet.workers.prompting.templates import prompter_of

log = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(
    model: str,
    *,
    dtype: str = "auto",
    attention: str = "auto",
    revision: str | None = None,
    device: str = "auto",
    deterministic: bool = False,
    kept_bytes: int | None = None,
    seen_bytes: int | None = None,
    threads: int | None = None,
    gpus: int = 1,
) -> Engine:
    """Load a Qwen3 reranker from a folder or the hub.

    dtype          auto (CPU: fp32; CUDA: bf16, before Ampere fp16), bf16, fp16 or fp32
    attention      auto, or a kernel's name: see `rerankfleet.workers.engine.attention`
    device         auto (CUDA if available), cpu, cuda or cuda:N
    deterministic  a pair has the same bits in any pack; costs speed
    kept_bytes     size of the prefix cache: keys and values of instructions and of image queries
    seen_bytes     size of the cache of visual features; None, both: see `memory.cache_bytes`
    threads        CPU threads of a forward pass; None: torch's own choice
    gpus           how many GPUs, from `device` on, the layers are placed on: for large models

    Raises UnknownModel when there is no such model, ModelRefused when it is not a reranker.
    """
    folder = resolve_model(model, revision)
    checkpoint = read_checkpoint(folder)
    if threads is not None:
        torch.set_num_threads(threads)
    places = _devices(device, gpus)
    number_type = _dtype(dtype, places[0])
    name, factory = choose_attention(attention, places[0], number_type)
    prompter = prompter_of(checkpoint.tokenizer_folder, checkpoint.config)
    loaded = _load_weights(checkpoint, places, number_type)
    decoder, tower, reference = _take_apart(loaded, prompter, checkpoint)
    del loaded
    kept, seen = cache_bytes(decoder, supports_images=tower is not None)
    return Engine(
        decoder,
        prompter,
        Provenance(
            model=model,
            revision=revision_of(folder, revision),
            template=prompter.template,
            dtype=_name(number_type),
            attention=name,
            device=_device_name(places),
            version=_version(),
        ),
        _fingerprint(checkpoint, prompter.template, number_type),
        factory,
        gathers=name in GATHERING,
        tower=tower,
        kept_bytes=kept if kept_bytes is None else kept_bytes,
        seen_bytes=seen if seen_bytes is None else seen_bytes,
        deterministic=deterministic,
        device_name=_device_name(places),
        reference=reference,
    )


def _load_weights(
    checkpoint: Checkpoint, places: Sequence[torch.device], dtype: torch.dtype
) -> Any:
    """The transformers model on its devices, complete."""
    model = empty_model(checkpoint, dtype)
    device_of = place(model, places)
    check_room(checkpoint.folder.name, bytes_by_device(model, device_of))
    if checkpoint.has_fp8:
        log.warning("the FP8 weights of %s are computed in %s", checkpoint.folder, _name(dtype))
    fill(model, checkpoint, device_of)
    return model


def _take_apart(
    model: Any, prompter: Prompter, checkpoint: Checkpoint
) -> tuple[Decoder, Tower | None, Reference]:
    """The decoder and the vision tower of a loaded model, and the self-test's reference, which
    needs the unmodified model."""
    answers = checkpoint.answers(prompter.yes_id, prompter.no_id)
    reference = take_reference(model, self_test_prompts(prompter), *answers)
    if not all(map(math.isfinite, reference.margins)):
        raise _not_finite(model)
    return Decoder(model, *answers), _tower(model), reference


def _not_finite(model: Any) -> ModelRefused:
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            return ModelRefused(
                f"the weights hold values that are no numbers, in {name}",
                hint="download the model again; if it was trained so, no number type helps",
            )
    return ModelRefused(
        f"the model's margins are no numbers in {_name(next(model.parameters()).dtype)}",
        hint="use RERANK_DTYPE=bf16 or fp32, whose numbers are larger",
    )


def _tower(model: Any) -> Tower | None:
    visual = getattr(model.model, "visual", None)
    try:
        return None if visual is None else Tower(visual)
    except ValueError as error:
        raise ModelRefused(
            f"the model has {error}, which is not supported", hint="use a Qwen3-VL reranker"
        ) from error


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ModelRefused(
            f"no GPU can be used: {_why_no_cuda()}",
            hint="install a driver and a torch build that fit each other, or set RERANK_DEVICE=cpu",
        )
    return place


def _why_no_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except Exception as error:  # among others: the driver is older than the build
        return first_line(error).split(". ")[0]
    return f"torch {torch.__version__} sees none"


def _devices(device: str, gpus: int) -> list[torch.device]:
    """One device, or all GPUs that the model is placed on."""
    first = _device(device)
    if first.type != "cuda" or gpus == 1:
        return [first]
    at, visible = first.index or 0, torch.cuda.device_count()
    if at + gpus > visible:
        raise ModelRefused(
            f"the model needs {gpus} GPUs from cuda:{at} on, torch sees {visible}",
            hint="check RERANK_GPUS_PER_WORKER and CUDA_VISIBLE_DEVICES",
        )
    return [torch.device("cuda", at + number) for number in range(gpus)]


def _dtype(dtype: str, place: torch.device) -> torch.dtype:
    if dtype == "auto":
        if place.type != "cuda":
            return torch.float32
        return (
            torch.bfloat16 if torch.cuda.get_device_capability(place) >= AMPERE else torch.float16
        )
    if dtype not in DTYPES:
        raise ModelRefused(f"dtype {dtype!r} is unknown", hint="auto, bf16, fp16 or fp32")
    return DTYPES[dtype]


def _name(dtype: torch.dtype) -> str:
    return next(name for name, value in DTYPES.items() if value == dtype)


def _fingerprint(checkpoint: Checkpoint, template: str, dtype: torch.dtype) -> str:
    """Short hash of all that margins depend on besides the pair."""
    parts = (checkpoint.identity(), template, _name(dtype))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _device_name(places: Sequence[torch.device]) -> str:
    if places[0].type == "cuda":
        name = torch.cuda.get_device_name(places[0])
        return f"{len(places)} x {name}" if len(places) > 1 else name
    return f"cpu ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)"


def _version() -> str:
    try:
        return version("rerankfleet")
    except PackageNotFoundError:
        return "0"
