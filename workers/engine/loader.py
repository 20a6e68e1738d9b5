"""A checkpoint's weights, tensor by tensor, straight into an empty model on its devices.

The host holds one file's pages at a time, whatever the size of the model. Adapters are merged and
FP8 weights widened on the way, on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3VLForConditionalGeneration,
)

from rerankfleet.shared.errors import ModelRefused, OutOfDeviceMemory
from rerankfleet.workers.engine.checkpoint import Checkpoint
from rerankfleet.workers.engine.device_map import DeviceOf
from rerankfleet.workers.engine.failures import first_line
from rerankfleet.workers.engine.stored import StoredTensor
from rerankfleet.workers.engine.weights import text_model

_CLASSES: dict[str, Any] = {
    one.__name__: one
    for one in (Qwen3ForCausalLM, Qwen3VLForConditionalGeneration, Qwen3ForSequenceClassification)
}
#: What follows a weight's name in the name of its scales, by format: of blocks, and of rows or all.
_SCALES = ("_scale_inv", "_scale")
_BLOCK = (128, 128)


def empty_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model of a checkpoint without weights: parameters on torch's device `meta`, tables of
    positions in memory.

    Raises ModelRefused where config and weights contradict each other.
    """
    cls = _CLASSES[checkpoint.architecture]
    try:
        config = cls.config_class.from_pretrained(checkpoint.base, attn_implementation="sdpa")
        if checkpoint.labels:
            config.num_labels = checkpoint.labels
        with _parameters_on_meta(dtype):
            model = cls(config)
    except Exception as error:
        raise ModelRefused(
            f"the weights in {checkpoint.base} cannot be loaded: its config.json is wrong: "
            f"{first_line(error)}",
            hint="download or save the model again",
        ) from error
    _compare_shapes(checkpoint, model)
    return model.requires_grad_(False).eval()


def fill(model: Any, checkpoint: Checkpoint, device_of: DeviceOf) -> None:
    """Read all weights into an empty model, each in its number type on its device."""
    try:
        for names in _names_by_file(model, checkpoint):
            with _Reader(checkpoint) as reader:  # and with it the pages of one file
                for name, dtype in names.items():
                    _set(model, name, reader.weight(name, device_of(name), dtype))
    except (OSError, SafetensorError) as error:
        raise ModelRefused(
            f"the weights in {checkpoint.base} cannot be loaded: {first_line(error)}",
            hint="download the model again",
        ) from error
    if _ties(model, checkpoint):
        model.lm_head.weight = text_model(model).embed_tokens.weight
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device_of(""))


def _names_by_file(model: Any, checkpoint: Checkpoint) -> list[dict[str, torch.dtype]]:
    """The parameters that are stored, with their number types: file by file."""
    stored = checkpoint.weights()
    files: dict[Path, dict[str, torch.dtype]] = {}
    for name, parameter in model.named_parameters():
        if name in stored:
            files.setdefault(stored[name].file, {})[name] = parameter.dtype
    return list(files.values())


def bytes_by_device(model: Any, device_of: DeviceOf) -> dict[torch.device, int]:
    """How much memory the weights take on each device."""
    needs: dict[torch.device, int] = {}
    for name, parameter in model.named_parameters():
        device = device_of(name)
        needs[device] = needs.get(device, 0) + parameter.numel() * parameter.element_size()
    return needs


def check_room(model: str, needs: dict[torch.device, int]) -> None:
    """Whether the weights fit into their GPUs, before any is read.

    Raises ModelRefused for a GPU that is too small, and OutOfDeviceMemory where another process
    has taken what is needed.
    """
    for device, need in needs.items():
        if device.type != "cuda":
            continue
        free, total = torch.cuda.mem_get_info(device)
        if need > total:
            raise ModelRefused(
                f"the weights of {model} take {need / 2**30:.1f} GiB on {device}, which has "
                f"{total / 2**30:.1f}",
                hint="split the model over several GPUs with RERANK_GPUS_PER_WORKER",
            )
        if need > free:
            raise OutOfDeviceMemory(
                f"the weights of {model} take {need / 2**30:.1f} GiB; of the {total / 2**30:.1f} "
                f"of {device} other processes leave {free / 2**30:.1f}",
                hint="end what else uses this GPU (nvidia-smi lists it); the worker tries again",
            )


class _Reader:
    """Reads tensors; each file is opened once, until the end of a `with` block."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._stack = ExitStack()
        self._files: dict[Path, Any] = {}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.clear()
        self._stack.close()

    def tensor(self, stored: StoredTensor, name: str) -> Tensor:
        """A tensor as it is stored: a view of the file's pages."""
        if stored.file not in self._files:
            opened = safe_open(stored.file, framework="pt", device="cpu")
            self._files[stored.file] = self._stack.enter_context(opened)
        value: Tensor = self._files[stored.file].get_tensor(name)
        return value

    def weight(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """A weight as it is computed with: on its device, widened from FP8, with its adapter."""
        adapter = self._checkpoint.adapter
        stored = self._checkpoint.weights()[name]
        delta = adapter.deltas.get(name) if adapter else None
        value = self.tensor(stored, adapter.names.get(name, name) if adapter else name)
        if not stored.is_fp8 and delta is None:
            return value.to(device, dtype, copy=True)
        wide = value.to(device).float()
        if stored.is_fp8:
            wide = wide * self._scale(name, wide)
        if adapter and delta:
            a, b = (
                self.tensor(adapter.tensors[one], one).to(device).float()
                for one in (delta.a, delta.b)
            )
            wide = wide + delta.scale * (b @ a)
        return wide.to(dtype)

    def _scale(self, name: str, weight: Tensor) -> Tensor:
        """The scale of each element, or of all; 1 where none is stored."""
        for suffix in _SCALES:
            if scale_name := self._checkpoint.tensors.get(name + suffix):
                scale = self.tensor(scale_name, name + suffix).to(weight.device).float()
                return _spread(scale, weight, self._block)
        return weight.new_ones(())

    @property
    def _block(self) -> tuple[int, int]:
        rows, columns = (self._checkpoint.config.get("quantization_config") or {}).get(
            "weight_block_size"
        ) or _BLOCK
        return int(rows), int(columns)


def _spread(scale: Tensor, weight: Tensor, block: tuple[int, int]) -> Tensor:
    """Scales of all, of rows, or of blocks, so that they multiply a weight."""
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() == weight.shape[0]:
        return scale.reshape(-1, 1)
    for axis, size in enumerate(block):
        scale = scale.repeat_interleave(size, axis)
    return scale[: weight.shape[0], : weight.shape[1]]


@contextmanager
def _parameters_on_meta(dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made now have parameters without memory. Their tables of positions are real,
    and in fp32: half types would move positions."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.detach().to("meta", dtype), requires_grad=False)
        register(module, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _compare_shapes(checkpoint: Checkpoint, model: Any) -> None:
    adapter = checkpoint.adapter
    known = checkpoint.weights()
    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if _ties(model, checkpoint):
        expected.pop("lm_head.weight", None)
    absent = sorted(expected.keys() - known.keys())
    other = sorted(n for n, shape in expected.items() if n in known and known[n].shape != shape)
    if absent or other:
        first = absent[0] if absent else f"{other[0]} is {known[other[0]].shape}"
        raise ModelRefused(
            f"the weights in {checkpoint.base} do not fit its config.json: {len(absent)} missing, "
            f"{len(other)} of another shape ({first})",
            hint="download or save the model again",
        )
    for name in sorted(adapter.changes() - expected.items()) if adapter else ():
        raise ModelRefused(
            f"the adapter {checkpoint.folder} changes {name[0]} of {name[1]}, which its base "
            f"{checkpoint.base} does not have",
            hint="name the base that it was trained on",
        )


def _ties(model: Any, checkpoint: Checkpoint) -> bool:
    """Whether the head is the embedding."""
    text = checkpoint.config.get("text_config", {})
    config = checkpoint.config
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return bool(tied) and hasattr(model, "lm_head")


def _set(model: Any, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    model.get_submodule(path)._parameters[leaf] = nn.Parameter(value, requires_grad=False)
