"""A model's files, before any weight is read: its config, where each tensor is, what it needs.

What cannot be served is refused here, in one sentence, by names and shapes alone. Without torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankfleet.shared.errors import ModelRefused, UnknownModel
from rerankfleet.workers.engine.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Adapter
from rerankfleet.workers.engine.locate import resolve_model, weights_identity
from rerankfleet.workers.engine.stored import StoredTensor, read_header

CLASSIFIER = "Qwen3ForSequenceClassification"
ARCHITECTURES = {"Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration", CLASSIFIER}
#: Kinds of rotary embedding whose frequencies do not depend on a prompt's length.
_ROPE_TYPES = {"default", "linear", "llama3", "proportional", "yarn"}
#: Ends of tensor names in packed formats of 2 to 8 bits.
_PACKED = (".qweight", ".weight_packed", ".absmax", ".weight_quantized")
_INDEX = "model.safetensors.index.json"
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_AFFIRMATIVE = {"yes", "true", "relevant", "positive"}
_AGAIN = "download or save the model again"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that can be loaded: its files fit each other."""

    folder: Path
    """what was named"""
    base: Path
    """with the weights: the same, unless that is an adapter"""
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    adapter: Adapter | None = None

    @property
    def architecture(self) -> str:
        """The name of its class."""
        name: str = self.config["architectures"][0]
        return name

    @property
    def tokenizer_folder(self) -> Path:
        """Where its tokeniser is: an adapter may have one of its own."""
        return self.folder if (self.folder / "tokenizer.json").is_file() else self.base

    @property
    def has_fp8(self) -> bool:
        """Whether any weight is stored in 8 bits."""
        return any(tensor.is_fp8 for tensor in self.tensors.values())

    @property
    def labels(self) -> int:
        """How many labels a classifier has; 0 for other models."""
        if self.architecture != CLASSIFIER:
            return 0
        score = self.weights().get("score.weight")
        return score.shape[0] if score else 0

    def weights(self) -> dict[str, StoredTensor]:
        """All tensors by the names of the model's weights, with those that an adapter replaces."""
        return self.tensors | (self.adapter.replaced if self.adapter else {})

    def answers(self, yes_id: int, no_id: int) -> tuple[int, int | None]:
        """The rows of the head whose difference is the margin: of the tokens, or of the labels of a
        classifier. One with a single label has no second row."""
        if self.labels == 1:
            return 0, None
        if self.labels == 2:
            first = str((self.config.get("id2label") or {}).get("0", "")).lower()
            return (0, 1) if first in _AFFIRMATIVE else (1, 0)
        return yes_id, no_id

    def identity(self) -> str:
        """A hash over all its files: see `weights_identity`."""
        parts = [weights_identity(self.base)]
        if self.adapter:
            parts.append(weights_identity(self.folder))
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def read_checkpoint(folder: Path, *, download: bool = True) -> Checkpoint:
    """The model in a folder; of an adapter together with its base, which is downloaded if need be.

    Raises ModelRefused unless it is a Qwen3 or Qwen3-VL reranker that can be loaded.
    """
    adapter = Adapter.read(folder) if is_adapter(folder) else None
    base = _base_of(folder, adapter, download=download) if adapter else folder
    config = _read_json(base / "config.json")
    if adapter and "score.weight" in adapter.replaced:
        config = config | {"architectures": [CLASSIFIER]}
    _refuse_others(base, config)
    tensors = _tensors(base)
    _refuse_strange(base, config, tensors)
    checkpoint = Checkpoint(folder, base, config, tensors, adapter)
    if checkpoint.architecture == CLASSIFIER and checkpoint.labels not in (1, 2):
        raise ModelRefused(
            f"{folder.name} is a classifier with {checkpoint.labels} labels",
            hint="a reranker has one label, or two",
        )
    return checkpoint


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what was trained beside another model's weights (peft)."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    return not (folder / "config.json").is_file() or not _weight_files(folder)


def _base_of(folder: Path, adapter: Adapter, *, download: bool) -> Path:
    try:
        return resolve_model(adapter.base, adapter.base_revision, download=download)
    except UnknownModel as error:
        raise ModelRefused(
            f"{folder.name} is an adapter of {adapter.base}: {error.message}",
            hint=error.hint or "write the base's place into base_model_name_or_path",
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{path} cannot be read: it is no JSON object", hint=_AGAIN)
    return content


def _refuse_others(folder: Path, config: dict[str, Any]) -> None:
    architectures = config.get("architectures") or []
    if not ARCHITECTURES.intersection(architectures[:1]):
        raise ModelRefused(
            f"{folder.name} is a {', '.join(architectures) or 'model without architecture'}",
            hint="use a Qwen3 reranker, such as Qwen/Qwen3-Reranker-0.6B or "
            "Qwen/Qwen3-VL-Reranker-2B",
        )


def _refuse_strange(folder: Path, config: dict[str, Any], tensors: dict[str, StoredTensor]) -> None:
    """Refuse what the decoder loop does not support, and configs that the weights contradict."""
    text = config | config.get("text_config", {})
    rope = (text.get("rope_parameters") or text.get("rope_scaling") or {}).get("rope_type")
    strange = [
        name
        for name, bad in (
            ("attention_bias", bool(text.get("attention_bias"))),
            ("use_sliding_window", bool(text.get("use_sliding_window"))),
            ("hidden_act", text.get("hidden_act", "silu") != "silu"),
            (f"rope_type {rope}", rope is not None and rope not in _ROPE_TYPES),
        )
        if bad
    ]
    if strange:
        raise ModelRefused(
            f"the model's {', '.join(strange)} is not supported", hint="use a Qwen3 reranker"
        )
    if any(name.endswith(_PACKED) for name in tensors):
        method = (text.get("quantization_config") or {}).get("quant_method", "packed integers")
        raise ModelRefused(
            f"the weights of {folder.name} are quantised ({method}), which is not supported",
            hint="use the model's bf16 weights, or its FP8 weights",
        )
    _compare_layers(folder, int(text.get("num_hidden_layers") or 0), tensors)


def _compare_layers(folder: Path, expected: int, tensors: Iterable[str]) -> None:
    found = {int(m[1]) for name in tensors if (m := _LAYER.search(name)) and "visual" not in name}
    if found and len(found) != expected:
        raise ModelRefused(
            f"the weights in {folder} do not fit its config.json: it says {expected:,} layers, "
            f"they have {len(found)}",
            hint=_AGAIN,
        )


def _tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a model by name, from the headers of its files."""
    tensors: dict[str, StoredTensor] = {}
    for path in _files(folder):
        tensors |= read_header(path)
    return tensors


def _files(folder: Path) -> list[Path]:
    """The files of the weights: those of the index, where there is one."""
    if (folder / _INDEX).is_file():
        names = sorted(set((_read_json(folder / _INDEX).get("weight_map") or {}).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise ModelRefused(
                f"{len(absent)} of {len(names)} files of the weights are not in {folder}: "
                f"{absent[0]}",
                hint="download the model again",
            )
        return [folder / name for name in names]
    files = _weight_files(folder)
    if not files:
        raise ModelRefused(
            f"{folder} has no *.safetensors", hint="convert the weights; pickles are not loaded"
        )
    return files


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    whole = [path for path in files if path.name == "model.safetensors"]
    return whole or [path for path in files if path.name != ADAPTER_WEIGHTS]
