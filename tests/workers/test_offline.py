"""`rerank score`: its options, and a device that breaks."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest

from rerankfleet.shared import cli
from rerankfleet.shared.cli import main
from rerankfleet.shared.profiles import PROFILES
from rerankfleet.workers import offline
from rerankfleet.workers.batching.packing import Limit, Prices
from rerankfleet.workers.prompting.prompts import Prompt
from rerankfleet.workers.prompting.tokens import Tokens
from tests.support.fleet import PROVENANCE


class BrokenEngine:
    """Loads and passes its self-test; then every forward pass fails."""

    provenance = PROVENANCE
    supports_images = False
    prompter = SimpleNamespace(
        encode_all=lambda requests, **_: [
            [Prompt(Tokens.of([1]), Tokens.of([2]), Tokens.of([3])) for _ in request.documents]
            for request in requests
        ]
    )

    prices = Prices()

    def self_test(self):
        return SimpleNamespace(limit=Limit(1000))

    def score(self, pack):
        raise RuntimeError("CUDA error: unspecified launch failure")

    def free(self) -> None:
        pass


def test_a_broken_device_ends_with_one_sentence_and_no_output(jsonl, tmp_path, monkeypatch, capsys):
    source = jsonl(*[{"query": "q", "documents": ["a", "b"]}] * 50)
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(offline, "load_engine", lambda *_, **__: BrokenEngine())
    command = ["rerank", "score", str(source), "-o", str(output), "--model", "pocket-text"]
    monkeypatch.setattr(sys, "argv", command)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rerank: the device fails on any pair (the forward pass failed")
    assert not output.exists()


# ---- profiles -----------------------------------------------------------------------------------

LINES = [
    {"query": "how do I open a file?", "documents": ["Use open().", "Bread is baked.", "A file."]},
    {"query": "red chair", "documents": ["A chair of oak, painted red.", "word " * 200]},
]


@pytest.fixture
def ranked(load, jsonl, tmp_path, monkeypatch):
    """`ranked("--profile", name)`: what `rerank score` writes with pocket-text, and its manifest's
    options."""
    engine = load("pocket-text")
    monkeypatch.setattr(offline, "load_engine", lambda *_, **__: engine)
    monkeypatch.setattr(cli, "configure_logs", lambda: None)  # it is for a whole process
    monkeypatch.setenv("RERANK_BATCH_TOKENS", "4096")
    source, output = jsonl(*LINES), tmp_path / "out.jsonl"

    def run(*options: object):
        command = ["score", source, "-o", output, "--model", "pocket-text", "--force", *options]
        monkeypatch.setattr(sys, "argv", ["rerank", *map(str, command)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
        return [line["results"] for line in lines], manifest["options"]

    return run


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_scores_like_its_values_passed_one_by_one(ranked, name):
    profile = PROFILES[name]
    values = ["--max-length", profile.max_length, "--image-preset", profile.image_preset]
    if profile.instruction:
        values += ["--instruction", profile.instruction]
    plain, _ = ranked(*values)

    by_profile, options = ranked("--profile", name)

    assert options["profile"] == name
    recorded = {n: value for n, value in profile.options.items() if n != "adaptive_temperature"}
    assert {n: options[n] for n in recorded} == recorded
    for line, expected in zip(by_profile, plain, strict=True):
        margins = [result["margin"] for result in expected]
        assert [result["margin"] for result in line] == pytest.approx(margins, abs=1e-4)
        for result in line:
            want = 1 / (1 + math.exp(-result["margin"] / profile.temperature))
            assert result["relevance_score"] == pytest.approx(want, abs=1e-9)


def test_max_length_of_ones_own_profile_cuts_documents(ranked, monkeypatch, tmp_path):
    file = tmp_path / "profiles.toml"
    file.write_text("[short]\nmax_length = 128")
    monkeypatch.setenv("RERANK_PROFILES", str(file))

    whole, short = (ranked("--profile", name)[0] for name in ("default", "short"))

    assert [r.get("truncated_tokens", 0) for r in whole[1]] == [0, 0]
    assert max(r.get("truncated_tokens", 0) for r in short[1]) > 0


def test_no_results_mean_all(ranked):
    (every, _), recorded = ranked("--top-n", 0)
    (best, _), _ = ranked("--top-n", 2)

    assert (len(every), len(best)) == (3, 2)
    assert recorded["top_n"] is None


def test_documents_are_cut_where_the_command_line_says_so(ranked):
    whole, cut = ranked()[0], ranked("--max-tokens-per-doc", 3)

    assert cut[1]["max_tokens_per_doc"] == 3
    assert all(result["truncated_tokens"] > 0 for result in cut[0][1])
    assert [r["margin"] for r in cut[0][1]] != [r["margin"] for r in whole[1]]


def test_options_win_over_the_profile(ranked):
    (plain, _), (sharp, options) = (
        ranked("--profile", "ecommerce", *more)
        for more in ([], ["--temperature", "0.5", "--top-p", "0.7"])
    )

    assert (options["temperature"], options["top_p"]) == (0.5, 0.7)
    for line, expected in zip(sharp, plain, strict=True):
        assert [r["index"] for r in line] == [r["index"] for r in expected]
        for result in line:
            likelier = 1 / (1 + math.exp(-abs(result["margin"]) / 0.5))
            certain = result["relevance_score"] in (0.0, 1.0)
            assert certain == (likelier >= 0.7)


def test_blank_lines_and_other_encodings_are_read_as_in_a_job(tmp_path, jsonl, monkeypatch, capsys):
    path, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = "\n".join(["", *(json.dumps(LINES[0] | {"id": n}) for n in range(3)), " ", "no json"])
    path.write_bytes(text.encode("utf-16"))
    command = ["rerank", "score", str(path), "-o", str(output), "--model", "pocket-text"]
    monkeypatch.setattr(sys, "argv", [*command, "--limit", "4"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 3
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["id"], line["line"]) for line in lines] == [(0, 2), (1, 3), (2, 4), (None, 6)]
    assert lines[3]["errors"][0]["line"] == 6
