"""The coordinator's processes."""

from __future__ import annotations

from rerankfleet.producer.coordinator.process import children


def test_a_coordinator_is_two_processes(settings):
    assert [child.name for child in children(settings)] == ["coordinator", "monitor"]
    assert children(settings)[0].env["RERANK_KEY_PREFIX"] == settings.key_prefix
