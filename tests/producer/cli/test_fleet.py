"""`rerank workers`."""

from __future__ import annotations

import json


def test_workers_are_listed(rerank, served):
    assert json.loads(rerank("workers", "--json").out)[0]["id"] == "w1"
    assert "w1" in rerank("workers").out


def test_an_empty_fleet_says_how_to_begin(rerank):
    assert rerank("workers").err.startswith("no workers:  rerank worker --model")
    assert rerank("jobs").err.startswith("no jobs yet:  rerank submit")
    assert json.loads(rerank("jobs", "--json").out) == []
