"""Routes about the fleet: models, presets, workers, health."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, cast

from fastapi import APIRouter, Query, Request
from pydantic_core import to_jsonable_python
from starlette.responses import Response

from rerankfleet import __version__
from rerankfleet.producer.client import Client
from rerankfleet.producer.gateway.admission import as_json, gateway_of, in_thread
from rerankfleet.producer.gateway.history import History
from rerankfleet.shared.content.images import PRESETS
from rerankfleet.shared.content.options import DEFAULT_INSTRUCTION, PLAIN_OPTIONS
from rerankfleet.shared.errors import Unavailable
from rerankfleet.shared.job_spec import Priority
from rerankfleet.shared.metrics import STAGES, Counts
from rerankfleet.shared.profiles import load_profiles
from rerankfleet.shared.settings import Settings
from rerankfleet.shared.state.connection import REDIS_ERRORS
from rerankfleet.shared.state.fleet import WorkerRow
from rerankfleet.shared.state.fleet_snapshot import FleetSnapshot

routes = APIRouter(tags=["fleet"])

INSTRUCTIONS = {
    "web search": DEFAULT_INSTRUCTION,
    "same image": "Given an image, retrieve images of the same object",
    "products": "Given a shopping query, retrieve products that match its category, "
    "specification, price and the shopper's intent",
    "questions": "Given a question, retrieve passages that answer it",
    "papers": "Given a research question, retrieve papers that match its topic and method",
}
"""Instructions to begin with, as the page offers them."""

PACKS = 100
"""The last packs of each worker that an answer holds."""

SKEW_S = 30.0
"""How far the clocks of hosts may be apart: an answer overlaps the one before by this much."""


@routes.get("/v1/models", summary="List the models that are served")
async def models(request: Request) -> Response:
    """Each with its workers and what waits for it."""
    return as_json(await in_thread(_models, gateway_of(request).client))


def _models(client: Client) -> dict[str, Any]:
    fleet, queue_max = client.store.snapshot(), client.settings.interactive_queue_max
    data = [_model(fleet, name, queue_max) for name in fleet.served_models]
    return {"object": "list", "data": data}


def _model(fleet: FleetSnapshot, name: str, queue_max: int) -> dict[str, Any]:
    workers, queue = fleet.workers_of(name), fleet.queue(name)
    first = max(workers, key=lambda worker: worker.state == "ready")
    waiting = queue.waiting[Priority.interactive]
    return {
        "id": name,
        "object": "model",
        "owned_by": "rerankfleet",
        "state": _state(workers),
        "workers": len(workers),
        "sees": first.supports_images,
        "pairs_per_s": sum(worker.pairs_per_s for worker in workers),
        "stats": {
            "queue_absolute": waiting,
            "queue_fraction": waiting / queue_max,
            "results_pending": queue.open_shards,
        },
        "dtype": first.dtype,
        "attention": first.attention,
    }


def _state(workers: list[WorkerRow]) -> str:
    """The best of its workers' states."""
    states = {worker.state for worker in workers}
    return next(state for state in ("ready", "loading", "draining") if state in states)


@routes.get("/v1/presets", summary="List what can be chosen")
async def presets(request: Request) -> Response:
    """Instructions to begin with, profiles, presets of images, and the defaults."""
    known = await in_thread(load_profiles, gateway_of(request).client.settings.profiles)
    profiles = [{"name": name, **one.model_dump(mode="json")} for name, one in known.items()]
    return as_json(
        {
            "instructions": [{"name": k, "text": v} for k, v in INSTRUCTIONS.items()],
            "profiles": profiles,
            "image_presets": [
                {
                    "name": name,
                    "width": preset.target[0] if preset.target else None,
                    "height": preset.target[1] if preset.target else None,
                    "about": preset.about,
                }
                for name, preset in PRESETS.items()
            ],
            "defaults": PLAIN_OPTIONS.model_dump(mode="json"),
        }
    )


@routes.get("/v1/fleet", summary="Look at the workers")
async def fleet(
    request: Request, since: Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False)] = 0.0
) -> Response:
    """The workers, the mean time of their steps, their batch sizes over time, the queues, and the
    last half hour.

    With `since`, the `at_s` of an answer before, of all that lies in the past only what is newer,
    and a little that the answer before had too: an entry is identified by its own `at_s`.
    """
    gateway = gateway_of(request)
    return as_json(await in_thread(_fleet, gateway.client, gateway.history, since))


def _fleet(client: Client, history: History, since_s: float) -> dict[str, Any]:
    snapshot = client.store.snapshot()  # its clock is read first: the next answer misses nothing
    workers, oldest_s = snapshot.workers, since_s - SKEW_S
    limits = {
        w.id: [limit for limit in client.fleet.limits(w.id) if limit.at_s > oldest_s]
        for w in workers
    }
    counts = client.fleet.counts([w.id for w in workers])
    packs = {w.id: client.fleet.last_packs(w.id, PACKS, int(since_s * 1000)) for w in workers}
    return {
        "at_s": snapshot.at_ms / 1000,
        "workers": _as_fields(workers),
        "steps": {w.id: _mean_steps_s(counted) for w, counted in zip(workers, counts, strict=True)},
        "limits": {worker: _as_fields(entries) for worker, entries in limits.items()},
        "packs": {worker: _as_fields(entries) for worker, entries in packs.items()},
        "queues": [
            {"model": queue.model, "priority": priority.value, "depth": depth}
            for queue in snapshot.queues
            for priority, depth in queue.waiting.items()
        ],
        "history": history.samples(oldest_s),
    }


def _mean_steps_s(counts: Counts) -> dict[str, float]:
    """The mean time of each step that a worker took since its start, in the order of the work."""
    samples = {labels[0]: value for labels, value in counts.get(STAGES.name, {}).items()}
    return {
        stage: value[-1] / sum(value[:-1])
        for (stage,) in STAGES.all_labels
        if isinstance(value := samples.get(stage), list) and sum(value[:-1]) > 0
    }


def _as_fields(records: Iterable[Any]) -> list[dict[str, Any]]:
    """Models and dataclasses as JSON objects."""
    return cast("list[dict[str, Any]]", to_jsonable_python(list(records)))


# ---- health -------------------------------------------------------------------------------------


@routes.get("/health/live", summary="Whether this process lives")
async def live() -> Response:
    """Always, when it answers."""
    return as_json({"status": "ok"})


_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Redis or workers are missing"}}


@routes.get("/health", include_in_schema=False)
@routes.get("/health/ready", summary="Whether requests can be served", responses=_NOT_READY)
async def ready(request: Request) -> Response:
    """Redis answers, and at least one worker has loaded its model. Also at `/health`, where clients
    of other servers look."""
    try:
        workers = await in_thread(gateway_of(request).client.workers)
    except (Unavailable, *REDIS_ERRORS):
        return as_json({"redis": False, "workers": 0}, 503)
    count = sum(worker.state == "ready" for worker in workers)
    return as_json({"redis": True, "workers": count}, 200 if count else 503)


# ---- version and information, as other servers give it -------------------------------------------


@routes.get("/version", summary="This software's version: vLLM's route")
async def version() -> Response:
    """As vLLM answers it."""
    return as_json({"version": __version__})


@routes.get("/info", summary="The models by name, and the limits: TEI's route")
async def info(request: Request) -> Response:
    """As text-embeddings-inference answers it. What is not the same for all that is served is null:
    `model_id` where several models are."""
    gateway = gateway_of(request)
    workers = await in_thread(gateway.client.workers)
    return as_json(_info(workers, gateway.client.settings))


def _info(workers: Sequence[WorkerRow], settings: Settings) -> dict[str, Any]:
    loaded = [worker for worker in workers if worker.batch_tokens]
    model = _only({worker.model for worker in workers})
    dtype = _only({worker.dtype for worker in loaded}) if model else None
    return {
        "model_id": model,
        "models": sorted({worker.model for worker in workers}),
        "model_sha": _only({worker.revision for worker in loaded}) if model else None,
        "model_dtype": TEI_DTYPES.get(dtype or "", dtype),
        "model_type": {"reranker": {"id2label": {"0": LABEL}, "label2id": {LABEL: 0}}},
        "max_concurrent_requests": settings.gateway_requests_max,
        "max_input_length": PLAIN_OPTIONS.max_length,
        "max_batch_tokens": min((worker.batch_tokens for worker in loaded), default=None),
        "max_batch_requests": None,
        "max_client_batch_size": settings.max_documents_per_request,
        "auto_truncate": True,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def _only(values: Collection[str]) -> str | None:
    """The one value that there is, or None."""
    (first, *others) = values or ("",)
    return first if first and not others else None


LABEL = "relevant"
"""What a score is the probability of."""
TEI_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Our names of number types -> those of TEI."""
