"""Tables for people."""

from __future__ import annotations

import pytest

from rerankfleet.producer.terminal import tables


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "–"), (0, "0s"), (59.4, "59s"), (61, "1m 01s"), (3600, "1h 00m"), (90061, "1d 1h")],
)
def test_durations_read_well(seconds, words):
    assert tables.duration(seconds) == words
