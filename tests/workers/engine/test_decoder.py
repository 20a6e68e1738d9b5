"""What the decoder takes out of a model."""

from __future__ import annotations

import pytest
import torch

from rerankfleet.workers.engine.decoder import Rotary
from rerankfleet.workers.engine.weights import text_model


@pytest.mark.parametrize("kind", ["text", "vl"])
def test_the_rotary_table_is_the_models_without_a_call_of_its_module(
    kind, model_folders, vl_folder
):
    """Given a text model and a VL model, whose modules want positions of other shapes."""
    from transformers import Qwen3ForCausalLM, Qwen3VLForConditionalGeneration

    if kind == "text":
        model = Qwen3ForCausalLM.from_pretrained(model_folders["tied"], dtype=torch.float32)
        positions = torch.arange(300)[None]
    else:
        model = Qwen3VLForConditionalGeneration.from_pretrained(vl_folder, dtype=torch.float32)
        positions = torch.arange(300).expand(3, 1, -1)
    module = text_model(model).rotary_emb
    cos, sin = module(torch.zeros(1), positions)
    module.forward = None

    table = Rotary.of(module, dim=16).table(300, torch.device("cpu"))

    want = torch.complex(cos[0, :, :8], sin[0, :, :8])
    assert torch.allclose(table, want, atol=1e-6)


def test_a_scaled_rotary_embedding_keeps_its_scaling():
    class Yarn:
        inv_freq = torch.tensor([1.0, 0.1])
        attention_scaling = 1.25

    table = Rotary.of(Yarn(), dim=4).table(7, torch.device("cpu"))

    assert torch.allclose(table.abs(), torch.full((7, 2), 1.25))
    assert torch.allclose(table[3].angle(), torch.tensor([3.0, 0.3]))
