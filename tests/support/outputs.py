"""The output of a job, and its checks."""

from __future__ import annotations

import json
from typing import Any

from rerankfleet.producer.coordinator.step import Control
from rerankfleet.shared.formats.manifest import Manifest, manifest_uri
from tests.support.fleet import margin_of


def output(control: Control, job_id: str = "j") -> list[dict[str, Any]]:
    job = control.store.jobs.get(job_id)
    assert job.finished
    return [json.loads(line) for line in control.objects.read(job.facts["output"]).splitlines()]


def manifest(control: Control, job_id: str = "j") -> Manifest:
    uri = manifest_uri(control.store.jobs.get(job_id).facts["output"])
    return Manifest.model_validate_json(control.objects.read(uri))


def check(lines: list[Any], written: list[dict[str, Any]]) -> None:
    """Check that every input line has its output line, and every pair exactly one outcome."""
    assert len(written) == len(lines)
    for number, (line, out) in enumerate(zip(lines, written, strict=True), 1):
        if isinstance(line, bytes):
            (error,) = out["errors"]
            assert error["line"] == number
            assert error["code"] in ("malformed_line", "cancelled")
            continue
        assert out["id"] == line["id"]
        scored = {r["index"]: r["margin"] for r in out["results"]}
        failed = [e["index"] for e in out["errors"]]
        assert sorted([*scored, *failed]) == list(range(len(line["documents"])))
        for index, margin in scored.items():
            assert margin == margin_of(line["query"], line["documents"][index])
        ranked = [r["margin"] for r in out["results"]]
        assert ranked == sorted(ranked, reverse=True)


def pairs_of(lines: list[Any]) -> int:
    return sum(len(line["documents"]) if isinstance(line, dict) else 1 for line in lines)
