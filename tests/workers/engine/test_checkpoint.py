"""Models as they are published and fine-tuned: served with the right margins, or refused in one
sentence that says what to use."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rerankfleet.shared.errors import ModelRefused, OutOfDeviceMemory
from rerankfleet.workers.diagnostics.model_check import check_model
from rerankfleet.workers.engine import load_engine, loader
from rerankfleet.workers.engine.checkpoint import read_checkpoint
from rerankfleet.workers.engine.loader import check_room

PAIRS = [("what is a stone?", "a stone is hard"), ("what is a stone?", "bread"), ("why?", "so")]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def original(model_folders) -> Path:
    return model_folders["untied"]


@pytest.fixture
def copy(original, tmp_path) -> Path:
    """A copy of a model to change."""
    return shutil.copytree(original, tmp_path / "copy")


@pytest.fixture
def margins(encode, score):
    """The margins of a model in a folder, which passes its self-test."""

    def of(folder: Path, **options) -> list[float]:
        engine = load_engine(str(folder), **options)
        engine.self_test()
        return score(engine, encode(engine, PAIRS))

    return of


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def as_classifier(folder: Path, rows: list[str], **config) -> None:
    """What converters write: the head's rows of these words as a classifier."""
    from tokenizers import Tokenizer

    tensors, tokenizer = weights(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    head = tensors.pop("lm_head.weight")
    of = {word: head[tokenizer.token_to_id(word)] for word in ("yes", "no")}
    of["yes - no"] = of["yes"] - of["no"]
    tensors["score.weight"] = torch.stack([of[row] for row in rows])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change_config(folder, architectures=["Qwen3ForSequenceClassification"], **config)


# ---- sharded, converted, adapted ----------------------------------------------------------------


@pytest.fixture
def sharded(original, copy) -> Path:
    from transformers import Qwen3ForCausalLM

    (copy / "model.safetensors").unlink()
    Qwen3ForCausalLM.from_pretrained(original).save_pretrained(copy, max_shard_size="60KB")
    assert len(list(copy.glob("model-*.safetensors"))) > 3
    return copy


def test_weights_in_many_files_are_one_model(sharded, original, margins):
    (sharded / "training-left-this.safetensors").write_bytes(b"no weights")
    assert margins(sharded) == pytest.approx(margins(original), abs=1e-6)


def test_a_missing_file_is_named(sharded):
    gone = sorted(sharded.glob("model-*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ModelRefused, match=re.escape(gone.name)) as refused:
        load_engine(str(sharded))
    assert "download the model again" in refused.value.hint
    assert any(gone.name in check.fact for check in check_model(str(sharded)))


@pytest.mark.parametrize(
    ("rows", "config"),
    [
        (["yes - no"], {"id2label": {"0": "LABEL_0"}}),
        (["yes - no"], {}),  # transformers would expect two labels
        (["no", "yes"], {}),
        (["no", "yes"], {"id2label": {"0": "no", "1": "yes"}}),
        (["yes", "no"], {"id2label": {"0": "Yes", "1": "No"}}),
    ],
)
def test_a_classifier_has_the_margins_of_its_original(rows, config, copy, original, margins):
    as_classifier(copy, rows, **config)
    assert margins(copy) == pytest.approx(margins(original), abs=1e-5)


def test_a_classifier_with_more_labels_is_refused(copy):
    as_classifier(copy, ["no", "yes", "yes - no"])
    with pytest.raises(ModelRefused, match="a classifier with 3 labels"):
        load_engine(str(copy))


@pytest.fixture
def adapter(original, tmp_path):
    """An adapter as peft saves it, and the model that it makes of its base."""
    folder, merged = tmp_path / "adapter", shutil.copytree(original, tmp_path / "merged")

    def make(*, score: bool = False, **changes) -> tuple[Path, Path]:
        folder.mkdir()
        config = {
            "peft_type": "LORA", "base_model_name_or_path": str(original), "r": 4,
            "lora_alpha": 8, "rank_pattern": {"down_proj": 2}, "bias": "none",
        } | changes  # fmt: skip
        (folder / "adapter_config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        tensors, changed = {}, weights(original)
        for name in (Q_PROJ, "model.layers.0.mlp.down_proj.weight"):
            rank = 2 if "down" in name else 4
            a, b = torch.randn(rank, changed[name].shape[1]), torch.randn(len(changed[name]), rank)
            root = f"base_model.model.{name.removesuffix('.weight')}"
            tensors |= {f"{root}.lora_A.weight": a, f"{root}.lora_B.weight": b / 10}
            scale = 8 / (rank**0.5 if config.get("use_rslora") else rank)
            changed[name] = changed[name] + scale * (b / 10) @ a
        if score:
            tensors["base_model.model.score.weight"] = changed["lm_head.weight"][:2].clone()
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        save_file(changed, merged / "model.safetensors", {"format": "pt"})
        return folder, merged

    return make


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}])
def test_an_adapter_is_merged_into_its_base(changes, adapter, original, margins):
    folder, merged = adapter(**changes)

    got = margins(folder)

    assert got == pytest.approx(margins(merged), abs=1e-4)
    assert got != pytest.approx(margins(original), abs=0.05)
    fingerprints = {load_engine(str(f)).fingerprint for f in (folder, original, merged)}
    assert len(fingerprints) == 3
    assert {check.verdict for check in check_model(str(folder))} == {"ok"}


def test_an_adapter_that_trained_a_classifier_is_one(adapter, margins):
    folder, _ = adapter(score=True)
    engine = load_engine(str(folder))
    assert read_checkpoint(folder).labels == 2
    assert engine.self_test().largest_difference < 1e-4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"use_dora": True}, "has use_dora"),
        ({"peft_type": "IA3"}, "is of type IA3"),
        ({"bias": "all"}, "has bias"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_with_the_command_that_merges_it(
    changes, says, adapter
):
    folder, _ = adapter(**changes)
    with pytest.raises(ModelRefused, match=says) as refused:
        load_engine(str(folder))
    assert f"from_pretrained('{folder}').merge_and_unload()" in refused.value.hint


def test_an_adapter_of_another_model_is_refused(adapter, model_folders):
    folder, _ = adapter(base_model_name_or_path=str(model_folders["tied"]))
    with pytest.raises(ModelRefused, match=r"which its base .* does not have"):
        load_engine(str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "nowhere")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelRefused, match=r"is an adapter of .*nowhere"):
        load_engine(str(folder))


# ---- quantised ----------------------------------------------------------------------------------


def quantise(folder: Path, kind: str) -> Path:
    """Store projections in FP8 with scales of blocks, rows or all; returns a folder with the same
    values in fp32."""
    same = shutil.copytree(folder, folder.parent / "same")
    tensors, wide = weights(folder), weights(folder)
    for name in [name for name in tensors if "_proj" in name]:
        w = tensors[name]
        if kind == "block":
            scale = torch.empty(-(-w.shape[0] // 16), -(-w.shape[1] // 16))
            for i, j in torch.cartesian_prod(*map(torch.arange, scale.shape)).tolist():
                scale[i, j] = w[16 * i : 16 * i + 16, 16 * j : 16 * j + 16].abs().max() / 400
            spread = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
            spread, suffix = spread[: w.shape[0], : w.shape[1]], "_scale_inv"
        elif kind == "row":
            spread = scale = w.abs().amax(1, keepdim=True) / 400
            suffix = "_scale"
        else:
            spread = scale = w.abs().max() / 400
            suffix = "_scale"
        tensors[name] = (w / spread).to(torch.float8_e4m3fn)
        tensors[name + suffix] = scale.clone()
        tensors[name.replace("weight", "input_scale")] = torch.ones(())
        wide[name] = tensors[name].float() * spread
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    save_file(wide, same / "model.safetensors", {"format": "pt"})
    change_config(
        folder,
        quantization_config={"quant_method": "fp8"}
        | ({"weight_block_size": [16, 16]} if kind == "block" else {}),
    )
    return same


@pytest.mark.parametrize("kind", ["block", "row", "tensor"])
def test_fp8_weights_are_widened(kind, copy, original, margins, caplog):
    same = quantise(copy, kind)

    got = margins(copy)

    assert got == pytest.approx(margins(same), abs=1e-5)
    assert got != pytest.approx(margins(original), abs=1e-5)
    assert "FP8 weights" in caplog.text
    assert "computed in fp32" in caplog.text


@pytest.mark.parametrize(
    ("method", "suffix"), [("awq", "qweight"), ("gptq", "qweight"), ("bitsandbytes", "absmax")]
)
def test_packed_weights_are_refused_with_what_to_use(method, suffix, copy):
    tensors = weights(copy)
    name = Q_PROJ.replace("weight", suffix)
    tensors[name] = tensors.pop(Q_PROJ).to(torch.int32)
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    change_config(copy, quantization_config={"quant_method": method})
    with pytest.raises(ModelRefused, match=rf"are quantised \({method}\)") as refused:
        load_engine(str(copy))
    assert "bf16 weights" in refused.value.hint


# ---- what is broken -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 10**9}, "it says 1,000,000,000 layers, they have 3"),
        ({"intermediate_size": 97}, r"of another shape \(model\.layers\.0\.mlp"),
        ({"vocab_size": 10**12}, "cannot be loaded|do not fit"),
        ({"num_key_value_heads": 5}, "do not fit|cannot be loaded"),
        ({"head_dim": 32}, "do not fit"),
        ({"hidden_size": "many"}, "cannot be loaded"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2}}, "rope_type dynamic"),
    ],
)
def test_a_config_that_contradicts_the_weights_is_refused(changes, says, copy):
    change_config(copy, **changes)
    with pytest.raises(ModelRefused, match=says) as refused:
        load_engine(str(copy))
    assert "\n" not in str(refused.value)


def test_a_weight_that_is_missing_is_named(copy):
    tensors = weights(copy)
    del tensors[Q_PROJ]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused, match=f"1 missing.*{re.escape(Q_PROJ)}"):
        load_engine(str(copy))


def test_weights_that_are_no_numbers_are_named(copy):
    tensors = weights(copy)
    tensors[Q_PROJ][0, 0] = float("nan")
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused, match=f"no numbers, in {re.escape(Q_PROJ)}"):
        load_engine(str(copy))


def test_numbers_that_a_type_cannot_hold_are_told(copy):
    tensors = weights(copy)
    for name in ("up", "down"):
        tensors[f"model.layers.0.mlp.{name}_proj.weight"] *= 10_000
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelRefused, match="no numbers in fp16") as refused:
        load_engine(str(copy), dtype="fp16")
    assert "bf16" in refused.value.hint


# ---- room on the device -------------------------------------------------------------------------

CARD = torch.device("cuda", 0)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "total", "kind", "says"),
    [
        (70, 80, None, ""),
        (10, 80, OutOfDeviceMemory, "other processes leave 10.0"),
        (11, 12, ModelRefused, "take 16.0 GiB on cuda:0, which has 12.0"),
    ],
)
def test_a_card_that_is_too_small_is_told_from_one_that_is_taken(
    free, total, kind, says, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIB, total * GIB))
    needs = {CARD: 16 * GIB, torch.device("cpu"): 1 << 60}
    if kind is None:
        check_room("m", needs)
    else:
        with pytest.raises(kind, match=says):
            check_room("m", needs)


def test_the_host_holds_no_more_than_one_weight_of_its_own(sharded, monkeypatch):
    """Given a device that keeps nothing here: each file is closed before the next is opened."""
    opened = []
    enter, leave = loader._Reader.__enter__, loader._Reader.__exit__
    monkeypatch.setattr(loader._Reader, "__enter__", lambda self: opened.append(1) or enter(self))
    monkeypatch.setattr(
        loader._Reader,
        "__exit__",
        lambda self, *a: (opened.append(-1), self._files and opened.append(0), leave(self, *a))[2],
    )
    checkpoint = read_checkpoint(sharded)
    model = loader.empty_model(checkpoint, torch.bfloat16)
    loader.fill(model, checkpoint, lambda name: torch.device("meta"))
    steps = [step for step in opened if step]
    assert steps == [1, -1] * len(list(sharded.glob("model-*.safetensors")))
    assert {p.device.type for p in model.parameters()} == {"meta"}
