"""POST /rerank with `texts`, as clients of text-embeddings-inference speak it: a bare list back."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import AliasChoices, ConfigDict, FailFast, Field
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import (
    Gateway,
    RerankInput,
    as_json,
    refuse_unscored,
)
from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.fields import Fields, idempotency_key, ignored_all
from rerankfleet.producer.gateway.formats.losses import losses
from rerankfleet.shared.errors import TooLarge

WARNINGS_HEADER = "X-Rerank-Warnings"
"""A JSON list of warnings, since a bare list of scores has no place for them."""
WARNINGS_MAX = 10
"""More are left out: clients read no long headers."""


class TeiBody(Fields):
    """One query with its texts. Other fields are ignored, as TEI ignores them; the answer's header
    says so."""

    model_config = ConfigDict(extra="allow")

    query: str
    texts: Annotated[list[str], FailFast()]
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] | None = None
    raw_scores: bool | None = None
    return_text: bool | None = Field(
        default=None, validation_alias=AliasChoices("return_text", "return_documents")
    )
    model: str | None = Field(default=None, max_length=512)


async def answer(gateway: Gateway, request: Request, body: TeiBody) -> Response:
    """Score a request and answer as TEI does. Texts are cut at their end; a longer one is an
    error if `truncate` is false or `truncation_direction` is left."""
    rerank_input = RerankInput(body.query, body.texts, documents_field="texts")
    key = idempotency_key(request)
    scored = await gateway.ask(request, [rerank_input], model=body.model, key=key)
    refuse_unscored(scored.outcomes[0])
    results = scored.line(0)["results"]
    if cut := [result for result in results if result.get("truncated_tokens")]:
        _refuse_cut(body, f"texts[{cut[0]['index']}] is too long")
    warnings = ignored_all(body)
    warnings += losses(((result["index"], result) for result in results), "text")
    answered = as_json([_rank(result, body) for result in results])
    if warnings:
        answered.headers[WARNINGS_HEADER] = json.dumps(warnings[:WARNINGS_MAX])
    return answered


def _refuse_cut(body: TeiBody, message: str) -> None:
    if body.truncate is False:
        raise TooLarge(message, hint="set truncate to true")
    if body.truncation_direction in ("left", "Left"):
        message += ", and texts are cut at their end only"
        raise InvalidField(("truncation_direction",), message)


def _rank(result: dict[str, Any], body: TeiBody) -> dict[str, Any]:
    score = result["margin" if body.raw_scores else "relevance_score"]
    rank = {"index": result["index"], "score": score}
    return {**rank, "text": body.texts[result["index"]]} if body.return_text else rank
