"""A model over several devices: whole layers, in order, about the same bytes on each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.engine.attention import PerDeviceAttention
from rerankfleet.workers.engine.device_map import assign_layers, place
from rerankfleet.workers.engine.load import _devices

CPU = torch.device("cpu")


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 8))
def test_layers_stay_in_order_and_shares_are_fair(sizes, parts):
    shares = assign_layers(sizes, parts)

    assert shares == sorted(shares)
    assert set(shares) <= set(range(parts))
    fair = sum(sizes) / parts
    for part in range(parts):
        assert sum(s for s, p in zip(sizes, shares, strict=True) if p == part) < fair + max(sizes)


def test_equal_layers_are_dealt_out_evenly():
    assert assign_layers([7] * 36, 2) == [0] * 18 + [1] * 18
    assert [assign_layers([7] * 36, 4).count(part) for part in range(4)] == [9] * 4


@pytest.mark.parametrize("heads", ["tied", "untied"])
def test_a_spread_models_own_forward_goes_on_working(heads, model_folders):
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(model_folders[heads], dtype=torch.float32).eval()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        want = model(ids, use_cache=False).logits
        assert place(model, [CPU, CPU])("lm_head.weight") == CPU
        got = model(ids, use_cache=False).logits
    assert torch.equal(got, want)


def test_attention_runs_where_its_keys_are():
    class Here:
        def all(self, queries, kv):
            return "all"

        def last(self, queries, kv):
            return "last"

    attention, rows = PerDeviceAttention({CPU: Here()}), torch.zeros(1)
    assert attention.all(rows, rows) == "all"
    assert attention.last(rows, rows) == "last"


def test_more_gpus_than_there_are_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert _devices("cuda", 2) == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert _devices("cpu", 2) == [CPU]
    with pytest.raises(ModelRefused, match="needs 2 GPUs from cuda:1 on, torch sees 2"):
        _devices("cuda:1", 2)


@pytest.mark.gpu
def test_two_gpus_give_the_margins_of_one(load, model_folders, prompt_of, score):
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two CUDA devices here")
    prompts = [prompt_of(11, 6, n, seed=n % 3) for n in (40, 39, 20, 1)]
    one, two = (
        score(load(model_folders["untied"], device="cuda", dtype="fp32", gpus=n), prompts)
        for n in (1, 2)
    )
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
