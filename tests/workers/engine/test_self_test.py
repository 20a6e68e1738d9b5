"""The self-test catches small mistakes, and lets models of any scale pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.batching.packing import Pack
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.prompting.tokens import Tokens
from tests.support.text_model import build_model

DTYPES = ("fp32", "bf16", "fp16")


@pytest.fixture(scope="module")
def deep(tokenizers, tmp_path_factory) -> Path:
    """A model of eight layers, whose margins in bf16 are off by a tenth."""
    folder = tmp_path_factory.mktemp("deep")
    return build_model(tokenizers["qwen"], folder, layers=8, hidden=128, intermediate=256)


@pytest.fixture(scope="module")
def steep(deep, tmp_path_factory) -> Path:
    """The same with margins of about 20."""
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    folder = tmp_path_factory.mktemp("steep")
    model = Qwen3ForCausalLM.from_pretrained(deep)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_proj" in name:
                parameter.mul_(2)
            elif name == "model.norm.weight":
                parameter.mul_(6)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(deep).save_pretrained(folder)
    return folder


def margins_of_the_test(engine) -> torch.Tensor:
    engine.free()
    return torch.tensor(engine.score(Pack.of(engine.reference.prompts)[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_engine_passes(dtype, deep, load):
    assert load(deep, dtype=dtype).self_test().pairs == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_with_large_margins_passes(dtype, steep, load):
    engine = load(steep, dtype=dtype)

    result = engine.self_test()

    assert max(map(abs, engine.reference.margins)) > 20
    if dtype == "bf16":
        assert result.largest_difference > 0.3  # and more than small margins may be off
    if dtype == "fp32":
        assert result.tolerance < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_of_positions_that_moves_margins_by_a_tenth_is_caught(dtype, deep):
    """Given rotations that are off by 3 in a thousand: in bf16 margins move by as much as the whole
    model's roundings move them."""
    engine = load_engine(str(deep), dtype=dtype)
    right, decoder = margins_of_the_test(engine), engine.decoder
    rotary = decoder._rotary
    decoder._rotary = dataclasses.replace(rotary, frequencies=rotary.frequencies * 1.003)
    decoder._table = torch.empty(0)

    moved = (margins_of_the_test(engine) - right).abs().max()

    assert 0.05 < moved < 0.2
    with pytest.raises(ModelRefused, match="after 2 layers hidden states differ"):
        engine.self_test()


@pytest.mark.parametrize("dtype", DTYPES)
def test_documents_one_position_too_far_are_caught(dtype, deep, monkeypatch):
    engine = load_engine(str(deep), dtype=dtype)
    positions = Tokens.positions
    monkeypatch.setattr(
        Tokens, "positions", lambda self, first: positions(self, first + (1 if first > 60 else 0))
    )
    with pytest.raises(ModelRefused, match="after 2 layers hidden states differ"):
        engine.self_test()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_of_a_late_layer_is_caught(dtype, deep):
    """Given first layers that are right."""
    engine = load_engine(str(deep), dtype=dtype)
    engine.decoder.layers[6] = engine.decoder.layers[5]
    with pytest.raises(ModelRefused, match="margins differ from the unmodified model's"):
        engine.self_test()


def test_an_error_of_the_head_is_caught(deep):
    engine = load_engine(str(deep))
    engine.decoder._direction.mul_(1.5)
    with pytest.raises(ModelRefused, match="margins differ"):
        engine.self_test()


def test_a_model_is_whole_again_after_its_reference_is_taken(deep, load):
    engine = load(deep, dtype="bf16")
    assert len(engine.decoder.layers) == 8
    assert engine.decoder.embedding.dtype == torch.bfloat16
    assert engine.reference.exact.shape == (8, 128)
