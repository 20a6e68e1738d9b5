"""`rerank score` on a device that breaks."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from shared.cli import main
from tests.support.fleet import PROVENANCE
from workers import score
from workers.packing import Limit
from workers.prompts import Prompt
from workers.tokens import Tokens


class BrokenEngine:
    """Loads and passes its self-test; then every forward pass fails."""

    provenance = PROVENANCE
    sees = False
    prompter = SimpleNamespace(
        encode_all=lambda requests, **_: [
            [Prompt(Tokens.of([1]), Tokens.of([2]), Tokens.of([3])) for _ in request.documents]
            for request in requests
        ]
    )

    def self_test(self):
        return SimpleNamespace(limit=Limit(1000))

    def score(self, pack):
        raise RuntimeError("CUDA error: unspecified launch failure")

    def free(self) -> None:
        pass


def test_a_broken_device_ends_with_one_sentence_and_no_output(jsonl, tmp_path, monkeypatch, capsys):
    source = jsonl(*[{"query": "q", "documents": ["a", "b"]}] * 50)
    output = tmp_path / "out.jsonl"
    monkeypatch.setattr(score, "load_engine", lambda *_, **__: BrokenEngine())
    command = ["rerank", "score", str(source), "-o", str(output), "--model", "pocket-text"]
    monkeypatch.setattr(sys, "argv", command)

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("rerank: the device fails on any pair (the forward pass failed")
    assert not output.exists()
