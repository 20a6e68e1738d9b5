"""POST /v1/rerank: one answer that our own, Jina's and vLLM's clients can all read.

Jina reads `model, usage.total_tokens, results[].index, .relevance_score, .document`; vLLM reads
`id, model, usage.prompt_tokens, results[].document.text, .multi_modal`; the rest is ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Body, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.responses import Response

from producer.client import Answer
from producer.gateway import staged, tei
from producer.gateway.asking import Asked, Gateway, as_json, gateway_of
from producer.gateway.contents import AnyContent, AnyContents, content_of, documents_of
from producer.gateway.errors import SHAPE
from shared.ends import Caller
from shared.models import REJECTIONS

routes = APIRouter(tags=["rerank"])

Body_ = TypeVar("Body_", bound=BaseModel)

_IMAGE_FIELDS = {"preset": "image_preset"}
"""Fields of `image` whose option has another name."""


class ImageOptions(BaseModel):
    """How images are prepared."""

    model_config = ConfigDict(extra="forbid")

    preset: str | None = None
    resize_mode: Literal["crop", "fit"] | None = None
    max_crop: float | None = Field(default=None, ge=0, le=1)
    quality_threshold: float | None = Field(default=None, ge=0, le=1)
    quality_action: Literal["off", "reject", "downweight"] | None = None
    pad_color: tuple[Level, Level, Level] | None = None

    def options(self) -> dict[str, Any]:
        """As options of a job."""
        found = self.model_dump(exclude_none=True)
        return {_IMAGE_FIELDS.get(name, name): value for name, value in found.items()}


Level = Annotated[int, Field(ge=0, le=255)]


class Options(BaseModel):
    """What a request and a job both take."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=512)
    instruction: str | None = Field(
        default=None, validation_alias=AliasChoices("instruction", "instruct")
    )
    instructions: dict[str, str] | None = Field(
        default=None, description="ISO 639-1 code -> the instruction of queries in that language"
    )
    temperature: float | None = Field(default=None, ge=0.1, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_length: int | None = Field(default=None, ge=128, le=40_960)
    profile: str | None = Field(default=None, max_length=200)
    explain: bool | None = None
    image: ImageOptions = ImageOptions()

    def options(self) -> dict[str, Any]:
        """As options of a job; what was not said is left out."""
        named = ("instructions", "temperature", "top_p", "max_length", "profile", "explain")
        found = {name: getattr(self, name) for name in named}
        return {k: v for k, v in found.items() if v is not None} | self.image.options()


class RerankBody(Options):
    """One query with its documents."""

    query: AnyContent
    documents: AnyContents
    top_n: int | None = Field(default=None, ge=0, le=1 << 31, description="0: all")
    return_documents: bool | None = Field(
        default=None, description="unset: without the bytes of data: URIs"
    )
    raw_scores: bool = Field(default=False, description="relevance_score is the margin")
    use_activation: bool | None = Field(default=None, description="vLLM's word for the opposite")
    truncate_prompt_tokens: int | None = Field(
        default=None, ge=-1, le=40_960, description="vLLM's word for max_length; -1: the default"
    )
    user: str | None = None
    priority: int | None = None

    def options(self) -> dict[str, Any]:
        """As options of a job."""
        found = super().options()
        if "max_length" not in found and (self.truncate_prompt_tokens or -1) > 0:
            found["max_length"] = self.truncate_prompt_tokens
        return found

    @property
    def wants_margins(self) -> bool:
        """Whether relevance_score is to be the margin."""
        return self.raw_scores or self.use_activation is False


@routes.post("/v1/rerank", summary="Rerank documents: native, Jina's and vLLM's shape")
async def rerank(request: Request, body: RerankBody) -> Response:
    """Documents by relevance, best first. A bad image costs only its own document.

    With `Accept: text/event-stream` the request's stages are told as events: `queued`, `scoring`,
    then `answer` or `error`.
    """
    return await answer(gateway_of(request), request, body)


_EITHER = {"anyOf": [tei.TeiBody.model_json_schema(), {"$ref": "#/components/schemas/RerankBody"}]}


@routes.post("/rerank", summary="Rerank in TEI's shape (with `texts`), or as /v1/rerank")
async def rerank_either(
    request: Request, body: Annotated[dict[str, Any], WithJsonSchema(_EITHER), Body()]
) -> Response:
    """`texts` in the body says that TEI's bare list is expected."""
    if "texts" in body:
        request.scope[SHAPE] = "tei"
        return await tei.answer(gateway_of(request), request, body_of(tei.TeiBody, body))
    return await answer(gateway_of(request), request, body_of(RerankBody, body))


def body_of(kind: type[Body_], fields: dict[str, Any]) -> Body_:
    """A body of a shape that its own fields tell. Raises RequestValidationError."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from None


async def answer(gateway: Gateway, request: Request, body: RerankBody) -> Response:
    """Score a request and tell it in the superset of all shapes, with its stages if asked to."""
    asked = Asked(
        content_of(body.query, "query"),
        documents_of(body.documents),
        body.instruction,
        body.top_n,
    )

    async def ask(caller: Caller) -> dict[str, Any]:
        found = await gateway.ask(request, [asked], caller, model=body.model, **body.options())
        return _superset(found, body, asked)

    if staged.wants_stages(request):
        return await staged.answer(gateway.client, ask)
    return as_json(await ask(Caller()))


def _superset(found: Answer, body: RerankBody, asked: Asked) -> dict[str, Any]:
    line = found.line(0)
    errors = [_outcome(error) for error in line["errors"]]
    return {
        "id": f"rerank-{found.job.id}",
        "object": "rerank",
        "model": found.job.spec.model,
        "created": int(time.time()),
        "usage": usage(found),
        "results": [_result(result, body, asked) for result in line["results"]],
        "rejected": [error for error in errors if error["code"] in REJECTIONS],
        "errors": [error for error in errors if error["code"] not in REJECTIONS],
        "provenance": line["provenance"],
        "timings": {"total_s": found.total_s, "fleet_s": found.fleet_s},
    }


def usage(found: Answer) -> dict[str, int]:
    """What a request cost, rejected and cut-off documents included."""
    tokens = found.job.progress.tokens
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "image_tokens": sum(scored.tokens or 0 for scored in found.scored),
        "images": sum(len(scored.images or ()) for scored in found.scored),
    }


def _result(result: Mapping[str, Any], body: RerankBody, asked: Asked) -> dict[str, Any]:
    told = {**result, "logit": result["margin"]}
    if body.wants_margins:
        told["relevance_score"] = result["margin"]
    if explained := result.get("explain"):
        told["explain"] = {
            "visual_match": explained["visual_match"],
            "text_alignment": explained["text_alignment"],
            "cross_modal_consistency": explained["consistency"],
            "channels": explained["channels"],
        }
    if body.return_documents is not False:
        document = asked.documents[result["index"]]
        told["document"] = _document(document, whole=bool(body.return_documents))
    return told


def _document(document: Any, *, whole: bool) -> dict[str, Any]:
    """A document as Jina and vLLM return it; the bytes of data: URIs only where asked for."""
    fields = {"text": document} if isinstance(document, str) else dict(document)
    images = fields.get("image") or []
    uris = [images] if isinstance(images, str) else images
    kept = [uri for uri in uris if whole or not uri.startswith("data:")]
    parts = [{"type": "image_url", "image_url": {"url": uri}} for uri in kept]
    told = {"text": fields.get("text"), "multi_modal": parts or None}
    return {**told, "image": kept[0] if len(kept) == 1 else kept} if kept else told


def _outcome(error: Mapping[str, Any]) -> dict[str, Any]:
    """A document without a score. Its line is always the first: not worth telling."""
    return {"index": error.get("index"), **{k: error[k] for k in ("code", "message", "hint")}}
