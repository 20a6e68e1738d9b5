"""Twins: equal documents of one request. They have one margin, so that they tie exactly.

The model's margin of a pair differs in its last digits from pack to pack, and the documents of a
request may be scored in several packs, shards and workers. So equal documents are found where the
request is read as a whole, and what was scored of them is made equal where its outcomes are joined:
the margin of the first is the margin of all, and they stand in the order of the request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rerankfleet.shared.content.content import Document
from rerankfleet.shared.content.outcomes import Scored


def find_twins(documents: Iterable[tuple[int, Document]]) -> dict[int, int]:
    """The index of each document that has an equal one before it -> the index of the first such.
    Their ids and metadata may differ."""
    first: dict[object, int] = {}
    twins: dict[int, int] = {}
    for index, document in documents:
        at = first.setdefault((document.text, document.image, document.video), index)
        if at != index:
            twins[index] = at
    return twins


def tie(results: Sequence[Scored]) -> list[Scored]:
    """The results of a request in the same order, with one margin for twins: that of the document
    which `twin` names or, where it has none, of the first one that has."""
    if not any(result.twin for result in results):
        return list(results)
    margins: dict[str, Scored] = {}
    for result in sorted(results, key=lambda result: (result.twin is not None, result.index)):
        margins.setdefault(result.twin or str(result.index), result)
    return [_with_margin_of(margins[r.twin or str(r.index)], r) for r in results]


def _with_margin_of(first: Scored, result: Scored) -> Scored:
    if result.margin == first.margin:
        return result
    same = {"margin": first.margin, "plain_margin": first.plain_margin}
    return result.model_copy(update=same)
