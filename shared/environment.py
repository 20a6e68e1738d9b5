"""What is wrong with the variables themselves: unknown names, empty ones, files that hold no value.

Reads none of them: `shared/settings.py` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from rerankfleet.shared.errors import UsageError

_OTHERS = re.compile(
    r"RERANK_(MODEL|MODEL_GPU|TEST_\w+"  # docker-compose.yml, the tests
    r"|(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?))"
)
"""Variables that are no settings: also those that Kubernetes sets for a Service rerank-..."""
_NEVER_EMPTY = {
    "RERANK_API_KEYS": ("key", "keys, comma-separated"),
    "RERANK_API_KEYS_FILE": ("path", "the path of a file"),
}
"""What would leave a gateway open if it were set in vain: what is missing, what is expected."""


def url_in(file: Path) -> str:
    """The URL of Redis in a file. Raises UsageError, which never shows what else the file holds."""
    try:
        line, *more = file.read_text(encoding="utf-8").strip().splitlines() or [""]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(
            f"the file of RERANK_REDIS_URL_FILE, {file}, cannot be read ({reason})",
            hint="mount it, and let this user read it",
        ) from error
    if not line or more:
        raise UsageError(
            f"the file of RERANK_REDIS_URL_FILE, {file}, holds {len(more) + bool(line)} lines",
            hint="write one line: redis://:PASSWORD@HOST:6379/0",
        )
    return line


def refuse_unknown(environ: Mapping[str, str], settings: Iterable[str]) -> None:
    """Raise UsageError for a variable RERANK_… that is none of the settings, and for one that must
    not be set in vain."""
    known = {f"RERANK_{name.upper()}" for name in settings}
    for name in environ:
        upper = name.upper()
        if not upper.startswith("RERANK_") or upper in known or _OTHERS.fullmatch(upper):
            continue
        near = get_close_matches(upper, known, n=1, cutoff=0.8)
        raise UsageError(
            f"{name} is not a setting",
            hint=f"did you mean {near[0]}?" if near else "docs/settings.md lists them: unset it",
        )
    for name, (what, expected) in _NEVER_EMPTY.items():
        value = environ.get(name)
        if value is not None and not value.replace(",", "").strip():
            raise UsageError(
                f"{name} is set and holds no {what}", hint=f"write {expected}, or unset it"
            )
