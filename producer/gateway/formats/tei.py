"""POST /rerank with `texts`, as clients of text-embeddings-inference speak it: a bare list back."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Request
from pydantic import ConfigDict, FailFast, Field
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import (
    Gateway,
    RerankInput,
    as_json,
    refuse_unscored,
)
from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.fields import Fields, idempotency_key, ignored
from rerankfleet.shared.errors import TooLarge


class TeiBody(Fields):
    """One query with its texts. Other fields are ignored; a bare list has no place to tell so."""

    model_config = ConfigDict(extra="allow")

    query: str
    texts: Annotated[list[str], FailFast()]
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] | None = None
    raw_scores: bool | None = None
    return_text: bool | None = None
    model: str | None = Field(default=None, max_length=512)


async def answer(gateway: Gateway, request: Request, body: TeiBody) -> Response:
    """Score a request and tell it as TEI does. Texts are cut at their end, unless `truncate` is
    false or they were to be cut at the other one: then a text that is too long is an error."""
    rerank_input = RerankInput(body.query, body.texts, documents_name="texts")
    ignored(body)
    key = idempotency_key(request)
    scored = await gateway.ask(request, [rerank_input], model=body.model, key=key)
    refuse_unscored(scored.outcomes[0])
    results = scored.line(0)["results"]
    if cut := [result for result in results if result.get("truncated_tokens")]:
        _refuse_cut(body, f"texts[{cut[0]['index']}] is too long")
    return as_json([_rank(result, body) for result in results])


def _refuse_cut(body: TeiBody, problem: str) -> None:
    if body.truncate is False:
        raise TooLarge(problem, hint="set truncate to true")
    if body.truncation_direction in ("left", "Left"):
        raise InvalidField(
            "truncation_direction", f"{problem}, and texts are cut at their end only"
        )


def _rank(result: dict[str, Any], body: TeiBody) -> dict[str, Any]:
    score = result["margin" if body.raw_scores else "relevance_score"]
    rank = {"index": result["index"], "score": score}
    return {**rank, "text": body.texts[result["index"]]} if body.return_text else rank
