"""POST /v2/rerank, as Cohere's own client speaks it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, FailFast, Field
from starlette.responses import Response

from rerankfleet.producer.gateway.admission import RerankInput, as_json, gateway_of
from rerankfleet.producer.gateway.formats.fields import IDEMPOTENT, Fields, idempotency_key, ignored
from rerankfleet.producer.gateway.formats.losses import losses
from rerankfleet.producer.gateway.json_bodies import JsonRoute
from rerankfleet.shared.content.options import TOKENS_MAX, PairOptions, ResultOptions

routes = APIRouter(tags=["rerank"], route_class=JsonRoute)

SEARCH_UNIT = 100
"""Documents of one search unit."""


class CohereBody(Fields, ResultOptions):
    """One query with its documents. Fields of later versions are ignored, with a warning."""

    model_config = ConfigDict(extra="allow")

    model: str | None = Field(default=None, max_length=512)
    query: str
    documents: Annotated[list[str], FailFast()]
    max_tokens_per_doc: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description=PairOptions.model_fields["max_tokens_per_doc"].description
    )
    """Cohere's models read more tokens than ours: any number is taken."""
    priority: int | None = None


@routes.post("/v2/rerank", summary="Rerank in Cohere's shape", openapi_extra=IDEMPOTENT)
async def rerank(request: Request, body: CohereBody) -> Response:
    """Texts by relevance, best first; one that could not be scored is left out with a warning."""
    rerank_input = RerankInput(body.query, body.documents, top_n=body.top_n)
    warnings = ignored(body, {"priority": body.priority})
    answer = await gateway_of(request).ask(
        request,
        [rerank_input],
        model=body.model,
        max_tokens_per_doc=body.max_tokens_per_doc and min(body.max_tokens_per_doc, TOKENS_MAX),
        key=idempotency_key(request),
    )
    line = answer.line(0)
    warnings += losses((result["index"], result) for result in line["results"])
    reply: dict[str, Any] = {
        "id": answer.job.id,
        "results": [
            {"index": result["index"], "relevance_score": result["relevance_score"]}
            for result in line["results"]
        ],
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"search_units": -(-len(body.documents) // SEARCH_UNIT)},
            "tokens": {"input_tokens": answer.job.progress.tokens},
        },
    }
    warnings += [f"document {e.get('index')}: {e['message']}" for e in line["errors"]]
    if warnings:
        reply["meta"]["warnings"] = warnings
    return as_json(reply)
