"""POST /v1/rerank: one answer that our own, Jina's and vLLM's clients can all read.

Jina reads `model, usage.total_tokens, results[].index, .relevance_score, .document`; vLLM reads
`id, model, usage.prompt_tokens, results[].document.text, .multi_modal`; the rest is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal, TypeVar

import structlog
from fastapi import APIRouter, Body, Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from starlette.responses import Response

from rerankfleet.producer.api_keys import ApiKey
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.admission import Gateway, RerankInput, as_json, gateway_of, taken
from rerankfleet.producer.gateway.errors import MODEL, SHAPE, InvalidField
from rerankfleet.producer.gateway.formats import tei
from rerankfleet.producer.gateway.formats.contents import (
    AnyContent,
    AnyContents,
    content_of,
    documents_of,
)
from rerankfleet.producer.gateway.formats.fields import (
    IDEMPOTENT,
    KEY_CHARACTERS,
    idempotency_key,
    ignored,
)
from rerankfleet.producer.gateway.formats.losses import losses
from rerankfleet.producer.gateway.formats.scoring import RequestOptions
from rerankfleet.producer.gateway.json_bodies import JsonRoute
from rerankfleet.producer.gateway.rights import JOBS, key_of, require
from rerankfleet.producer.gateway.streaming import staged
from rerankfleet.producer.interactive import Answer
from rerankfleet.shared.addresses import without_login
from rerankfleet.shared.content.data_uris import carries_file
from rerankfleet.shared.content.options import ResultOptions
from rerankfleet.shared.content.outcomes import REJECTIONS
from rerankfleet.shared.errors import TooLarge
from rerankfleet.shared.formats.output import dump_line

routes = APIRouter(tags=["rerank"], route_class=JsonRoute)

log = structlog.get_logger()

Body_ = TypeVar("Body_", bound=BaseModel)


class RerankBody(RequestOptions, ResultOptions):
    """One query with its documents."""

    model_config = ConfigDict(extra="allow")

    query: AnyContent
    documents: AnyContents
    return_documents: bool | None = Field(
        default=None, description="unset: without the bytes of data: URIs"
    )
    raw_scores: bool | None = Field(default=None, description="relevance_score is the margin")
    use_activation: bool | None = Field(default=None, description="vLLM's name for the opposite")
    mode: Literal["sync", "async"] | None = Field(
        default=None, description="async: a job, answered with 202 at once"
    )
    idempotency_key: str | None = Field(
        default=None,
        min_length=1,
        max_length=KEY_CHARACTERS,
        description="repeating it does no work twice; or as the header Idempotency-Key",
    )

    @model_validator(mode="after")
    def _wants_one_kind(self) -> RerankBody:
        """Raises InvalidField when scores are to be margins by one name, and not by the other."""
        raw, activated = self.raw_scores, self.use_activation
        if raw is not None and raw == activated:
            message = "`use_activation` is the opposite of `raw_scores`, and has the same value"
            raise InvalidField(("use_activation",), message, hint="give one of them")
        return self

    @property
    def wants_margins(self) -> bool:
        """Whether relevance_score is to be the margin."""
        return bool(self.raw_scores) or self.use_activation is False

    @property
    def of_the_answer(self) -> dict[str, Any]:
        """Fields that only concern an answer, where they are set."""
        named = ("return_documents", "raw_scores", "use_activation")
        return {name: getattr(self, name) for name in named if name in self.model_fields_set}


_ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"description": "mode async: the job that was made, and where its results will be"}
}


@routes.post(
    "/v1/rerank",
    summary="Rerank documents: native, Jina's and vLLM's shape",
    responses=_ACCEPTED,
    openapi_extra=IDEMPOTENT,
)
async def rerank(request: Request, body: RerankBody) -> Response:
    """Documents by relevance, best first. A bad image fails only its own document.

    With `Accept: text/event-stream` the request's stages are sent as events: `queued`, `scoring`,
    then `answer` or `error`.
    """
    return await answer(gateway_of(request), request, body)


_EITHER = {"anyOf": [tei.TeiBody.model_json_schema(), {"$ref": "#/components/schemas/RerankBody"}]}


@routes.post(
    "/rerank",
    summary="Rerank in TEI's shape (with `texts`), or as /v1/rerank",
    responses=_ACCEPTED,
    openapi_extra=IDEMPOTENT,
)
async def rerank_either(
    request: Request, body: Annotated[dict[str, Any], WithJsonSchema(_EITHER), Body()]
) -> Response:
    """With `texts` in the body the response is TEI's bare list."""
    if body.get("texts") is not None:
        request.scope[SHAPE] = "tei"
        return await tei.answer(gateway_of(request), request, body_of(tei.TeiBody, body))
    return await answer(gateway_of(request), request, body_of(RerankBody, body))


def body_of(kind: type[Body_], fields: dict[str, Any]) -> Body_:
    """The fields as a body of this kind. Raises RequestValidationError."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(errors, body=fields) from None


async def answer(gateway: Gateway, request: Request, body: RerankBody) -> Response:
    """Score a request and answer in the superset of all formats, with stages where accepted."""
    most = gateway.client.settings.max_documents_per_request
    rerank_input = RerankInput(
        content_of(body.query, ("query",)),
        documents_of(body.documents, most),
        body.instruction,
        body.top_n,
    )
    key = idempotency_key(request, body.idempotency_key)
    if body.mode == "async":
        return await _accept(gateway, request, body, rerank_input, key)
    warnings = ignored(body)

    async def answer_plain(on_start: staged.OnStart | None = None) -> dict[str, Any]:
        options = {"model": body.model, "key": key, **body.options()}
        scored = await gateway.ask(request, [rerank_input], on_start, **options)
        reply = _superset(scored, body, rerank_input)
        lost = losses((result["index"], result) for result in reply["results"])
        return {**reply, "warnings": [*warnings, *lost]}

    if staged.wants_stages(request):
        return await staged.answer(request, answer_plain)
    return as_json(await answer_plain())


async def _accept(
    gateway: Gateway, request: Request, body: RerankBody, rerank_input: RerankInput, key: str | None
) -> Response:
    """Make a job of a request, and answer where its results will be."""
    owner = key_of(request)
    require(owner, JOBS, "make jobs")
    warnings = ignored(body, body.of_the_answer)
    request.scope[MODEL] = body.model
    with taken(gateway.jobs, "new jobs"):
        told = await gateway.in_thread(_make_job, gateway.client, body, rerank_input, key, owner)
    request.scope[MODEL] = told["model"]
    log.info("a job was submitted", job=told["id"])
    answered = as_json({**told, "warnings": warnings}, 202)
    answered.headers["Location"] = told["links"]["self"]
    return answered


def _make_job(
    client: Client, body: RerankBody, rerank_input: RerankInput, key: str | None, owner: ApiKey
) -> dict[str, Any]:
    """A job of this request as its one line. What is wrong with it is said now, as if it were to
    be answered at once."""
    rerank_input.piece(1, client.settings.max_documents_per_request)
    line = dump_line(rerank_input.line)
    if len(line) > client.settings.max_line_bytes:
        raise TooLarge(f"a request of {len(line)} bytes", hint="raise RERANK_MAX_LINE_BYTES")
    with TemporaryDirectory(prefix="rerank-") as folder:
        file = Path(folder, "request.jsonl")
        file.write_bytes(line)
        options = body.options() | owner.of_its_jobs
        job_id = client.submit(file, model=body.model, key=key, over_http=True, **options)
    status, home = client.status(job_id), f"/v1/jobs/{job_id}"
    parts = ("results", "errors", "events", "cancel")
    return {
        "id": job_id,
        "object": "job",
        "model": status.model,
        "state": status.state,
        "links": {"self": home} | {name: f"{home}/{name}" for name in parts},
    }


def _superset(scored: Answer, body: RerankBody, rerank_input: RerankInput) -> dict[str, Any]:
    line = scored.line(0)
    errors = [_outcome(error) for error in line["errors"]]
    return {
        "id": f"rerank-{scored.job.id}",
        "object": "rerank",
        "model": scored.job.spec.model,
        "created": scored.job.number("created_ms") // 1000,
        "usage": usage(scored),
        "results": [_result(result, body, rerank_input) for result in line["results"]],
        "rejected": [error for error in errors if error["code"] in REJECTIONS],
        "errors": [error for error in errors if error["code"] not in REJECTIONS],
        "provenance": line["provenance"],
        "timings": {"total_s": scored.total_s, "fleet_s": scored.fleet_s},
    }


def usage(answer: Answer) -> dict[str, int]:
    """What a request cost, including rejected documents and those cut off by top_n."""
    tokens = answer.job.progress.tokens
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "image_tokens": sum(scored.tokens or 0 for scored in answer.scored),
        "images": sum(len(scored.images or ()) for scored in answer.scored),
    }


def _result(
    result: Mapping[str, Any], body: RerankBody, rerank_input: RerankInput
) -> dict[str, Any]:
    ranked = {**result, "logit": result["margin"]}
    if body.wants_margins:
        ranked["relevance_score"] = result["margin"]
    if explained := result.get("explain"):
        ranked["explain"] = {
            "visual_match": explained["visual_match"],
            "text_alignment": explained["text_alignment"],
            "cross_modal_consistency": explained["consistency"],
            "channels": explained["channels"],
        }
    if body.return_documents is not False:
        document = rerank_input.documents[result["index"]]
        ranked["document"] = _document(document, whole=bool(body.return_documents))
    return ranked


def _document(document: Any, *, whole: bool) -> dict[str, Any]:
    """A document as Jina and vLLM return it, addresses without user and password; the bytes of
    data: URIs only if `whole`."""
    fields = {"text": document} if isinstance(document, str) else dict(document)
    images = fields.get("image") or []
    uris = [images] if isinstance(images, str) else images
    kept = [
        uri if carries_file(uri) else without_login(uri)
        for uri in uris
        if whole or not carries_file(uri)
    ]
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in kept]
    returned = {"text": fields.get("text"), "multi_modal": parts or None}
    return {**returned, "image": kept[0] if len(kept) == 1 else kept} if kept else returned


def _outcome(error: Mapping[str, Any]) -> dict[str, Any]:
    """A document without a score. Its line is left out: it is always the first."""
    return {"index": error.get("index")} | {k: v for k, v in error.items() if k != "line"}
