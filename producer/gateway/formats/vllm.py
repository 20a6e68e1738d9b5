"""POST /v1/score and /score, as vLLM's clients speak it: scores in the order of the pairs.

One query and one document, one and many, or as many of each: pair by pair.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import AliasChoices, Field
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import RerankInput, as_json, gateway_of, refuse_unscored
from rerankfleet.producer.gateway.errors import InvalidField
from rerankfleet.producer.gateway.formats.contents import AnyContent, content_of
from rerankfleet.producer.gateway.formats.fields import IDEMPOTENT, idempotency_key, ignored
from rerankfleet.producer.gateway.formats.losses import losses
from rerankfleet.producer.gateway.formats.native import usage
from rerankfleet.producer.gateway.formats.scoring import RequestOptions
from rerankfleet.producer.gateway.json_bodies import JsonRoute
from rerankfleet.shared.errors import Path, TooLarge

routes = APIRouter(tags=["rerank"], route_class=JsonRoute)


class ScoreBody(RequestOptions):
    """Queries and documents; one content is a list of one."""

    queries: AnyContent = Field(validation_alias=AliasChoices("queries", "data_1", "text_1"))
    documents: AnyContent = Field(
        validation_alias=AliasChoices("documents", "items", "data_2", "text_2")
    )
    use_activation: bool | None = None


@routes.post("/v1/score", summary="Score pairs: vLLM's shape", openapi_extra=IDEMPOTENT)
@routes.post("/score", summary="Score pairs: vLLM's shape", include_in_schema=False)
async def score(request: Request, body: ScoreBody) -> Response:
    """A score per pair, in the order of the pairs."""
    _refuse_many(request, body)
    queries = _contents(body.queries, "queries")
    documents = _contents(body.documents, "documents")
    inputs, places = _pairs(body, queries, documents)
    warnings, key = ignored(body), idempotency_key(request)
    answer = await gateway_of(request).ask(
        request, inputs, model=body.model, key=key, **body.options()
    )
    by_input = []
    score_field = "margin" if body.use_activation is False else "relevance_score"
    for number, outcome in enumerate(answer.outcomes):
        refuse_unscored(outcome)
        results = answer.line(number)["results"]
        by_input.append(sorted(results, key=lambda result: result["index"]))
    scored: list[dict[str, Any]] = [result for place in places for result in by_input[place]]
    warnings += losses(enumerate(scored), "pair")
    return as_json(
        {
            "id": f"score-{answer.job.id}",
            "object": "list",
            "created": answer.job.number("created_ms") // 1000,
            "model": answer.job.spec.model,
            "data": [
                {"index": at, "object": "score", "score": result[score_field]}
                for at, result in enumerate(scored)
            ],
            "usage": usage(answer),
            "warnings": warnings,
        }
    )


def _contents(value: Any, field: str) -> list[Any]:
    if isinstance(value, list):
        return [content_of(one, (field, at)) for at, one in enumerate(value)]
    if isinstance(value, dict) and isinstance(value.get("content"), list):
        # vLLM takes it for many contents, others for one
        hint = 'write [{"content": [...]}] for one of several parts, a list for many'
        raise InvalidField((field,), "a bare {content: [...]} can be read in two ways", hint=hint)
    return [content_of(value, (field,))]


def _refuse_many(request: Request, body: ScoreBody) -> None:
    """Raise TooLarge for more pairs than one request may have."""
    most = gateway_of(request).client.settings.max_documents_per_request
    if any(isinstance(v, list) and len(v) > most for v in (body.queries, body.documents)):
        raise TooLarge(f"a request may have {most} pairs", hint="submit them as a job")


def _pairs(
    body: ScoreBody, queries: list[Any], documents: list[Any]
) -> tuple[list[RerankInput], list[int]]:
    """One request for one query, else one per pair; and the place of each pair's request among
    them. Equal pairs share one, so that they have one score."""
    if not queries:
        raise InvalidField(("queries",), "there is none", hint="give at least one")
    if len(queries) == 1:
        path: Path = ("queries", 0) if isinstance(body.queries, list) else ("queries",)
        return [RerankInput(queries[0], documents, body.instruction, query_path=path)], [0]
    if len(queries) != len(documents):
        raise InvalidField(
            ("documents",),
            f"{len(queries)} queries and {len(documents)} documents do not make pairs",
            hint="give one query, or as many queries as documents",
        )
    inputs: list[RerankInput] = []
    first: dict[str, int] = {}
    places = []
    for at, pair in enumerate(zip(queries, documents, strict=True)):
        place = first.setdefault(json.dumps(pair, sort_keys=True), len(inputs))
        if place == len(inputs):
            query, document = pair
            path = ("queries", at)
            inputs.append(
                RerankInput(query, [document], body.instruction, query_path=path, first=at)
            )
        places.append(place)
    return inputs, places
