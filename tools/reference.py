"""Write the reference pages, docs/options.md and docs/settings.md, from what the code declares.

    python tools/reference.py

A test checks that they are up to date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rerankfleet.producer.gateway.errors import FIELDS_OF_OPTIONS, as_param
from rerankfleet.shared.command_options import flag_of
from rerankfleet.shared.content.option_fields import bounds_of, option_fields, without_null
from rerankfleet.shared.content.options import OF_JOBS
from rerankfleet.shared.profiles import ProfileOptions
from rerankfleet.shared.settings import SECTIONS, Settings

DOCS = Path(__file__).parent.parent / "docs"

OPTIONS = """\
# Options of scoring

<!-- Made by `make docs` from shared/content/options.py -->

Every option has one meaning wherever it is given: on the command line (`rerank submit`,
`query`, `score`), in Python (`Client.submit`, `Client.rerank`, `Reranker`), over
[HTTP](http.md) (`/v1/rerank`, `/v1/score`, `/v1/jobs`) and in a [profile](profiles.md). An
option that is not given, or `null`, has the value of the job's profile, or else its default. In
a [line of input](jobs.md#input) a request may bring its own `instruction` and `top_n`, which
take precedence over the job's.

Not in a profile: {not_in_profiles}. Only for jobs: {of_jobs}.
"""

SETTINGS = """\
# Settings

<!-- Made by `make docs` from shared/settings.py -->

Environment variables with the prefix `RERANK_`, read once when a process starts. Times are in
seconds (`_S`) or milliseconds (`_MS`), sizes in bytes. An empty variable is not set.
"""


def options_page() -> str:
    """docs/options.md: a table per group of options."""
    fields = list(option_fields())
    outside = [field.name for field in fields if field.name not in ProfileOptions.model_fields]
    lines = [OPTIONS.format(not_in_profiles=_names(outside), of_jobs=_names(sorted(OF_JOBS)))]
    for panel in dict.fromkeys(field.panel for field in fields):
        rows = [
            (
                f"`{field.name}`",
                _code(flag_of(field)),
                _code(as_param(FIELDS_OF_OPTIONS.get(field.name, (field.name,)))),
                ", ".join(map(_code, field.choices)) or field.bounds,
                field.shown_default,
                field.description,
            )
            for field in fields
            if field.panel == panel
        ]
        titles = ("option", "command line", "HTTP", "values", "default", "meaning")
        lines += [f"## {panel}\n", *_table(titles, rows), ""]
    return "\n".join(lines)


def settings_page() -> str:
    """docs/settings.md: a table per section of settings."""
    properties = Settings.model_json_schema()["properties"]
    lines = [SETTINGS]
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            titles = ("variable", "default", "values", "meaning")
            lines += ["", f"## {SECTIONS[name]}\n", *_table(titles, [])]
        schema = without_null(properties[name])
        values = ", ".join(map(_code, schema.get("enum", ()))) or bounds_of(schema)
        row = (f"`RERANK_{name.upper()}`", _default(name), values, field.description or "")
        lines.append(_row(row))
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def _default(name: str) -> str:
    """A setting's default, as a variable would say it."""
    if name == "state_dir":
        return "`~/.local/state/rerankfleet`"
    if name == "storage":
        return "`storage` in the state folder"
    default: Any = Settings.model_fields[name].default
    if default is None or default == ():
        return "–"
    if isinstance(default, bool):
        return str(default).lower()
    plain = f"{default:g}" if isinstance(default, float) and default < 1e6 else str(default)
    return f"{plain} ({default >> 20:,} MiB)" if "bytes" in name else plain


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    titles = list(titles)
    yield _row(titles)
    yield "|" + "---|" * len(titles)
    yield from map(_row, rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


PAGES = {"options.md": options_page, "settings.md": settings_page}


def main() -> None:
    """Write both pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
