"""How what rerankfleet keeps in its storage is called, and how versions of it are told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,128}")


def is_name(text: str) -> bool:
    """Whether a text may name something in the storage: it leads nowhere else."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Stat:
    """Identifies a version of an object: its size and a tag that changes with its bytes."""

    size: int
    tag: str
