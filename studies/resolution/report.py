"""The study as a page: configuration, plot, a table per category, caveats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from rerankfleet.shared.content.images import MAX_PIXELS, SIDE_PX
from rerankfleet.shared.content.outcomes import Provenance
from rerankfleet.studies.resolution.inputs import Skipped
from rerankfleet.studies.resolution.plan import Plan, pixels, size_name
from rerankfleet.studies.resolution.table import ALL, DRAWS, LEVEL, Line

SCORES, TABLE, PLOT, REPORT, RUN = (
    "scores.parquet",
    "table.csv",
    "plot.png",
    "report.md",
    "run.json",
)
SKIPPED_SHOWN = 20
HEADER = (
    "size",
    "visual tokens",
    f"mean margin [{LEVEL:.0%}]",
    f"change to the reference [{LEVEL:.0%}]",
    "mean score",
    "noise (worst)",
    "τ-b",
    "top-1 flips",
    "images/s",
    "smaller",
    "unchanged",
)


class RunFacts(BaseModel):
    """The configuration of a study, as in `run.json`."""

    model_config = ConfigDict(frozen=True)

    provenance: Provenance
    device_name: str
    plan: Plan
    instruction: str
    pack_tokens: int
    """Limit of a pack, in token-equivalents."""
    images: int
    queries: int
    skipped: list[Skipped]
    versions: dict[str, str]
    started: str
    """UTC."""
    seconds: float


def write_report(facts: RunFacts, lines: Sequence[Line], folder: Path) -> None:
    """Write `report.md` into the folder, with links to the files beside it."""
    parts = [*_head(facts), *_reading(facts, lines), *_tables(facts, lines), *_skipped(facts)]
    (folder / REPORT).write_text("\n".join([*parts, *_files()]) + "\n", "utf-8")


def _head(facts: RunFacts) -> Iterator[str]:
    plan, provenance = facts.plan, facts.provenance
    yield f"# Resolution study: {provenance.model}\n"
    yield (
        f"{facts.images} images × {facts.queries} queries × {len(plan.sizes)} sizes × "
        f"{len(plan.interpolations)} interpolations ({', '.join(plan.interpolations)}) × "
        f"{plan.repeats} repeats, in {facts.seconds:,.0f} s on {facts.device_name} "
        f"({provenance.dtype}, attention {provenance.attention}), begun {facts.started}. "
        f"Reference: {_name(plan)}.\n"
    )
    yield f"![margin, rank stability and speed over the size]({PLOT})\n"


def _reading(facts: RunFacts, lines: Sequence[Line]) -> Iterator[str]:
    plan = facts.plan
    yield "## How to read it\n"
    yield (
        "- **A higher mean score does not mean better.** It says that the model says yes more "
        "often, to what fits and to what does not. What counts is the order: τ-b and top-1 flips "
        "say how far it differs from the reference's, not which of the two is right. That takes "
        "labels."
    )
    lifted = [size_name(size) for size in plan.sizes if pixels(size) > MAX_PIXELS]
    if lifted:
        yield (
            f"- **The model's pixel cap of {MAX_PIXELS:,} is lifted here**, else the sizes above "
            f"it ({', '.join(lifted)}) would be the same image. The model was not made for "
            "them, and jobs do not use them."
        )
    yield from _enlarged(plan, lines)
    yield (
        f"- Sides are multiples of {SIDE_PX}; images are cropped (by at most 15 %, else fitted), "
        "turned for portraits and blurred by σ 0.3 as in the preset `general`."
    )
    yield (
        "- Noise: the same pairs in other packs, standard deviation over repeats (worst: the "
        "largest difference of any pair). Smaller differences of a pair mean nothing. 0 where a "
        "pack holds one pair: there are no neighbours."
        if plan.repeats > 1
        else "- One repeat: the noise floor is not known."
    )
    yield (
        f"- Intervals: bootstrap over images and queries ({DRAWS:,} draws), {LEVEL:.0%}. "
        "That of the change compares the same pairs, so it is the one to look at."
    )
    yield (
        f"- images/s: an image prepared, seen by the vision tower once and scored against "
        f"{facts.queries} queries; packs of one size, at most {facts.pack_tokens:,} tokens each.\n"
    )


def _enlarged(plan: Plan, lines: Sequence[Line]) -> Iterator[str]:
    """How many images are the same at a size as at a smaller one."""
    first = [s for s in lines if (s.category, s.interpolation) == (ALL, plan.interpolations[0])]
    counts = [f"{s.smaller} of {s.images} at {s.size} ({s.unchanged})" for s in first if s.smaller]
    if counts:
        yield (
            "- **Small images are not enlarged**, beyond rounding. Images that have fewer pixels "
            "than a size (in brackets: the same image as at the next smaller size): "
            f"{', '.join(counts)}. All others really changed with the size."
        )
    else:
        yield "- No image is smaller than any of the sizes: each really changed with the size."


def _tables(facts: RunFacts, lines: Sequence[Line]) -> Iterator[str]:
    groups = dict.fromkeys((line.category, line.interpolation) for line in lines)
    for category, interpolation in groups:
        chosen = [s for s in lines if (s.category, s.interpolation) == (category, interpolation)]
        n = f"{chosen[0].images} images × {chosen[0].queries} queries"
        yield f"## {category}, {interpolation} (n = {n})\n"
        yield f"| {' | '.join(HEADER)} |"
        yield f"|{'---|' * len(HEADER)}"
        yield from (f"| {' | '.join(_cells(line, facts.plan))} |" for line in chosen)
        yield ""


def _cells(line: Line, plan: Plan) -> tuple[str, ...]:
    is_reference = (line.size, line.interpolation) == (
        size_name(plan.reference_size),
        plan.interpolations[0],
    )
    size = line.size.replace("x", "×")
    undefined = "" if line.tau_queries == line.queries else f" ({line.tau_queries} queries)"
    return (
        f"**{size}**" if is_reference else size,
        f"{line.visual_tokens:,.0f}",
        f"{line.margin:.3f}{_between(line.margin_low, line.margin_high)}",
        "–"
        if is_reference
        else f"{line.change:+.3f}{_between(line.change_low, line.change_high, '+')}",
        f"{line.score:.3f}",
        "n/a" if line.noise is None else f"{line.noise:.1e} ({line.noise_max:.1e})",
        "n/a" if line.tau_b is None else f"{line.tau_b:.3f}{undefined}",
        f"{line.top1_flips:.0%}",
        f"{line.images_per_s:.2f}",
        str(line.smaller),
        str(line.unchanged),
    )


def _between(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None:
        return ""
    return f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def _skipped(facts: RunFacts) -> Iterator[str]:
    if not facts.skipped:
        return
    yield f"## Left out: {len(facts.skipped)} images\n"
    for one in facts.skipped[:SKIPPED_SHOWN]:
        yield f"- `{one.image}`: {one.message} ({one.code})"
    if len(facts.skipped) > SKIPPED_SHOWN:
        yield f"- and {len(facts.skipped) - SKIPPED_SHOWN} more, in [{RUN}]({RUN})"
    yield ""


def _files() -> Iterator[str]:
    yield "## Files\n"
    yield f"- [{SCORES}]({SCORES}): every score, a row per image, query, cell and repeat"
    yield f"- [{TABLE}]({TABLE}): the tables above, unrounded"
    yield f"- [{PLOT}]({PLOT}): the curves"
    yield f"- [{RUN}]({RUN}): model, revision, options, seed, versions, images left out"


def _name(plan: Plan) -> str:
    return f"{size_name(plan.reference_size)} {plan.interpolations[0]}"
