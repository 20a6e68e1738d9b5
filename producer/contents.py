"""Texts and contents one by one: the queries of a catalog, the candidates of `rerank query`.

They stand one a line, as text or as a JSON content, or in the rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rerankfleet.producer.inputs.tables import (
    CONTENTS,
    opened,
    refuse_other_lines,
    table_lines,
    table_suffix,
)
from rerankfleet.shared.errors import ItemError, UsageError
from rerankfleet.shared.formats.encodings import is_blank
from rerankfleet.shared.formats.lines import MALFORMED, json_object, text_of
from rerankfleet.shared.formats.sources import first_lines, plain, refuse_other_kinds
from rerankfleet.shared.storage.objects import Objects

CONTENT_HINT = 'write text, or {"text"?, "image"?, "id"?}'


def read_contents(
    source: str,
    objects: Objects | None,
    bytes_max: int,
    *,
    word: str = "line",
    when_large: str = "split it",
) -> Iterator[tuple[int, Any]]:
    """What the lines of a file hold, each with its line's number from 1: a text, the fields of a
    content, or None where it is blank; what the rows of a table hold.

    The file is lines, or CSV or Parquet with the columns text, image, id; without `objects` it is
    local. Raises UsageError naming the first `word` that cannot be read, and, with the hint
    `when_large`, for a file of more than `bytes_max`.
    """
    size = 0
    for number, line in enumerate(_lines(source, objects, bytes_max), 1):
        size += len(line)
        if size > bytes_max:
            message = f"{source} is larger than is read: it has more than {bytes_max} bytes"
            raise UsageError(message, hint=when_large)
        if not is_blank(line):
            yield number, _content(f"{source}, {word} {number}", line)
        elif not table_suffix(source):
            yield number, None


def _lines(source: str, objects: Objects | None, bytes_max: int) -> Iterator[bytes]:
    """The lines with their ends; of one that is too long the beginning."""
    if not table_suffix(source):
        with opened(source, objects) as raw, plain(raw, source) as stream:
            refuse_other_kinds(stream, source, "lines of text", CONTENT_HINT)
            refuse_other_lines(b"".join((first_lines(stream) or [])[:1]), source, CONTENTS)
            yield from iter(lambda: stream.readline(bytes_max + 1), b"")
        return
    with table_lines(source, objects, bytes_max, CONTENTS) as rows:
        for row in rows:
            yield from row.splitlines(keepends=True)


def _content(where: str, line: bytes) -> Any:
    try:
        text = text_of(line).strip()
        if not text.startswith("{"):
            return text
        fields = json_object(line)
    except ItemError as error:
        is_text = error.message.startswith("not UTF-8")
        raise UsageError(
            f"{where} is {error.message if is_text else 'not valid JSON'}",
            hint=error.hint if is_text else f"{CONTENT_HINT} ({error.message})",
        ) from error
    if MALFORMED in fields:
        raise UsageError(f"{where}: {fields[MALFORMED]}", hint=CONTENT_HINT)
    return fields
