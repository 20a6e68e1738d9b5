"""The sub-commands that score: `rerank worker` and `rerank score`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankfleet.shared.cli import outcome_code
from rerankfleet.shared.command_help import FILES, FLEET, SCORES, below
from rerankfleet.shared.command_options import ForceOption, ProfileOption, with_scoring_options
from rerankfleet.shared.shown import clean_lines, one_line, tell

if TYPE_CHECKING:
    from rerankfleet.shared.settings import Settings
    from rerankfleet.workers.diagnostics.checks import Check

InputArgument = Annotated[
    str, typer.Argument(help="JSON Lines, also gzip; a path, - for stdin, file:// or s3://")
]
OutputOption = Annotated[str, typer.Option("--output", "-o", help="where the ranked lines go")]
ModelOption = Annotated[
    str, typer.Option("--model", help="a model folder, a hub name, or pocket-text")
]
RevisionOption = Annotated[
    str | None, typer.Option(help="commit, branch or tag of a model from the hub")
]


def commands(app: typer.Typer) -> None:
    """Add the sub-commands."""
    app.command(epilog=below(*FLEET, *FILES, "allowed_hosts", "device", "dtype", "batch_tokens"))(
        worker
    )
    app.command(epilog=below(*FILES, "allowed_hosts", "device", "dtype", codes=SCORES))(score)
    app.command(epilog=below(*FLEET, *FILES, "device", "dtype"))(doctor)


def worker(
    model: ModelOption,
    gpus_per_worker: Annotated[
        int | None, typer.Option(min=1, help="GPUs that one copy of the model is spread over")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="whose pairs a pack starts with, see `rerank profiles`"),
    ] = None,
    revision: RevisionOption = None,
) -> None:
    """Serve a model: one process per GPU, or one on the CPU.

    Example: rerank worker --model Qwen/Qwen3-Reranker-0.6B
    """
    from rerankfleet.shared.settings import load_settings
    from rerankfleet.shared.state.connection import connect
    from rerankfleet.workers.engine import resolve_model
    from rerankfleet.workers.launcher import launch

    given = {"gpus_per_worker": gpus_per_worker, "revision": revision}
    overrides = {name: value for name, value in given.items() if value}
    settings = starting_at(profile, load_settings(**overrides))
    connect(settings).close()
    resolve_model(model, settings.revision)
    launch(settings, model)


def starting_at(profile: str | None, settings: Settings) -> Settings:
    """The settings with a profile's number of pairs, unless they set one themselves, or the
    worker's policy limits packs by tokens.

    A profile's other options have no effect here: packs mix the pairs of all jobs. Raises
    UsageError for an unknown profile.
    """
    from rerankfleet.shared.profiles import find_profile

    pairs = find_profile(profile, settings.profiles).batch_pairs if profile else None
    steers_pairs = settings.batch_policy in ("thresholds", "fixed")
    if pairs is None or not steers_pairs or "batch_pairs" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"batch_pairs": pairs})


# what cannot be fetched is an outcome of its own, and no profile's temperature is changed
@with_scoring_options(without={"adaptive_temperature", "max_error_rate"})
def score(
    input: InputArgument,
    output: OutputOption,
    model: ModelOption,
    profile: ProfileOption = None,
    revision: RevisionOption = None,
    force: ForceOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
    **options: Any,
) -> None:
    """Score a file in this process, without a queue.

    Example: rerank score pairs.jsonl -o ranked.jsonl --model Qwen/Qwen3-Reranker-0.6B
    """
    from rerankfleet.shared.job_spec import InputRef, make_spec
    from rerankfleet.shared.model_names import canonical_model
    from rerankfleet.shared.profiles import resolve
    from rerankfleet.shared.settings import load_settings
    from rerankfleet.workers.engine import resolve_model
    from rerankfleet.workers.offline import score_file

    settings = load_settings(**({"revision": revision} if revision else {}))
    spec = make_spec(
        model=canonical_model(model),
        input=InputRef(uri=input, size=0, tag=""),
        **resolve(profile, options, settings.profiles),
    )
    resolve_model(model, settings.revision)
    with ExitStack() as stack:
        manifest = score_file(
            input, output, spec, settings, force=force, on_progress=_progress(stack)
        )
    if as_json:
        sys.stdout.write(manifest.model_dump_json() + "\n")
    else:
        rejected = f"{manifest.rejected} rejected, " if manifest.rejected else ""
        bad = f" ({manifest.bad_lines} of them bad lines)" if manifest.bad_lines else ""
        tell(
            f"{manifest.scored} pairs scored, {rejected}{manifest.errors} errors{bad}, "
            f"{manifest.seconds:.1f} s, {manifest.pairs_per_s:.0f} pairs/s -> {output}"
        )
    unscored = manifest.errors + manifest.rejected
    raise typer.Exit(outcome_code(scored=manifest.scored, unscored=unscored))


def _progress(stack: ExitStack) -> Callable[[int, int], None]:
    """A progress line on stderr when it is a terminal."""
    if not sys.stderr.isatty():
        return lambda pairs, errors: None
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,} pairs · {task.fields[errors]} errors · {task.fields[rate]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    stack.enter_context(bar)
    task = bar.add_task("", total=None, errors=0, rate="loading the model")

    def show(pairs: int, errors: int) -> None:
        speed = bar.tasks[0].speed or 0
        bar.update(task, completed=pairs, errors=errors, rate=f"{speed:,.0f} pairs/s")

    return show


MARKS = {"ok": "[green]✓[/]", "broken": "[red]✗[/]", "warning": "[yellow]![/]"}


def doctor(
    model: Annotated[
        str | None, typer.Option(help="also look at a model folder, hub name or pocket model")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Look at this machine, the fleet and a model, and say what helps. Exit code 1 if anything is
    broken.

    Example: rerank doctor --model Qwen/Qwen3-Reranker-0.6B
    """
    from rerankfleet.workers.diagnostics.doctor import examine

    checks = examine(model)
    if as_json:
        sys.stdout.write(json.dumps([check.model_dump(by_alias=True) for check in checks]) + "\n")
    else:
        _print_checks(checks)
    if any(check.verdict == "broken" for check in checks):
        raise typer.Exit(1)


def _print_checks(checks: Sequence[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    for check in checks:
        fact = Text(clean_lines(check.fact))
        table.add_row(MARKS[check.verdict], Text(one_line(check.name)), fact)
        if check.remedy:
            table.add_row("", "", Text(f"→ {clean_lines(check.remedy)}", "dim"))
    Console(highlight=False).print(table)
