"""Model names become folders, or a clear sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import huggingface_hub
import pytest

from rerankfleet.shared.errors import ModelRefused, UnknownModel
from rerankfleet.workers.engine import load_engine, locate, resolve_model
from rerankfleet.workers.engine.locate import revision_of, weights_identity


def test_a_folder_is_itself(model_folder):
    assert resolve_model(str(model_folder)) == model_folder.resolve()


def test_a_pocket_model_is_package_data(tmp_path, monkeypatch):
    (tmp_path / "pocket-test").mkdir()
    (tmp_path / "pocket-test/config.json").write_text("{}")
    monkeypatch.setattr(locate, "POCKET_MODELS", tmp_path)
    assert resolve_model("pocket-test") == tmp_path / "pocket-test"
    with pytest.raises(UnknownModel, match="available: pocket-test"):
        resolve_model("pocket-nothing")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("{tmp}/nothing", "is not a folder"),
        ("{tmp}", r"has no config\.json"),
        ("{tmp}/file", "is a file"),
        ("no-slash", "is not a folder"),
        ("./a/b", "is not a folder"),
    ],
)
def test_names_that_cannot_be_models_say_why(name, sentence, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UnknownModel, match=sentence):
        resolve_model(name.format(tmp=tmp_path))


def test_a_hub_name_is_downloaded_at_its_revision(model_folder, monkeypatch):
    requests = []

    def download(name, revision, allow_patterns):
        requests.append((name, revision))
        return str(model_folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_model("owner/model", "abc") == model_folder
    assert requests == [("owner/model", "abc")]


@pytest.fixture
def copy(model_folders, tmp_path):
    """A copy of a model to damage."""
    return shutil.copytree(model_folders["tied"], tmp_path / "copy")


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["BertModel"]}, "is a BertModel"),
        ({"architectures": None}, "is a model without architecture"),
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window is not supported"),
        ({"num_hidden_layers": 3}, "it says 3 layers, they have 2"),
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            r"do not fit its config\.json",
        ),
        ({"hidden_size": 128}, "cannot be loaded|do not fit"),
    ],
)
def test_models_that_are_no_qwen3_rerankers_are_refused(changes, sentence, copy):
    change_config(copy, **changes)
    with pytest.raises(ModelRefused, match=sentence):
        load_engine(str(copy))


def test_a_folder_without_safetensors_is_refused(copy):
    for path in copy.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelRefused, match=r"has no \*\.safetensors"):
        load_engine(str(copy))


def test_damaged_weights_are_refused(copy):
    (weights,) = copy.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelRefused, match="cannot be loaded"):
        load_engine(str(copy))


def test_a_config_that_is_no_json_is_refused(copy):
    (copy / "config.json").write_text("{")
    with pytest.raises(ModelRefused, match="cannot be read"):
        load_engine(str(copy))


def test_other_weights_have_another_identity(copy, monkeypatch):
    before = weights_identity(copy)
    assert weights_identity(copy) == before
    (weights,) = copy.glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert weights_identity(copy) != before
    monkeypatch.setattr(locate, "_SAMPLES", 4)
    assert weights_identity(copy) == weights_identity(copy)


def test_the_revision_is_the_hubs_or_a_hash(copy, tmp_path):
    commit = tmp_path / "snapshots/0123abc"
    assert revision_of(commit, None) == "0123abc"
    assert revision_of(copy, "mine") == "mine"
    assert revision_of(copy, None).startswith("sha256:")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"dtype": "int3"}, "'int3' is unknown"), ({"attention": "best"}, "'best' is unknown")],
)
def test_options_that_cannot_be_are_refused(options, sentence, model_folders):
    with pytest.raises(ModelRefused, match=sentence):
        load_engine(str(model_folders["tied"]), **options)


def test_asking_for_cuda_where_there_is_none_is_refused(model_folders, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelRefused, match="is a build without CUDA"):
        load_engine(str(model_folders["tied"]), device="cuda")


def test_importing_the_package_loads_no_torch():
    code = (
        "import sys, rerankfleet.workers.engine, rerankfleet.workers.batching.batcher;"
        "import rerankfleet.workers.prompting.prompts;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
