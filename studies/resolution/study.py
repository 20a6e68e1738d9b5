"""The study from beginning to end: run, data, table, plot, report."""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from rerankfleet.shared.errors import OutputExists, UsageError
from rerankfleet.shared.settings import Settings
from rerankfleet.studies.resolution.inputs import Listed, Skipped, hold
from rerankfleet.studies.resolution.plan import Cell, Plan, size_name
from rerankfleet.studies.resolution.plot import draw_plot
from rerankfleet.studies.resolution.report import PLOT, RUN, SCORES, TABLE, RunFacts, write_report
from rerankfleet.studies.resolution.run import Run
from rerankfleet.studies.resolution.table import read_scores, summarize, write_table
from rerankfleet.workers.batching.packing import Limit
from rerankfleet.workers.engine import load_engine
from rerankfleet.workers.engine.engine import Engine

VERSIONS_OF = ("rerankfleet", "torch", "transformers", "pillow", "numpy", "scipy")

log = structlog.get_logger()


def study_resolution(
    images: list[Listed],
    queries: list[str],
    folder: Path,
    *,
    model: str,
    base: Path,
    plan: Plan,
    settings: Settings,
    instruction: str | None = None,
    force: bool = False,
) -> RunFacts:
    """Run the study into `folder`; `base` is where relative paths of images start.

    Raises OutputExists when a study exists and not `force`, UsageError for a text-only model, a
    size that cannot be scored, or when none of the images can be used.
    """
    if not force and (folder / SCORES).exists():
        raise OutputExists(f"{folder} holds a study already", hint="use --force to replace it")
    started, start_s = datetime.now(UTC), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rerank-study-") as kept:
        held, skipped = hold(images, base, settings, Path(kept), next(plan.cells()))
        for one in skipped:
            log.warning("image left out", image=one.image, code=one.code, message=one.message)
        engine = _load(model, settings)
        limit = Limit(
            settings.batch_tokens or engine.self_test().limit.tokens, settings.batch_pairs
        )
        run = Run(engine, limit, plan, queries, instruction)
        run.write(held, folder / SCORES, _report_cell)
    scores, not_finite = read_scores(folder / SCORES).finite()
    skipped += [
        Skipped(name, "not_finite", "the model gave no finite margin for one of its pairs")
        for name in not_finite
    ]
    if not scores.images:
        raise UsageError(
            "the model gave no finite margin for any of the images",
            hint="try another number type with RERANK_DTYPE",
        )
    lines = summarize(scores, plan.reference)
    write_table(lines, folder / TABLE)
    draw_plot(lines, folder / PLOT)
    facts = RunFacts(
        provenance=engine.provenance,
        device_name=engine.device_name,
        plan=plan,
        instruction=engine.prompter.default_instruction if instruction is None else instruction,
        pack_tokens=limit.tokens,
        images=len(scores.images),
        queries=len(queries),
        skipped=skipped,
        versions={name: version(name) for name in VERSIONS_OF},
        started=f"{started:%Y-%m-%d %H:%M}",
        seconds=round(time.monotonic() - start_s, 1),
    )
    (folder / RUN).write_text(facts.model_dump_json(indent=2) + "\n", "utf-8")
    write_report(facts, lines, folder)
    return facts


def _load(model: str, settings: Settings) -> Engine:
    engine = load_engine(model, **settings.engine_options)
    if not engine.supports_images:
        raise UsageError(f"{model} reads text only", hint="use a Qwen3-VL reranker")
    return engine


def _report_cell(cell: Cell, repeat: int, images_per_s: float) -> None:
    log.info(
        "scored",
        size=size_name(cell.size),
        interpolation=cell.interpolation,
        repeat=repeat + 1,
        images_per_s=round(images_per_s, 2),
    )
