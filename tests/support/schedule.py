"""Which tests are expensive, and which share slow fixtures and so run in one process of `-n`."""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.stack import START_STACK

STACKS = {
    "stack of end_to_end": (
        "tests/end_to_end/test_batch_limits.py",
        "tests/end_to_end/test_disturbed_jobs.py",
        "tests/end_to_end/test_other_stories.py",
        "tests/end_to_end/test_poison.py",
        "tests/end_to_end/test_scenarios.py",
        "tests/end_to_end/test_statistics.py",
        "tests/end_to_end/test_storage_away.py",
    ),
    "stack of gateway": (
        "tests/gateway/test_metrics.py",
        "tests/gateway/formats/test_shapes.py",
        "tests/gateway/formats/test_ties.py",
    ),
    "vl_stack": (
        "tests/end_to_end/test_poison_images.py",
        "tests/gateway/test_images.py",
        "tests/producer/test_client_images.py",
        "tests/producer/terminal/test_query.py",
        "tests/producer/terminal/test_top.py",
        "tests/web/test_jobs.py",
        "tests/web/test_rerank.py",
    ),
}
"""Files whose tests share a stack: they run one after the other in one process."""
SINGLE = ("tests/chaos/test_runs.py", "tests/test_benchmarks.py")
"""Files whose tests are long and share nothing."""

_GROUPS = {file: stack for stack, files in STACKS.items() for file in files}


class Scheduling(LoadScopeScheduling):
    """Gives a process one group of tests after the other, in the order of the tests."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def group_of(nodeid: str) -> str:
    """The tests of a stack, or of a file, or one alone."""
    file = nodeid.partition("::")[0]
    return nodeid if file in SINGLE else _GROUPS.get(file, file)


def needs_stack(item: pytest.Item) -> bool:
    """Whether a test runs in a stack, or runs one."""
    return START_STACK in getattr(item, "fixturenames", ()) or "end_to_end" in item.path.parts


def is_long(item: pytest.Item) -> bool:
    """Whether a test is started first, so that no long test runs alone at the end."""
    return any(item.get_closest_marker(name) for name in ("whole_stack", "browser", "slow"))
