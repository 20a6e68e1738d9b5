"""The options of scoring as parameters of a command, made from `ScoringOptions`.

    @app.command()
    @with_scoring_options()
    def submit(input: str, **options: Any) -> None: ...

The command has a parameter for each option, and gets those that were given as `options`. Values are
checked where they are used, by the model.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import typer

from rerankfleet.shared.content.option_fields import OptionField, option_fields
from rerankfleet.shared.errors import UsageError
from rerankfleet.shared.profiles import PROFILES

ProfileOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"values for the options that are not given: {', '.join(PROFILES)}, or one of your "
        "own; `rerank profiles` shows them",
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace an output that exists")]

_FLAGS = {
    "instructions": "--instruction-for",
    "adaptive_temperature": "--adaptive-temperature/--fixed-temperature",
}
"""Flags that are not spelled as their option."""
_METAVARS = {"object": "LANG=TEXT", "array": "R G B"}
_TYPES: Mapping[str, Any] = {
    "integer": int,
    "number": float,
    "string": str,
    "boolean": bool,
    "array": tuple[int, int, int],
    "object": list[str],
}
"""Of parameters, by the option's type in JSON."""
METAVAR_MAX = 25
"""Characters of choices that still fit into the column of types."""

Command = Callable[..., None]


def with_scoring_options(without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Give a command a parameter for each option, in the place of its `**options`."""
    fields = [field for field in option_fields() if field.name not in without]
    parameters = [_parameter(field) for field in fields]
    by_language = {field.name for field in fields if field.kind == "object"}

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            arguments = {name: value for name, value in values.items() if value is not None}
            for name in by_language & arguments.keys():
                arguments[name] = _by_language(arguments[name])
            command(**arguments)

        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        named = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*named, *parameters]
        )
        return run

    return decorate


def flag_of(field: OptionField) -> str:
    """The flag of an option: two for one that is on or off."""
    dashed = field.name.replace("_", "-")
    plain = f"--{dashed}/--no-{dashed}" if field.kind == "boolean" else f"--{dashed}"
    return _FLAGS.get(field.name, plain)


def _parameter(field: OptionField) -> inspect.Parameter:
    choices = "|".join(field.choices)
    fits = len(choices) <= METAVAR_MAX
    values = field.bounds or ("" if fits else ", ".join(field.choices))
    option = typer.Option(
        flag_of(field),
        help=f"{field.description} ({values})" if values else field.description,
        metavar=(choices if fits else "NAME") if choices else _METAVARS.get(field.kind),
        show_default=field.shown_default or False,
        rich_help_panel=field.panel,
    )
    parameter_type: Any = _TYPES[field.kind] | None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[parameter_type, option],
    )


def _by_language(texts: Sequence[str]) -> dict[str, str]:
    """The values of --instruction-for as a mapping."""
    instructions = {}
    for text in texts:
        code, equals, instruction = text.partition("=")
        if not equals:
            raise UsageError(
                f"--instruction-for {text!r} names no language",
                hint='write --instruction-for de="…"',
            )
        instructions[code.strip()] = instruction.strip()
    return instructions
