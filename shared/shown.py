"""Text from anywhere, before a person sees it in a terminal or a log. JSON stays exact.

Names, ids, addresses, errors and names of models come from users, files and other machines: an
escape sequence or a mark of direction in them must not move the cursor, change colours, turn a line
around, or begin one that looks like ours.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any


def clean(text: str) -> str:
    """The text with a space in place of each character that is not printed: breaks of lines,
    control characters, marks of direction, halves of characters. It stays as long as it is."""
    return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)


def one_line(text: object) -> str:
    """Clean text for one place of a table or a sentence: without space at its ends or twice."""
    return " ".join(clean(str(text)).split())


def clean_lines(text: str) -> str:
    """Text of several lines, such as a traceback, each clean."""
    return "\n".join(map(clean, text.split("\n")))


def amount(size: int) -> str:
    """A number of bytes for people: "3.2 GiB"."""
    value, units = float(size), iter(("bytes", "KiB", "MiB", "GiB", "TiB"))
    unit = next(units)
    while value >= 1024 and (larger := next(units, "")):
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def tell(text: str) -> None:
    """Write a line for people on standard error."""
    sys.stderr.write(f"{clean(text)}\n")


def clean_log(_logger: object, _method: str, event: MutableMapping[str, Any]) -> Any:
    """A processor of structlog: cleans what a line of the log holds. What is no text is shown by
    its `repr`, which is clean."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = clean_lines(value) if name == "exception" else clean(value)
    return event
