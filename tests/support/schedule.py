"""Which tests are expensive, and which share slow fixtures and so run in one process of `-n`."""

from __future__ import annotations

import pytest

from tests.support.stack import START_STACK


def mark(item: pytest.Item) -> None:
    """Mark a test that needs a whole stack, with the group that it runs in."""
    if START_STACK in fixtures_of(item) or "end_to_end" in item.path.parts:
        item.add_marker("whole_stack")
    item.add_marker(pytest.mark.xdist_group(group_of(item)))


def group_of(item: pytest.Item) -> str:
    """Tests of a group run one after the other in one process."""
    fixtures = fixtures_of(item)
    if "vl_stack" in fixtures:
        return "vl_stack"
    if {START_STACK, "stack"} <= fixtures:
        return item.path.parent.name
    return item.nodeid if item.get_closest_marker("slow") else item.location[0]


def is_long(item: pytest.Item) -> bool:
    """Whether a test is started first, so that no long test runs alone at the end."""
    return any(item.get_closest_marker(name) for name in ("whole_stack", "browser", "slow"))


def fixtures_of(item: pytest.Item) -> set[str]:
    """The fixtures that a test needs, directly or not."""
    return set(getattr(item, "fixturenames", ()))
