"""`rerank demo` from start to end, with small models and examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rerankfleet.producer import demo
from tests.support.drawn import drawn
from tests.support.vl_model import build_vl_model


def test_the_demo_ranks_text_and_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a few questions, a few images and a random model
    example, scenes = tmp_path / "example.jsonl", tmp_path / "scenes"
    example.write_text("".join(demo.EXAMPLE.read_text().splitlines(keepends=True)[:3]))
    scenes.mkdir()
    for number in range(4):
        drawn(number).save(scenes / f"scene-{number}.jpg")
    labels = [
        {"query": "a red heart", "relevant": ["scene-1.jpg"]},
        {"query": "a sign that says open", "relevant": ["scene-0.jpg", "scene-2.jpg"]},
    ]
    (scenes / "queries.txt").write_text("".join(f"{label['query']}\n" for label in labels))
    (scenes / "labels.json").write_text(json.dumps(labels))
    monkeypatch.setattr(demo, "EXAMPLE", example)
    monkeypatch.setattr(demo, "SCENES", scenes)
    model = build_vl_model(tmp_path / "vl")
    monkeypatch.setattr(demo, "IMAGE_MODEL", str(model))
    # when it is run
    demo.run_demo()
    # then it shows both rankings and their quality
    shown = capsys.readouterr().out
    assert "a relevant passage is first for" in shown
    assert "a red heart" in shown
    assert "scene-1.jpg ✓" in shown
    assert "8 pairs of 4 images scored, 0 errors" in shown
    assert "a relevant image is first for" in shown
