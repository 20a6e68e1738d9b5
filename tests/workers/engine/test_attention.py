"""Every attention kernel gives what the unmodified model gives, for any shape of pack."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rerankfleet.shared.errors import ModelRefused
from rerankfleet.workers.batching.packing import Pack, Prices, pack_cost
from rerankfleet.workers.engine import attention, grouped, layout, varlen
from rerankfleet.workers.engine.attention import ATTENTIONS, choose_attention, unavailable
from rerankfleet.workers.engine.decoder import Decoder
from rerankfleet.workers.engine.layout import group, lay_out
from rerankfleet.workers.engine.reference import reference_margins
from rerankfleet.workers.engine.varlen import VarlenAttention, adapt
from rerankfleet.workers.engine.weights import Heads

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SLOW_SETUP = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
#: (prefix, query, document) lengths; equal prefix and query lengths make the same part.
shapes = st.lists(
    st.tuples(st.sampled_from([3, 11]), st.sampled_from([0, 1, 6, 17]), st.integers(1, 40)),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def plain(model_folder):
    """The unmodified model's margins of prompts."""
    from transformers import Qwen3ForCausalLM

    model = Qwen3ForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    return lambda engine, prompts: reference_margins(
        model, prompts, engine.prompter.yes_id, engine.prompter.no_id
    )


def emulated_varlen(q, k, v, q_starts, k_starts, q_max, k_max):
    """What a varlen kernel computes, sequence by sequence; causal at the bottom right."""
    out = torch.empty_like(q)
    spans = zip(q_starts[:-1], q_starts[1:], k_starts[:-1], k_starts[1:], strict=True)
    for a, b, c, d in spans:
        assert b - a <= q_max
        assert d - c <= k_max
        mask = torch.ones(b - a, d - c, dtype=torch.bool).tril(int(d - c) - int(b - a))
        out[a:b] = torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d])),
            attn_mask=mask, scale=1.0, enable_gqa=True,
        )[0].transpose(0, 1)  # fmt: skip
    return out


def use(engine, kernel, monkeypatch):
    if kernel == "varlen tables":
        factory = lambda lay, heads, _, device: VarlenAttention(lay, heads, device, emulated_varlen)  # noqa: E731
    else:
        _, factory = choose_attention(kernel, CPU, torch.float32)
    monkeypatch.setattr(engine, "_attention", factory)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("kernel", "examples"), [("matmul", 60), ("sdpa", 25), ("varlen tables", 25), ("flex", 6)]
)
@pytest.mark.slow
def test_a_kernel_gives_the_unmodified_models_margins(
    kernel, examples, engine, plain, score, prompt_of, monkeypatch
):
    @settings(max_examples=examples, deadline=None, suppress_health_check=SLOW_SETUP)
    @example([(3, 6, 30), (3, 6, 29), (3, 17, 30), (3, 6, 5), (11, 0, 9)])
    @given(shapes)
    def check(lengths):
        prompts = [prompt_of(*n, seed=i % 3) for i, n in enumerate(lengths)]
        engine.free()
        got, want = score(engine, prompts), plain(engine, prompts)
        assert max(abs(a - b) for a, b in zip(got, want, strict=True)) < 1e-4

    use(engine, kernel, monkeypatch)
    check()


@pytest.mark.parametrize("kernel", ["matmul", "sdpa"])
def test_blocks_and_groups_of_any_size_give_the_same(
    kernel, engine, plain, score, prompt_of, monkeypatch
):
    prompts = [prompt_of(5, 4, n, seed=n) for n in (150, 70, 69, 68, 33, 1)]
    want = plain(engine, prompts)
    use(engine, kernel, monkeypatch)
    for rows, scores in (((16, 4), 1), ((64, 32), 2000), ((16, 16), 1 << 20), ((256, 32), 1)):
        monkeypatch.setattr(layout, "BLOCK_ROWS", rows)
        monkeypatch.setattr(layout, "BLOCK_SCORES_MAX", scores)
        monkeypatch.setattr(layout, "SCORES_MAX", scores)
        engine.free()
        got = score(engine, prompts)
        assert max(abs(a - b) for a, b in zip(got, want, strict=True)) < 1e-4


@given(shapes, st.booleans())
def test_groups_hold_every_segment_once_and_bound_their_scores(prompt_of, lengths, last_only):
    pack, _ = Pack.of([prompt_of(*n, seed=i % 3) for i, n in enumerate(lengths)])
    tables = lay_out(pack)
    segments = tables.documents if last_only else tables.segments
    groups = group(segments, heads=4, last_only=last_only)
    rows = {int(r) for g in groups for b in g.blocks for r in b.rows.reshape(-1)}
    if last_only:
        assert rows == {s.own[0] + s.own[1] - 1 for s in segments}
    else:
        assert rows == {r for s in segments for r in range(s.own[0], s.own[0] + s.own[1])}
    for g in groups:
        for b in g.blocks:
            assert len(g.keys) == 1 or 4 * b.rows.size * b.reach <= layout.SCORES_MAX


def test_memory_of_a_long_document_grows_with_its_length(prompt_of):
    pack, _ = Pack.of([prompt_of(60, 20, 30_000)])
    (long, *_) = group(lay_out(pack).segments, heads=16)
    height = layout.BLOCK_ROWS[1]
    assert max(16 * b.rows.size * b.reach for b in long.blocks) <= 16 * height * 30_080
    masks = {b.mask.size for b in long.blocks if b.mask is not None}
    assert max(masks) <= height**2


def test_the_kernel_is_the_one_that_was_named():
    assert choose_attention("auto", CPU, torch.float32)[0] == "matmul"
    assert choose_attention("auto", CPU, torch.bfloat16)[0] == "sdpa"
    assert choose_attention("flex", CPU, torch.float32)[0] == "flex"
    with pytest.raises(ModelRefused, match="'quick' is unknown"):
        choose_attention("quick", CPU, torch.float32)
    with pytest.raises(ModelRefused, match="CUDA in bf16 or fp16 only"):
        choose_attention("flash", CPU, torch.float32)
    with pytest.raises(ModelRefused, match="fp32 only"):
        choose_attention("matmul", CPU, torch.bfloat16)


def test_cuda_prefers_varlen_kernels_for_half_types(monkeypatch):
    assert choose_attention("auto", CUDA, torch.float32)[0] == "sdpa"
    for there, best in (
        (("flash", "varlen", "flex"), "flash"),
        (("varlen", "flex"), "varlen"),
        (("flex",), "flex"),
        ((), "sdpa"),
    ):
        monkeypatch.setattr(
            attention,
            "unavailable",
            lambda name, *_, there=there: "" if name in (*there, "sdpa") else "is not available",
        )
        assert attention._best(CUDA, torch.bfloat16) == best


@pytest.mark.parametrize(
    ("capability", "compiler", "best"),
    [
        ((7, 5), True, "sdpa"),  # Turing
        ((8, 0), True, "varlen"),
        ((8, 0), False, "varlen"),
        ((9, 0), True, "varlen"),
    ],
)
def test_the_kernel_suits_the_card(capability, compiler, best, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(attention, "has_compiler", lambda: compiler)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert choose_attention("auto", CUDA, torch.float16)[0] == best


def test_without_a_compiler_flex_is_refused_on_cuda(monkeypatch):
    monkeypatch.setattr(attention, "has_compiler", lambda: False)
    with pytest.raises(ModelRefused, match="C compiler"):
        choose_attention("flex", CUDA, torch.bfloat16)


def test_a_kernel_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert "is not available" in unavailable("flash", torch.device("cuda"), torch.bfloat16)


# ---- the varlen kernels of several torches ------------------------------------------------------


def compute(q, k, v, *tables, shares: bool):
    """What a kernel computes; one that was not told to share key heads refuses fewer of them."""
    assert shares or q.shape[1] == k.shape[1], "another number of key heads"
    return emulated_varlen(q, k, v, *tables)


def torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    raise AssertionError("it divides scores by the square root of the dimension")


def torch_2_11(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
    return_aux=None, scale=None, window_size=(-1, -1),
):  # fmt: skip
    assert (scale, window_size) == (1.0, (-1, 0))
    return compute(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, shares=False)


def torch_2_12(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
    return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False, seqused_k=None,
    num_splits=None,
):  # fmt: skip
    if num_splits is not None:
        raise RuntimeError("num_splits requires FlashAttention 3")
    assert (scale, window_size) == (1.0, (-1, 0))
    return compute(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, shares=enable_gqa)


def torch_2_13(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *,
    return_aux=None, scale=None, window_size=(-1, -1), enable_gqa=False, seqused_k=None,
    block_table=None, num_splits=None,
):  # fmt: skip
    assert num_splits == 1, "the order of summation may depend on other sequences"
    assert (scale, window_size) == (1.0, (-1, 0))
    return compute(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, shares=enable_gqa)


@pytest.mark.parametrize(
    ("varlen_attn", "version", "rocm"),
    [
        (torch_2_11, "2.11.0+cu130", False),
        (torch_2_12, "2.12.1", False),
        (torch_2_13, "2.13.0+cu130", False),
        (torch_2_13, "2.14.0", False),
        (torch_2_12, "2.14.0+rocm7.2", True),  # there the number of splits is refused too
    ],
)
def test_the_varlen_kernel_of_any_torch_is_called_as_it_allows(
    varlen_attn, version, rocm, engine, plain, score, prompt_of, monkeypatch
):
    kernel = adapt(varlen_attn, version, rocm=rocm)
    factory = lambda lay, heads, _, device: VarlenAttention(lay, heads, device, kernel)  # noqa: E731
    monkeypatch.setattr(engine, "_attention", factory)
    prompts = [prompt_of(11, 6, n, seed=n % 3) for n in (40, 39, 20, 1)]
    engine.free()

    got, want = score(engine, prompts), plain(engine, prompts)

    engine.free()
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) < 1e-4


def test_keys_are_gathered_in_pieces_of_bounded_size(engine, plain, score, prompt_of, monkeypatch):
    """Given many short documents behind a long query, each of which copies it."""
    gathered = []

    def kernel(q, k, v, *tables):
        gathered.append(len(k))
        return emulated_varlen(q, k, v, *tables)

    monkeypatch.setattr(varlen, "GATHERED_ROWS", 500)
    factory = lambda lay, heads, _, device: VarlenAttention(lay, heads, device, kernel)  # noqa: E731
    monkeypatch.setattr(engine, "_attention", factory)
    prompts = [prompt_of(11, 90, n, seed=0) for n in range(1, 30)]
    prompts.append(prompt_of(11, 90, 600, seed=0))  # more than a piece by itself
    engine.free()

    got, want = score(engine, prompts), plain(engine, prompts)

    engine.free()
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) < 1e-4
    assert max(n for n in gathered if n != 701) <= 500


def test_the_price_of_a_pack_knows_what_its_attention_copies(engine, prompt_of):
    """Given a long query with short documents, and the same tokens as one document."""
    decoder, short = engine.decoder, [prompt_of(60, 2000, 20, seed=0) for _ in range(100)]
    in_place = pack_cost(short, Prices())
    copied = pack_cost(short, Prices(gathered=decoder.gathered_price))
    assert engine.prices.gathered == 0  # on a CPU it is part of what was measured
    context = 60 + 2000
    assert copied - in_place == pytest.approx(decoder.gathered_price * (100 * context + 60))
    # 8B in bf16: 4 KiB a layer and token, read and written, beside 193 million multiplications
    heads = Heads(32, 8, 128)
    shape = SimpleNamespace(layers=[0] * 36, heads=heads, dtype=torch.bfloat16)
    shape.state_bytes_per_token = Decoder.state_bytes_per_token.fget(shape)
    shape.multiplications_per_token = 36 * 193_000_000
    assert shape.state_bytes_per_token == 147_456
    assert Decoder.gathered_price.fget(shape) == pytest.approx(0.0042, rel=0.05)


def test_a_varlen_kernel_that_takes_no_scale_is_passed_over(monkeypatch):
    with pytest.raises(ImportError, match=r"torch 2\.10\.0 takes no scale"):
        adapt(torch_2_10, "2.10.0", rocm=False)
    monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", torch_2_10)
    monkeypatch.setattr(attention, "has_compiler", lambda: True)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert choose_attention("auto", CUDA, torch.bfloat16)[0] == "flex"
    with pytest.raises(ModelRefused, match=r"is not available .*takes no scale"):
        choose_attention("varlen", CUDA, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ATTENTIONS)
def test_kernels_agree_on_cuda(kernel, load, model_folders, prompt_of, score, rounding):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    dtype = torch.float32 if kernel in ("matmul", "sdpa") else torch.bfloat16
    if reason := unavailable(kernel, torch.device("cuda"), dtype):
        pytest.skip(f"{kernel} {reason}")
    prompts = [prompt_of(11, 6, n, seed=n % 3) for n in (40, 39, 20, 1, 300)]
    name = "fp32" if dtype == torch.float32 else "bf16"
    engine = load(model_folders["tied"], device="cuda", dtype=name, attention=kernel)
    want = score(load(model_folders["tied"], device="cpu"), prompts)
    tolerance = 1e-3
    if dtype != torch.float32:
        tolerance = rounding(engine, model_folders["tied"], prompts, "cuda")
    assert max(abs(a - b) for a, b in zip(score(engine, prompts), want, strict=True)) < tolerance


def test_heads_of_one_query_per_key_work(prompt_of):
    pack, _ = Pack.of([prompt_of(3, 2, 5)])
    heads = Heads(queries=2, kv=2, dim=4)
    tables = lay_out(pack)
    from rerankfleet.workers.engine.workspace import Workspace

    space = Workspace(torch.float32)
    queries = torch.randn(len(tables.ids), heads.queries * heads.dim)
    kv = torch.randn(tables.prefix_rows + len(tables.ids), 2 * heads.kv * heads.dim)
    got = [
        grouped.GroupedAttention(tables, heads, space, CPU, sdpa=sdpa).all(queries, kv).clone()
        for sdpa in (False, True)
    ]
    assert torch.allclose(*got, atol=1e-5)
