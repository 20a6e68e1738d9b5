"""POST /rerank with `texts`, as clients of text-embeddings-inference speak it: a bare list back."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from producer.gateway.asking import Asked, Gateway, as_json, refuse_unscored
from producer.gateway.errors import InvalidField
from producer.gateway.fields import idempotency_key, ignored
from shared.errors import TooLarge


class TeiBody(BaseModel):
    """One query with its texts. Other fields are ignored; a bare list has no place to tell so."""

    model_config = ConfigDict(extra="allow")

    query: str
    texts: list[str]
    truncate: bool | None = None
    truncation_direction: Literal["right", "Right", "left", "Left"] = "right"
    raw_scores: bool = False
    return_text: bool = False
    model: str | None = None


async def answer(gateway: Gateway, request: Request, body: TeiBody) -> Response:
    """Score a request and tell it as TEI does. Texts are cut at their end, unless `truncate` is
    false or they were to be cut at the other one: then a text that is too long is an error."""
    asked = Asked(body.query, body.texts, documents_name="texts")
    ignored(body)
    found = await gateway.ask(request, [asked], model=body.model, key=idempotency_key(request))
    refuse_unscored(found.outcomes[0])
    results = found.line(0)["results"]
    if cut := [result for result in results if result.get("truncated_tokens")]:
        _refuse_cut(body, f"texts[{cut[0]['index']}] is too long")
    return as_json([_rank(result, body) for result in results])


def _refuse_cut(body: TeiBody, said: str) -> None:
    if body.truncate is False:
        raise TooLarge(said, hint="set truncate to true")
    if body.truncation_direction.lower() == "left":
        raise InvalidField("truncation_direction", f"{said}, and texts are cut at their end only")


def _rank(result: dict[str, Any], body: TeiBody) -> dict[str, Any]:
    score = result["margin" if body.raw_scores else "relevance_score"]
    told = {"index": result["index"], "score": score}
    return {**told, "text": body.texts[result["index"]]} if body.return_text else told
