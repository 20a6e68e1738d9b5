"""The sub-commands of `rerank study`."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankfleet.shared.cli import PARTIAL
from rerankfleet.shared.command_help import SCORES, below
from rerankfleet.shared.errors import UsageError

if TYPE_CHECKING:
    from rerankfleet.studies.resolution.plan import Plan

ImagesArgument = Annotated[
    Path | None,
    typer.Argument(
        help="a folder, or a listing: a path or URI a line, or CSV with the columns image and "
        "perhaps category",
        show_default=False,
    ),
]
QueriesOption = Annotated[Path | None, typer.Option(help="a file with one query a line")]
ModelOption = Annotated[
    str | None, typer.Option(help="a Qwen3-VL reranker: a model folder or a hub name")
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="folder of the scores, table and report")
]
CategoriesOption = Annotated[
    Path | None, typer.Option(help="CSV with the columns image and category")
]
SizesOption = Annotated[
    str, typer.Option(help="width x height, comma-separated; the seven of the study")
]
ReferenceOption = Annotated[str, typer.Option(help="the size that orders are compared with")]
InterpolationOption = Annotated[
    str, typer.Option(help="nearest, bilinear, bicubic, lanczos; comma-separated")
]
RepeatsOption = Annotated[
    int, typer.Option(help="in different packs: how far they differ is noise")
]
InstructionOption = Annotated[str | None, typer.Option(help="the task; English is best")]
SeedOption = Annotated[int, typer.Option(help="of the order in which pairs are packed")]
ExampleOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="only draw images with queries to try it on, into DIR"),
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace a study that exists")]

NEEDED = ("matplotlib", "pyarrow", "scipy", "torch")


def commands(app: typer.Typer) -> None:
    """Add the sub-commands."""
    study = typer.Typer(no_args_is_help=True)
    study.callback()(_study)
    study.command(epilog=below("device", "dtype", codes=SCORES))(resolution)
    app.add_typer(study, name="study")


def _study() -> None:
    """Study what affects reranking, with your own model and data.

    Example: rerank study resolution images/ --queries queries.txt --model M -o study
    """


def resolution(
    images: ImagesArgument = None,
    queries: QueriesOption = None,
    model: ModelOption = None,
    output: OutputOption = None,
    categories: CategoriesOption = None,
    sizes: SizesOption = "320x240,640x480,800x600,1024x768,1280x960,1600x1200,2048x1536",
    reference: ReferenceOption = "1024x768",
    interpolation: InterpolationOption = "bicubic",
    repeats: RepeatsOption = 3,
    instruction: InstructionOption = None,
    seed: SeedOption = 0,
    example: ExampleOption = None,
    force: ForceOption = False,
) -> None:
    """How margins, ranks and speed depend on image size: a table, a plot, all scores.

    Example: rerank study resolution images/ --queries queries.txt --model M -o study
    """
    if example is not None:
        _write_example(example)
        return
    if images is None or queries is None or model is None or output is None:
        raise UsageError(
            "the study needs IMAGES, --queries, --model and -o",
            hint="or --example DIR, to draw images to try it on",
        )
    from rerankfleet.shared.settings import load_settings
    from rerankfleet.studies.resolution.inputs import read_images, read_queries
    from rerankfleet.workers.engine import resolve_model

    plan = _plan(sizes, interpolation, repeats, reference, seed)
    listed, search = read_images(images, categories), read_queries(queries)
    _refuse_without_libraries()
    resolve_model(model)
    from rerankfleet.studies.resolution.study import study_resolution

    facts = study_resolution(
        listed,
        search,
        output,
        model=model,
        base=(images if images.is_dir() else images.parent).resolve(),
        plan=plan,
        settings=load_settings(),
        instruction=instruction,
        force=force,
    )
    sys.stderr.write(
        f"{facts.images} images × {facts.queries} queries, {len(facts.skipped)} images left out, "
        f"{facts.seconds:.1f} s -> {output / 'report.md'}\n"
    )
    if facts.skipped:
        raise typer.Exit(PARTIAL)


def _plan(sizes: str, interpolations: str, repeats: int, reference: str, seed: int) -> Plan:
    from rerankfleet.studies.resolution.plan import Plan, parse_interpolations, parse_size

    return Plan(
        sizes=tuple(parse_size(size) for size in sizes.split(",")),
        interpolations=parse_interpolations(interpolations),
        repeats=repeats,
        reference_size=parse_size(reference),
        seed=seed,
    )


def _write_example(folder: Path) -> None:
    from rerankfleet.studies.resolution.example import write_example

    listing = write_example(folder)
    sys.stderr.write(
        f"drawn; now: rerank study resolution {listing} --queries {folder / 'queries.txt'} "
        "--model M -o study\n"
    )


def _refuse_without_libraries() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the study needs {', '.join(missing)}",
            hint="pip install 'rerankfleet[worker,study]'",
        )
