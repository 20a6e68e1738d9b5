"""A LoRA adapter (a folder of peft): which weights of its base it changes. Without torch.

It is merged while the base loads: W + scale · B · A, computed in fp32 and rounded once.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.engine.stored import StoredTensor, read_header

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_SAVED = re.compile(r"\.modules_to_save(?:\.default)?\.|\.original_module\.")


@dataclass(frozen=True, slots=True)
class Delta:
    """The change of one weight: scale · b · a."""

    a: str
    """the name of its tensor [rank, inputs]"""
    b: str
    """[outputs, rank]"""
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """What changes, by the names of the base's weights."""

    base: str
    base_revision: str | None
    tensors: dict[str, StoredTensor]
    deltas: dict[str, Delta]
    replaced: dict[str, StoredTensor]
    """weights that were trained as a whole"""
    names: dict[str, str]
    """the tensors of those"""

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """The adapter in a folder; raises ModelRefused, with the command that merges it, for kinds
        that are not merged here."""
        try:
            config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise ModelRefused(
                f"{folder}/{ADAPTER_CONFIG} cannot be read: {error}", hint="save the adapter again"
            ) from error
        path = folder / ADAPTER_WEIGHTS
        if not path.is_file():
            raise ModelRefused(
                f"the adapter {folder} has no {ADAPTER_WEIGHTS}",
                hint="save it as safetensors; pickles are not loaded",
            )
        tensors = read_header(path)
        if reason := _cannot_merge(config, tensors):
            raise ModelRefused(
                f"the adapter {folder} {reason}, which is not merged here",
                hint=f"merge it once: {merge_command(folder)}",
            )
        base = config.get("base_model_name_or_path")
        if not base:
            raise ModelRefused(
                f"the adapter {folder} does not name its base",
                hint="write its place into base_model_name_or_path",
            )
        deltas, names = _sorted_out(config, tensors)
        replaced = {name: tensors[tensor] for name, tensor in names.items()}
        return cls(str(base), config.get("revision"), tensors, deltas, replaced, names)

    def changes(self) -> set[tuple[str, tuple[int, ...]]]:
        """The names and shapes of all weights that it changes."""
        shapes = {
            name: (self.tensors[delta.b].shape[0], self.tensors[delta.a].shape[-1])
            for name, delta in self.deltas.items()
        }
        return {*shapes.items(), *((name, one.shape) for name, one in self.replaced.items())}


def merge_command(folder: Path) -> str:
    """What merges any adapter, by peft itself."""
    return (
        'python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{folder}-merged')\""
    )


def _cannot_merge(config: dict[str, Any], tensors: dict[str, StoredTensor]) -> str:
    if (kind := config.get("peft_type")) != "LORA":
        return f"is of type {kind}"
    for name, used in (
        ("use_dora", bool(config.get("use_dora"))),
        ("fan_in_fan_out", bool(config.get("fan_in_fan_out"))),
        ("bias", config.get("bias", "none") != "none"),
        ("lora_bias", bool(config.get("lora_bias"))),
        ("embedding layers", any("lora_embedding" in name for name in tensors)),
        ("magnitudes", any("magnitude" in name for name in tensors)),
    ):
        if used:
            return f"has {name}"
    return ""


def _sorted_out(
    config: dict[str, Any], tensors: dict[str, StoredTensor]
) -> tuple[dict[str, Delta], dict[str, str]]:
    """The deltas by weight, and the tensors of the weights that are replaced."""
    halves: dict[str, dict[str, str]] = {}
    replaced: dict[str, str] = {}
    for tensor in tensors:
        name = tensor.removeprefix("base_model.model.")
        if lora := _LORA.fullmatch(name):
            halves.setdefault(lora[1], {})[lora[2]] = tensor
        else:
            replaced[_SAVED.sub(".", name)] = tensor
    deltas = {
        f"{module}.weight": Delta(pair["A"], pair["B"], _scale(config, module))
        for module, pair in halves.items()
        if len(pair) == 2
    }
    return deltas, replaced


def _scale(config: dict[str, Any], module: str) -> float:
    rank = _of_module(config.get("rank_pattern"), module, config.get("r", 8))
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(pattern: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that ends the module's name."""
    for key, value in (pattern or {}).items():
        if re.fullmatch(rf"(.*\.)?({key})", module):
            return value
    return default
