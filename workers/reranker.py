"""The engine in your own process: no queue, no Redis, no second process.

from workers import Reranker

scores = Reranker("pocket-text").process(
    {"query": "how do I open a file?", "documents": ["Use open().", {"text": "A recipe."}]}
)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from shared.calibration import relevance_score
from shared.errors import ItemError
from shared.lines import slice_of
from workers.batcher import Batcher
from workers.engine import load_engine
from workers.packing import Limit
from workers.prompts import Prompt, Request

T = TypeVar("T")

#: The caller holds the request already; no line of a file is read.
_NO_BOUND = 1 << 40


class Reranker:
    """One loaded model. `options` are those of `workers.engine.load.load`.

    Raises UnknownModel or ModelRefused when the model cannot be used.
    """

    def __init__(
        self,
        model: str,
        *,
        max_length: int = 8192,
        temperature: float = 1.0,
        limit: Limit | None = None,
        **options: Any,
    ) -> None:
        self.engine = load_engine(model, **options)
        self._max_length = max_length
        self._temperature = temperature
        self._limit = limit or self.engine.self_test().limit

    def process(self, request: Mapping[str, Any]) -> list[float]:
        """Relevance scores (0 to 1) of a request's documents, in their order.

        `request`: {"query", "documents": [text or {"text"}], "instruction"?}. Raises
        ItemError for a malformed request and for a document that cannot be scored.
        """
        return [relevance_score(m, self._temperature) for m in self.margins(request)]

    def margins(self, request: Mapping[str, Any]) -> list[float]:
        """Like `process`, but z_yes - z_no: what rankings are made of."""
        checked = slice_of(1, request, max_documents=_NO_BOUND)
        for failure in checked.failures:
            raise ItemError(failure.code, failure.message, hint=failure.hint)
        texts = [document.text or "" for document in checked.documents]
        asked = Request.of(checked.query.text or "", texts, checked.instruction)
        (prompts,) = self.engine.prompter.encode_all([asked], max_length=self._max_length)
        return self._score([_or_raise(p) for p in prompts])

    def _score(self, prompts: Sequence[Prompt]) -> list[float]:
        """Through the batcher of the queue path, so that both have one behaviour."""
        batcher = Batcher(self.engine, self._limit, waiting_tokens_max=_NO_BOUND)
        try:
            outcomes = batcher.submit(prompts).result()
        finally:
            batcher.close()
        return [_or_raise(outcome) for outcome in outcomes]


def _or_raise(outcome: T | ItemError) -> T:
    if isinstance(outcome, ItemError):
        raise outcome
    return outcome
