"""Margins of the engine: those of the model card's procedure, in any company."""

from __future__ import annotations

import random

import pytest
import torch

from rerankfleet.shared.errors import OutOfDeviceMemory
from rerankfleet.workers.batching.packing import Limit, Pack, plan
from rerankfleet.workers.engine import self_test
from rerankfleet.workers.prompting.prompts import PromptRequest

TOLERANCE = 1e-4


def worst(got, want) -> float:
    return max(abs(a - b) for a, b in zip(got, want, strict=True))


@pytest.fixture
def pairs(passages, rng) -> list[tuple[str, str]]:
    """Queries with one, two and many documents."""
    drawn = []
    for documents in (1, 2, 12, 1, 7):
        query = " ".join(rng.choice(passages).split()[: rng.randint(1, 12)])
        drawn += [(query, document) for document in rng.sample(passages, documents)]
    return drawn


def test_margins_are_the_model_cards(engine, model_folder, pairs, encode, score, model_card):
    want = model_card(model_folder, pairs)
    assert max(want) - min(want) > 0.1
    assert worst(score(engine, encode(engine, pairs)), want) < TOLERANCE


@pytest.mark.slow
def test_hostile_texts_have_the_model_cards_margins(
    engine, model_folder, encode, score, model_card, hostile
):
    pairs = [(q, d) for q in ("what is this?", "<|im_start|>user", "?") for d in hostile]
    want = model_card(model_folder, pairs)
    assert worst(score(engine, encode(engine, pairs)), want) < TOLERANCE


def test_two_instructions_in_one_pack(engine, model_folder, encode, score, model_card):
    pairs = [("what?", "a stone"), ("what?", "a river"), ("why?", "a stone")]
    prompts, want = [], []
    for instruction in ("Find the definition", "Find what contradicts the query"):
        prompts += encode(engine, pairs, instruction=instruction)
        want += model_card(model_folder, pairs, instruction=instruction)
    assert worst(score(engine, prompts), want) < TOLERANCE


def test_cut_and_crowded_prompts_have_the_model_cards_margins(
    engine, model_folder, passages, encode, score, model_card
):
    pairs = [(" ".join(passages[:n]), passages[0]) for n in (1, 2, 9)] + [("q", passages[3] * 9)]
    want = model_card(model_folder, pairs, max_length=360)
    assert worst(score(engine, encode(engine, pairs, max_length=360)), want) < TOLERANCE


def test_a_long_document_goes_block_by_block(
    engine, model_folder, passages, encode, score, model_card
):
    pairs = [("what is a generator", " ".join(passages[:n])) for n in (1, 30, 70)]
    prompts = encode(engine, pairs)
    assert max(len(p.document) for p in prompts) > 3000
    assert worst(score(engine, prompts), model_card(model_folder, pairs)) < TOLERANCE


def test_packed_equals_one_by_one_in_any_order_and_under_any_limit(engine, pairs, encode, score):
    prompts = encode(engine, pairs)
    want = [engine.score(Pack.of([p])[0])[0] for p in prompts]
    assert worst(score(engine, prompts), want) < TOLERANCE
    shuffled = list(range(len(prompts)))
    random.Random(3).shuffle(shuffled)
    got = score(engine, [prompts[i] for i in shuffled])
    assert worst(got, [want[i] for i in shuffled]) < TOLERANCE
    for limit in (Limit(1), Limit(300), Limit(1500, pairs=4)):
        assert worst(score_under(engine, prompts, limit), want) < TOLERANCE


def score_under(engine, prompts, limit: Limit) -> list[float]:
    class Item:
        lane = 0

        def __init__(self, index):
            self.index, self.prompt = index, prompts[index]

    waiting, margins = [Item(i) for i in range(len(prompts))], {}
    while waiting:
        taken, _ = plan(waiting, limit, engine.prices)
        pack, order = Pack.of(i.prompt for i in taken)
        for at, margin in zip(order, engine.score(pack), strict=True):
            margins[taken[at].index] = margin
        waiting = [i for i in waiting if i.index not in margins]
    return [margins[i] for i in range(len(prompts))]


def test_sentence_transformers_agrees(engine, model_folder, pairs, encode, score):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    body = Transformer(str(model_folder), transformer_task="text-generation")
    ids = body.tokenizer.convert_tokens_to_ids
    head = LogitScore(true_token_id=ids("yes"), false_token_id=ids("no"))
    encoder = CrossEncoder(modules=[body, head], device="cpu")
    want = encoder.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    assert worst(score(engine, encode(engine, pairs)), want.tolist()) < TOLERANCE


def test_the_self_test_agrees_with_the_unmodified_model(engine):
    result = engine.self_test()
    assert result.pairs == 8
    assert result.largest_difference < result.tolerance == TOLERANCE
    assert result.tokens_per_s > 0
    assert 256 <= result.limit.tokens <= result.tokens_max
    assert engine.peak_memory_bytes() > 0


def test_no_limit_goes_beyond_the_memory_of_a_container(engine, monkeypatch):
    per_token = engine.decoder.scratch_bytes_per_token
    monkeypatch.setattr(self_test, "free_bytes", lambda device: 10 * 3000 * per_token)
    assert engine.self_test().tokens_max == 3000
    monkeypatch.setattr(self_test, "free_bytes", lambda device: 0)
    assert engine.self_test().tokens_max == 256
    monkeypatch.setattr(self_test, "free_bytes", lambda device: None)
    assert engine.self_test().tokens_max == self_test.TOKENS_MAX


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_types_stay_as_near_fp32_as_the_model_itself(
    dtype, load, model_folders, pairs, encode, score, rounding
):
    exact, half = load(model_folders["tied"]), load(model_folders["tied"], dtype=dtype)
    prompts = encode(exact, pairs)
    assert half.provenance.dtype == dtype
    assert half.fingerprint != exact.fingerprint
    bound = rounding(half, model_folders["tied"], prompts)
    assert bound < 0.3
    assert worst(score(half, prompts), score(exact, prompts)) < bound
    half.self_test()


def test_deterministic_means_the_same_bits_in_any_pack(load, model_folders, pairs, encode, score):
    engine = load(model_folders["tied"], deterministic=True)
    prompts = encode(engine, pairs)
    want = score(engine, prompts)
    assert score(engine, prompts[::-1])[::-1] == want
    assert [engine.score(Pack.of([p])[0])[0] for p in prompts] == want


def test_a_damaged_model_gives_nan_for_the_pairs_concerned(model_folders, encode, score):
    from rerankfleet.workers.engine import load_engine

    engine = load_engine(str(model_folders["tied"]))
    good, bad = encode(engine, [("what?", "a stone"), ("what?", "\u00df")])
    only_bad = set(bad.document) - {*good.prefix, *good.query, *good.document}
    engine.decoder.embedding[only_bad.pop()] = float("nan")
    fine, broken = score(engine, [good, bad])
    assert fine == fine
    assert broken != broken


def test_a_cached_tensor_is_reported_as_present(load, model_folders, encode, score):
    engine = load(model_folders["tied"], kept_bytes=1 << 20)
    prompts = encode(engine, [("q", "a"), ("q", "b")], instruction="an instruction of its own")
    hits, misses = engine.lookups["prefix"]

    for _ in range(3):
        score(engine, prompts)

    assert engine.lookups == {"prefix": (hits + 2, misses + 1), "vision": (0, 0)}
    assert engine.gpu_bytes() == {}


def test_cached_prefixes_stay_within_their_bytes(load, model_folders, encode, score):
    roomy = load(model_folders["tied"])
    heads, layers = roomy.decoder.heads, len(roomy.decoder.layers)
    need = 200 * layers * 2 * heads.kv * heads.dim * roomy.decoder.dtype.itemsize
    tight = load(model_folders["tied"], kept_bytes=need)
    none = load(model_folders["tied"], kept_bytes=0)
    for number in range(8):
        prompts = encode(tight, [("what?", "a stone")], instruction=f"Find stone {number}")
        want = score(roomy, prompts)
        assert worst(score(tight, prompts), want) < TOLERANCE
        assert worst(score(none, prompts), want) < TOLERANCE
        assert 0 < tight.prefix_cache.bytes <= need
    assert none.prefix_cache.bytes == 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_running_out_of_memory_is_an_error_of_its_own(
    error, load, model_folders, encode, monkeypatch, score
):
    engine = load(model_folders["tied"])
    prompts = encode(engine, [("what?", "a stone")])
    want = score(engine, prompts)
    with monkeypatch.context() as patch:
        patch.setattr(engine.decoder, "margins", lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(OutOfDeviceMemory, match="1 pairs"):
            engine.score(Pack.of(prompts)[0])
    engine.free()
    assert score(engine, prompts) == want


def test_other_runtime_errors_pass(load, model_folders, encode, monkeypatch):
    engine = load(model_folders["tied"])
    (prompt,) = encode(engine, [("what?", "a stone")])

    def fail(*_):
        raise RuntimeError("shapes")

    monkeypatch.setattr(engine.decoder, "margins", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        engine.score(Pack.of([prompt])[0])


def test_provenance_names_what_scored(engine, model_folder):
    p = engine.provenance
    assert (p.model, p.dtype, p.attention) == (str(model_folder), "fp32", "matmul")
    assert p.revision.startswith("sha256:")
    assert p.template == "qwen3-text-1"
    assert "cpu" in engine.device_name
    assert len(engine.fingerprint) == 16


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu(load, model_folders, pairs, encode, score, rounding):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    cpu = load(model_folders["tied"], device="cpu")
    prompts = encode(cpu, pairs)
    want = score(cpu, prompts)
    exact = load(model_folders["tied"], device="cuda", dtype="fp32")
    assert worst(score(exact, prompts), want) < 1e-3
    half = load(model_folders["tied"], device="cuda")
    assert half.provenance.dtype == "bf16"
    bound = rounding(half, model_folders["tied"], prompts, "cuda")
    assert worst(score(half, prompts), want) < bound
    half.self_test()


@pytest.mark.real_model
def test_golden_margins_of_the_published_model():
    """Qwen3-Reranker-0.6B in fp32; values of sentence-transformers' own tests."""
    from rerankfleet.shared.errors import UnknownModel
    from rerankfleet.workers.engine import load_engine

    try:
        engine = load_engine("Qwen/Qwen3-Reranker-0.6B", dtype="fp32", device="cpu")
    except UnknownModel as error:
        pytest.skip(f"the weights of Qwen3-Reranker-0.6B are not here: {error}")
    documents = [
        "Venus is often called Earth's twin because of its similar size and proximity.",
        "Mars, known for its reddish appearance, is often referred to as the Red Planet.",
        "Jupiter, the largest planet in our solar system, has a prominent red spot.",
        "Saturn, famous for its rings, is sometimes mistaken for the Red Planet.",
    ]
    request = PromptRequest.of("Which planet is known as the Red Planet?", documents)
    (prompts,) = engine.prompter.encode_all([request], max_length=8192)
    pack, order = Pack.of(prompts)
    assert order == [0, 1, 2, 3]
    golden = [-3.109297752, 7.120389938, -0.378754616, 3.541637421]
    assert engine.score(pack) == pytest.approx(golden, abs=1e-3)
