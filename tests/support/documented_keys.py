"""The keys that `shared/state/keys.py` lists, read from its own text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import cache

from rerankfleet.shared.state import keys

ROW = re.compile(r"^    (?P<key>\{p\}:\S+)(?:\s+(?P<type>\w+) .*)?$", re.MULTILINE)
"""A row of the table; the type of a long key stands in the next line."""


@cache
def documented() -> dict[re.Pattern[str], str]:
    """A pattern of each key, without the prefix, and its type."""
    lines = (keys.__doc__ or "").splitlines()
    found = {}
    for line, after in itertools.pairwise(lines):
        if row := ROW.match(line):
            pattern = re.sub(r"\\\{\w+\\\}", "[^:]+", re.escape(row["key"].removeprefix("{p}:")))
            found[re.compile(pattern)] = row["type"] or after.split()[0]
    return found


def undocumented_keys(types: Mapping[str, str], prefix: str) -> list[str]:
    """The keys, given with their types, that are not in the table or have another type there."""
    table = documented()
    return sorted(
        key
        for key, kind in types.items()
        if kind not in _types(table, key.removeprefix(f"{prefix}:"))
    )


def _types(table: Mapping[re.Pattern[str], str], name: str) -> set[str]:
    return {kind for pattern, kind in table.items() if pattern.fullmatch(name)}
